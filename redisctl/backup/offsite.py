"""Copies of backups off the host, by restic: one restic snapshot for each backup.

Restic encrypts them on this host. Restic snapshots have the names of the instance and of the backup as tags. Other
contents of the repository are left alone. Password and credentials are files that only root can read; a deploy writes
them, and restic gets their paths.
"""

import contextlib
import json
import re
import shlex
import socket
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from redisctl import paths
from redisctl.backup import catalog
from redisctl.core import process
from redisctl.core.errors import Failure
from redisctl.core.files import ensure_space, fsync_directory
from redisctl.core.formatting import size as format_size
from redisctl.core.instance import Instance
from redisctl.core.untrusted_files import remove_tree

# Seconds for commands that move little data, and the bytes a second of a slow but usable line (10 Mbit/s).
RESTIC_TIMEOUT, MIN_BYTES_PER_SECOND = 900, 1024**2
_DAY = 86400
# Bytes of the end of restic's output that have its last status.
_MAX_STATUS = 64 * 1024
# Characters of SSH's messages, which quote the other server.
_MAX_SSH_LOG = 64 * 1024
# restic's exit code if there is no repository (since 0.17), and the error of older versions.
_NO_REPOSITORY = 10
_IS_MISSING = re.compile(r"unable to open config file: .*(does not exist|doesn't exist|no such file|404)")
# Files below secrets/repository, and the options and variables that pass their paths to restic.
_OPTIONS = {"ca_certificate": "--cacert", "client_certificate": "--tls-client-cert"}
_VARIABLES = {
    "aws_credentials": "AWS_SHARED_CREDENTIALS_FILE",
    "google_credentials": "GOOGLE_APPLICATION_CREDENTIALS",
}
# The two forms of an SFTP repository; the second one can have a port.
_SFTP = (
    re.compile(r"sftp:(?P<login>[^/:]+):.+"),
    re.compile(r"sftp://(?P<login>([^/@]*@)?(\[[^]]*\]|[^/:]+))(:(?P<port>\d+))?/.+"),
)


@dataclass(frozen=True)
class Copy:
    """A copy of a backup off the host.

    ``id`` is the backup's name, ``host`` its host, ``restic_id`` the id of the restic snapshot.
    """

    id: str
    host: str
    restic_id: str


@dataclass(frozen=True)
class CommandResult:
    """The exit code of restic, its output, and its error message."""

    code: int
    output: str
    message: str


def push(instance: Instance, directory: Path) -> None:
    """Copy a backup to the repository, and prune the copies there.

    The retention settings decide which copies stay. Creates the repository if it never existed. Removes stale locks of
    interrupted copies, and no others. Raises Failure.
    """
    _open(instance)
    _restic(instance, "unlock")
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    time = datetime.strptime(directory.name, "%Y%m%dT%H%M%SZ").strftime("%Y-%m-%d %H:%M:%S")
    tags = ("--host", socket.gethostname(), "--tag", instance.name)
    # The relative name, so that the copy contains this directory and not its parents.
    _restic(
        instance,
        *("backup", *tags, "--tag", directory.name, "--time", time, directory.name),
        cwd=directory.parent,
        timeout=RESTIC_TIMEOUT + size // MIN_BYTES_PER_SECOND,
    )
    keep = [
        word for period, count in instance.backup.keep.items() if count for word in (f"--keep-{period}", str(count))
    ]
    # Every restic snapshot has another directory: all of this instance on this host have to form one group.
    _restic(
        instance,
        *("forget", *tags, "--group-by", "host", *keep, "--prune"),
        timeout=RESTIC_TIMEOUT + 4 * size // MIN_BYTES_PER_SECOND,
    )


def list_copies(instance: Instance) -> list[Copy]:
    """Return the copies of this instance's backups, newest first.

    These are all copies in the repository, of all hosts. Raises Failure.
    """
    result = _restic(instance, "snapshots", "--tag", instance.name, "--no-lock")
    return parse_copies(json.loads(result.output or "[]"), instance.name)


def parse_copies(snapshots: list[dict[str, Any]] | None, name: str) -> list[Copy]:
    """Parse restic's list into the copies of an instance, newest first.

    Each backup of a host is listed once.
    """
    copies = {}
    for snapshot in snapshots or []:
        tags = snapshot.get("tags") or []
        for tag in filter(catalog.NAME.fullmatch, tags):
            if name in tags:
                copies[tag, snapshot["hostname"]] = Copy(tag, snapshot["hostname"], snapshot["id"])
    return sorted(copies.values(), key=lambda copy: (copy.id, copy.host), reverse=True)


def fetch(instance: Instance, name: str, host: str = "") -> Path:
    """Fetch a copy into the instance's backups, and return its directory.

    The directory is complete, or there is none. Every file is compared with its checksum. ``name`` is the backup's
    name, the beginning of one, or ``latest``. ``host`` selects among several hosts. The caller holds the instance's
    lock. Raises Failure.
    """
    copy = choose_copy(list_copies(instance), name, host)
    target, partial = instance.backups / copy.id, instance.backups / f".{copy.id}.partial"
    if target.exists():
        raise Failure(f"{target} exists already: to replace it, remove it first")
    remove_tree(partial, ignore_errors=True)
    try:
        partial.mkdir(mode=0o700)
        ensure_space(partial, _size(instance, copy), f"backup {copy.id}")
        _restic(instance, "restore", copy.restic_id, "--target", str(partial), "--no-lock", timeout=_DAY)
        backup = catalog.open_backup(partial / copy.id)
        if backup.id != copy.id:
            raise Failure(f"the copy of {copy.id} is bad: it contains backup {backup.id}")
        if damage := catalog.find_damage(backup):
            raise Failure(f"the copy of {copy.id} is bad: {'; '.join(damage)}")
        catalog.own_backup(backup.path, instance.owner)
        backup.path.rename(target)
        fsync_directory(instance.backups)
    except OSError as error:
        raise Failure(f"{error.filename or instance.backups}: {error.strerror}") from None
    finally:
        remove_tree(partial, ignore_errors=True)
    return target


def _size(instance: Instance, copy: Copy) -> int:
    """Return the bytes of a copy's files. Raises Failure."""
    output = _restic(instance, "stats", "--mode", "restore-size", "--no-lock", copy.restic_id).output
    try:
        return int(json.loads(output)["total_size"])
    except (ValueError, TypeError, KeyError):
        raise Failure(f"{instance.backup.repository}: restic does not report the size of {copy.id}") from None


def choose_copy(copies: list[Copy], name: str, host: str) -> Copy:
    """Return the copy that a name and a host select.

    Raises Failure if they select none or more than one.
    """
    of_host = [copy for copy in copies if host in ("", copy.host)]
    if name != "latest":
        matches = [copy for copy in of_host if copy.id.startswith(name)]
    elif len({copy.host for copy in of_host}) > 1:
        matches = of_host
    else:
        matches = of_host[:1]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise Failure(f"no copy of {name!r}: 'redisctl backup list --offsite' lists all copies")
    names = ", ".join(f"{copy.id} of {copy.host}" for copy in matches[:5])
    raise Failure(f"{name!r} is ambiguous ({names}): give the full name, or --host")


def check(instance: Instance) -> None:
    """Have restic check the structure of the repository.

    It does not read every byte. Removes stale locks first. Raises Failure.
    """
    _open(instance, create=False)
    _restic(instance, "unlock")
    _restic(instance, "check", timeout=_DAY)


def _open(instance: Instance, *, create: bool = True) -> None:
    """Check that the repository opens; create it if it never existed. Raises Failure.

    One that existed before is not created again, because its disk may just not be mounted.
    """
    repository, marker = instance.backup.repository, _secrets(instance) / "known"
    result = _run(instance, "cat", "config", "--no-lock")
    if result.code == 0:
        _remember(marker, repository)
        return
    if not is_missing(result):
        raise _failure(instance, result)
    if marker.exists() and marker.read_text().strip() == repository:
        raise Failure(
            f"the repository {repository} is gone: is its disk not mounted, or was it removed? To create another one "
            f"there, remove {marker}"
        )
    if not create:
        raise Failure(f"there is no repository {repository} yet: redisctl backup creates it")
    _restic(instance, "init")
    _remember(marker, repository)


def is_missing(result: CommandResult) -> bool:
    """Say whether there is no repository.

    This is not so for a repository that refuses access or does not answer.
    """
    return result.code == _NO_REPOSITORY or (result.code == 1 and bool(_IS_MISSING.search(result.message)))


def _remember(marker: Path, repository: str) -> None:
    if not marker.exists() or marker.read_text().strip() != repository:
        marker.write_text(f"{repository}\n")
        marker.chmod(0o400)


def _secrets(instance: Instance) -> Path:
    return instance.root / paths.REPOSITORY_SECRETS


def _restic(
    instance: Instance, *arguments: str, cwd: Path | None = None, timeout: int = RESTIC_TIMEOUT
) -> CommandResult:
    """Run restic.

    Raises Failure if it fails, or if it could not read all files (exit code 3).
    """
    result = _run(instance, *arguments, cwd=cwd, timeout=timeout)
    if result.code != 0:
        raise _failure(instance, result)
    return result


def _failure(instance: Instance, result: CommandResult) -> Failure:
    remedy = ""
    if "wrong password" in result.message:
        remedy = (
            f". Another instance created the repository, or its password was lost: compare "
            f"{_secrets(instance)}/password with 'repository' in the secrets on the machine that deploys"
        )
    message = result.message or f"exit code {result.code}"
    return Failure(f"{instance.backup.repository}: restic reports: {message}{remedy}")


def _run(instance: Instance, *arguments: str, cwd: Path | None = None, timeout: int = RESTIC_TIMEOUT) -> CommandResult:
    repository = instance.backup.repository
    if not repository:
        raise Failure("there is no place off this host: set redis_backup_restic_repository, and deploy")
    secrets = _secrets(instance)
    files = {path.name for path in secrets.iterdir()} if secrets.is_dir() else set()
    # restic may exit before it has printed what SSH reports.
    with tempfile.NamedTemporaryFile(mode="r", prefix="redisctl-", errors="backslashreplace") as ssh_log:
        try:
            result = process.run(
                command(repository, secrets, files, *arguments, log=ssh_log.name),
                environment=environment(secrets, files),
                cwd=cwd or Path("/"),
                timeout=timeout,
                name=f"restic {arguments[0]}",
                status=restic_progress,
            )
        except process.NotInstalled:
            raise Failure("there is no restic on this host: deploy again") from None
        except Failure as error:
            raise Failure(f"{repository}: {error}") from None
        return CommandResult(
            result.returncode, result.stdout, error_summary(f"{ssh_log.read(_MAX_SSH_LOG)}{result.stderr}")
        )


def command(repository: str, secrets: Path, files: Collection[str], *arguments: str, log: str) -> list[str]:
    """Return restic's command line.

    It contains the paths of secret files, and has restic keep no cache on the host. SSH writes its messages to the file
    ``log``.
    """
    options = [word for name, option in _OPTIONS.items() if name in files for word in (option, str(secrets / name))]
    if repository.startswith("sftp:"):
        options += ["--option", f"sftp.command={sftp(repository, secrets, log)}"]
    base = ["restic", "--repo", repository, "--password-file", str(secrets / "password"), "--json", "--no-cache"]
    return [*base, *options, *arguments]


def sftp(repository: str, secrets: Path, log: str) -> str:
    """Return the SSH command for a repository.

    SSH asks nothing and trusts only the given host key. Raises Failure if the repository names no host.
    """
    match = next(filter(None, (form.fullmatch(repository) for form in _SFTP)), None)
    if not match:
        raise Failure(f"{repository} names no host for SFTP: write it like sftp:user@host:/path")
    parts = match.groupdict()
    options = {
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(secrets / "known_hosts"),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        # Notices a lost connection within a minute.
        "ConnectTimeout": "20",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
    }
    words = ["ssh", "-F", "none", "-E", log, "-i", str(secrets / "ssh_key")]
    words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    words += ["-p", parts["port"]] if parts.get("port") else []
    return shlex.join([*words, re.sub(r"[\[\]]", "", parts["login"]), "-s", "sftp"])


def environment(secrets: Path, files: Collection[str]) -> dict[str, str]:
    """Return all environment variables for restic.

    They contain the paths of secret files. Restic's clock is UTC, like the names of backups.
    """
    credentials = {variable: str(secrets / file) for file, variable in _VARIABLES.items() if file in files}
    # It reports its progress 60 times a second otherwise, which is more output than a long copy may have.
    own = {"PATH": process.ENVIRONMENT["PATH"], "TZ": "UTC", "RESTIC_PROGRESS_FPS": "0.2"}
    return {**own, **process.proxies, **credentials}


def restic_progress(output: bytearray) -> str:
    """Return how far restic has come; empty if it has not said so."""
    for line in reversed(bytes(output[-_MAX_STATUS:]).splitlines()):
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            status = json.loads(line)
            if status.get("message_type") == "status":
                done, total = status.get("bytes_done") or status.get("bytes_restored"), status.get("total_bytes")
                copied = f", {format_size(done)} of {format_size(total)}" if done and total else ""
                return f"restic: {status['percent_done']:.0%}{copied}"
    return ""


def error_summary(errors: str) -> str:
    """Return the end of restic's standard error, plain text or JSON, on one line."""
    lines = [text.strip().removeprefix("Fatal: ") for line in errors.splitlines() for text in _plain(line).splitlines()]
    return " / ".join(list(filter(None, lines))[-4:])[:1000]


def _plain(line: str) -> str:
    try:
        values = json.loads(line)
        return str(values.get("message") or values.get("error", {}).get("message") or "")
    except (ValueError, AttributeError):
        return line
