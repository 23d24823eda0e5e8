"""Copies of backups off the host, by restic, which encrypts them here: a snapshot of its own for each backup.

Snapshots have the instance's name and the backup's as tags. What others keep in the same repository is not touched.
Password and credentials are files that root alone reads, put there by a deploy; restic is told where they are.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from redisctl.backup import catalog
from redisctl.core.errors import Failure
from redisctl.core.files import fsync_directory, own
from redisctl.core.instance import Instance

# Seconds for what moves little, and bytes a second of a line that is slow and still of use (10 Mbit/s).
RESTIC_TIMEOUT, MIN_BYTES_PER_SECOND = 900, 1024**2
# restic's exit code where there is no repository (since 0.17), and what older ones say of its first file.
_NO_REPOSITORY = 10
_IS_MISSING = re.compile(r"unable to open config file: .*(does not exist|doesn't exist|no such file|404)")
# Names of files below secrets/repository: the options and variables by which restic is told of them.
_OPTIONS = {"ca_certificate": "--cacert", "client_certificate": "--tls-client-cert"}
_VARIABLES = {
    "aws_credentials": "AWS_SHARED_CREDENTIALS_FILE",
    "google_credentials": "GOOGLE_APPLICATION_CREDENTIALS",
}
# The two ways to name a place that is reached by SFTP; the second one can name a port.
_SFTP = (
    re.compile(r"sftp:(?P<who>[^/:]+):.+"),
    re.compile(r"sftp://(?P<who>([^/@]*@)?(\[[^]]*\]|[^/:]+))(:(?P<port>\d+))?/.+"),
)
# restic prunes and reads while somebody else writes; these variables alone are handed on to it.
_KEPT = ("PATH", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class Copy:
    """A copy of a backup: the backup's name, the host that it is of, and restic's name for it."""

    id: str
    host: str
    restic_id: str


@dataclass(frozen=True)
class CommandResult:
    """What restic printed, and how it ended."""

    code: int
    output: str
    message: str


def push(instance: Instance, directory: Path) -> None:
    """Copy the backup in a directory to the repository, and let go of former copies by the rules that hold here.

    Makes the repository where there was none yet. Takes away locks of copies that were cut off, and no others. Raises
    Failure, with restic's words.
    """
    _open(instance)
    _restic(instance, "unlock")
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    moment = datetime.strptime(directory.name, "%Y%m%dT%H%M%SZ").strftime("%Y-%m-%d %H:%M:%S")
    own = ("--host", socket.gethostname(), "--tag", instance.name)
    # By its relative name, so that the copy holds that directory and not the way to it.
    _restic(
        *(instance, "backup", *own, "--tag", directory.name, "--time", moment, directory.name),
        inside=directory.parent,
        patience=RESTIC_TIMEOUT + size // MIN_BYTES_PER_SECOND,
    )
    keep = [
        word for period, count in instance.backup.keep.items() if count for word in (f"--keep-{period}", str(count))
    ]
    # All snapshots of this instance on this host are one group: each has another directory.
    _restic(
        instance,
        "forget",
        *own,
        "--group-by",
        "host",
        *keep,
        "--prune",
        patience=RESTIC_TIMEOUT + 4 * size // MIN_BYTES_PER_SECOND,
    )


def list_copies(instance: Instance) -> list[Copy]:
    """The copies of this instance's backups in the repository, of any host, the newest first. Raises Failure."""
    said = _restic(instance, "snapshots", "--tag", instance.name, "--no-lock")
    return parse_copies(json.loads(said.output or "[]"), instance.name)


def parse_copies(snapshots: list[dict[str, Any]] | None, name: str) -> list[Copy]:
    """What restic lists, as copies of an instance's backups, the newest first. What was copied twice is one."""
    found = {}
    for one in snapshots or []:
        tags = one.get("tags") or []
        for tag in filter(catalog.NAME.fullmatch, tags):
            if name in tags:
                found[tag, one["hostname"]] = Copy(tag, one["hostname"], one["id"])
    return sorted(found.values(), key=lambda copy: (copy.id, copy.host), reverse=True)


def fetch(instance: Instance, name: str, host: str = "") -> Path:
    """Bring a copy back into the instance's backups, whole or not at all: every file is compared with its checksum.

    ``name`` is the backup's, its beginning, or ``latest``; ``host`` is asked for where several have one of that name.
    Held under the instance's lock. Raises Failure.
    """
    one = choose_copy(list_copies(instance), name, host)
    target, partial = instance.backups / one.id, instance.backups / f".{one.id}.partial"
    if target.exists():
        raise Failure(f"{target} is here already: remove it first, if it is to be replaced")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(mode=0o700)
        # How big it is only newer ones of restic say; a day is for the biggest.
        _restic(instance, "restore", one.restic_id, "--target", str(partial), "--no-lock", patience=86400)
        found = catalog.open_backup(partial / one.id)
        if damage := catalog.find_damage(found):
            raise Failure(f"the copy of {one.id} is bad: {'; '.join(damage)}")
        for path in (found.path, *found.path.rglob("*")):
            own(path)
            if path.is_dir():
                fsync_directory(path)
        found.path.rename(target)
        fsync_directory(instance.backups)
    except OSError as error:
        raise Failure(f"{error.filename or instance.backups}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def choose_copy(there: list[Copy], name: str, host: str) -> Copy:
    """The one copy that is meant. Raises Failure."""
    fitting = [one for one in there if host in ("", one.host)]
    meant = fitting[:1] if name == "latest" else [one for one in fitting if one.id.startswith(name)]
    if name == "latest" and len({one.host for one in fitting}) > 1:
        meant = fitting
    if len(meant) == 1:
        return meant[0]
    if not meant:
        raise Failure(f"no copy of {name!r}: redisctl backup list --offsite lists them")
    raise Failure(
        f"{name!r} may be {', '.join(f'{one.id} of {one.host}' for one in meant[:5])}: name one in full, or its --host"
    )


def check(instance: Instance) -> None:
    """Have restic look whether the repository is whole. It reads its structure, and not every byte. Raises Failure."""
    _open(instance, make=False)
    _restic(instance, "unlock")
    _restic(instance, "check", patience=86400)


def _open(instance: Instance, *, make: bool = True) -> None:
    """See that the repository opens; make it where there never was one. Raises Failure.

    One that was there before is not made anew: a disk that is not mounted looks like a new place.
    """
    note = _secrets(instance) / "known"
    said = _run(instance, "cat", "config", "--no-lock")
    if said.code == 0:
        _remember(note, instance.backup.repository)
        return
    if not is_missing(said):
        raise _failure(instance, said)
    if note.exists() and note.read_text().strip() == instance.backup.repository:
        raise Failure(
            f"{instance.backup.repository} has no repository any more: is it not mounted, or was it removed? To begin "
            f"another there, remove {note}"
        )
    if not make:
        raise Failure(f"{instance.backup.repository} has no repository yet: redisctl backup makes it")
    _restic(instance, "init")
    _remember(note, instance.backup.repository)


def is_missing(said: CommandResult) -> bool:
    """Whether there is no repository, and not one that refuses or does not answer."""
    return said.code == _NO_REPOSITORY or (said.code == 1 and bool(_IS_MISSING.search(said.message)))


def _remember(note: Path, repository: str) -> None:
    if not note.exists() or note.read_text().strip() != repository:
        note.write_text(f"{repository}\n")
        note.chmod(0o400)


def _secrets(instance: Instance) -> Path:
    return instance.root / "secrets/repository"


def _restic(
    instance: Instance, *words: str, inside: Path | None = None, patience: int = RESTIC_TIMEOUT
) -> CommandResult:
    """Run restic. Raises Failure when it does not end well."""
    said = _run(instance, *words, inside=inside, patience=patience)
    # 3: a backup without some of the files.
    if said.code != 0:
        raise _failure(instance, said)
    return said


def _failure(instance: Instance, said: CommandResult) -> Failure:
    advice = ""
    if "wrong password" in said.message:
        advice = (
            f". Another instance made the repository, or its password is lost here: {_secrets(instance) / 'password'}, "
            "and 'repository' among the secrets on the machine that deploys"
        )
    return Failure(f"{instance.backup.repository}: restic says: {said.message or f'exit code {said.code}'}{advice}")


def _run(instance: Instance, *words: str, inside: Path | None = None, patience: int = RESTIC_TIMEOUT) -> CommandResult:
    if not instance.backup.repository:
        raise Failure("there is no place off this host: set redis_backup_restic_repository, and deploy")
    secrets = _secrets(instance)
    given = {path.name for path in secrets.iterdir()} if secrets.is_dir() else set()
    # restic may end before it has shown what SSH says.
    with tempfile.NamedTemporaryFile(mode="r", prefix="redisctl-", errors="backslashreplace") as ssh_says:
        try:
            done = subprocess.run(
                command(instance.backup.repository, secrets, given, *words, log=ssh_says.name),
                env=environment(secrets, given),
                cwd=inside or "/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="backslashreplace",
                timeout=patience,
                check=False,
            )
        except FileNotFoundError:
            raise Failure("there is no restic on this host: deploy again") from None
        except subprocess.TimeoutExpired:
            raise Failure(f"{instance.backup.repository}: restic {words[0]} did not end within {patience} s") from None
        return CommandResult(done.returncode, done.stdout, error_summary(f"{ssh_says.read()}{done.stderr}"))


def command(repository: str, secrets: Path, given: Collection[str], *words: str, log: str) -> list[str]:
    """The command line of restic: paths of what is secret, and nothing secret itself. Without a cache on the host.

    What SSH says goes to the file ``log``, where it is used.
    """
    options = [word for name, option in _OPTIONS.items() if name in given for word in (option, str(secrets / name))]
    if repository.startswith("sftp:"):
        options += ["--option", f"sftp.command={sftp(repository, secrets, log)}"]
    base = ["restic", "--repo", repository, "--password-file", str(secrets / "password"), "--json", "--no-cache"]
    return [*base, *options, *words]


def sftp(repository: str, secrets: Path, log: str) -> str:
    """The SSH command that reaches a repository: nothing is asked, and only the host key that was given is trusted.

    Raises Failure.
    """
    match = next(filter(None, (form.fullmatch(repository) for form in _SFTP)), None)
    if not match:
        raise Failure(f"{repository} names no host for SFTP: sftp:user@host:/path")
    found = match.groupdict()
    options = {
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(secrets / "known_hosts"),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        # A line that is cut is noticed within a minute.
        "ConnectTimeout": "20",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
    }
    words = ["ssh", "-F", "none", "-E", log, "-i", str(secrets / "ssh_key")]
    words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    words += ["-p", found["port"]] if found.get("port") else []
    return shlex.join([*words, re.sub(r"[\[\]]", "", found["who"]), "-s", "sftp"])


def environment(secrets: Path, given: Collection[str]) -> dict[str, str]:
    """All variables that restic is given: paths of what is secret. Its clock is UTC, as the names of backups are."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "TZ": "UTC", **{name: str(secrets / file) for file, name in _VARIABLES.items() if file in given}}


def error_summary(errors: str) -> str:
    """The end of what restic says on standard error, plain or as JSON, on one line."""
    said = [
        words.strip().removeprefix("Fatal: ") for line in errors.splitlines() for words in _plain(line).splitlines()
    ]
    return " / ".join(list(filter(None, said))[-4:])[:1000]


def _plain(line: str) -> str:
    try:
        told = json.loads(line)
        return str(told.get("message") or told.get("error", {}).get("message") or "")
    except (ValueError, AttributeError):
        return line
