"""The passwords and command names of an instance, kept on the machine that deploys.

One YAML file for each host and instance, ``<redis_secrets_dir>/<host>/<redis_name>.yml``, mode 0600 in
directories of mode 0700. What is missing is generated once and then stays the same on every deploy.
"""

import fcntl
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from redoubt import access
from redoubt.settings import Settings

_HEADER = """\
# Passwords of the Redis users and the new names of renamed commands of one instance.
# Made once, read by every deploy. Keep it: without it nobody but root on the host reaches Redis.
"""
# 128 bits in base64; what Redoubt generates has 256.
MIN_PASSWORD_LENGTH = 22


class SecretsError(ValueError):
    """A store that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Secrets:
    """Passwords by user and new names by command. Never shown by repr."""

    passwords: dict[str, str] = field(repr=False)
    commands: dict[str, str] = field(repr=False)

    def name_of(self, command: str) -> str:
        """The name under which a command is called on this instance."""
        return self.commands.get(command.upper(), command.upper())


def path_for(settings: Settings, host_name: str) -> Path:
    """The file of one instance on one host, by the host's name in the inventory."""
    return Path(settings.redis_secrets_dir) / re.sub(r"[^A-Za-z0-9.@_-]", "_", host_name) / f"{settings.redis_name}.yml"


def ensure(settings: Settings, host_name: str) -> Secrets:
    """The secrets of an instance; those that are missing are generated and stored.

    Changes files on this machine only. Raises SecretsError when the file is readable by others, damaged,
    or holds a password too short to keep.
    """
    path = path_for(settings, host_name)
    for directory in (path.parent.parent, path.parent):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path.parent):
        stored = _read(path) if path.exists() else Secrets({}, {})
        complete = _complete(stored, settings)
        if complete != stored:
            _write(path, complete)
    return _for(settings, complete)


def check(settings: Settings, host_name: str) -> None:
    """Raise SecretsError where ``ensure`` would; change nothing."""
    path = path_for(settings, host_name)
    if path.exists():
        _read(path)


def load(settings: Settings, host_name: str) -> Secrets:
    """The stored secrets of an instance. Raises SecretsError when there are none yet."""
    path = path_for(settings, host_name)
    if not path.exists():
        raise SecretsError(f"{path}: no such file; deploy {settings.redis_name} to {host_name} first")
    return _for(settings, _read(path))


def _for(settings: Settings, stored: Secrets) -> Secrets:
    """Without the names of commands that are renamed no more; the file keeps them, in case they are again."""
    renamed = {command: name for command, name in stored.commands.items() if command in settings.redis_renamed_commands}
    return replace(stored, commands=renamed)


def _complete(stored: Secrets, settings: Settings) -> Secrets:
    names = (user.name for user in access.users(settings))
    return Secrets(
        {**stored.passwords, **_missing(names, stored.passwords, lambda _: secrets.token_urlsafe(32))},
        {
            **stored.commands,
            **_missing(
                settings.redis_renamed_commands,
                stored.commands,
                lambda command: f"{command.lower()}-{secrets.token_hex(16)}",
            ),
        },
    )


def _missing(names: Iterable[str], present: dict[str, str], make: Callable[[str], str]) -> dict[str, str]:
    return {name: make(name) for name in names if name not in present}


def _read(path: Path) -> Secrets:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SecretsError(f"{path}: readable by others on this machine; run: chmod 600 {path}")
    try:
        document = yaml.safe_load(path.read_text())
        stored = Secrets(dict(document["passwords"]), dict(document["commands"]))
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        # The parser's own message would quote the file.
        raise SecretsError(
            f"{path}: not a file of passwords and commands; restore it from your copy. Deleting it makes new "
            "passwords, which every client then needs"
        ) from None
    for user, password in stored.passwords.items():
        if not isinstance(password, str) or len(password) < MIN_PASSWORD_LENGTH or re.search(r"\s", password):
            raise SecretsError(
                f"{path}: the password of {user} is too short or holds spaces; it needs {MIN_PASSWORD_LENGTH} "
                "characters. Remove its line and a deploy makes a new one"
            )
    for command, name in stored.commands.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{16,}", name):
            raise SecretsError(
                f"{path}: the new name of {command} is too short or no name; remove its line for another"
            )
    return stored


def _write(path: Path, content: Secrets) -> None:
    document = {"passwords": content.passwords, "commands": content.commands}
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from the start
    try:
        with os.fdopen(fd, "w") as file:
            file.write(_HEADER + yaml.safe_dump(document, sort_keys=True))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two deploys at once must not make two sets of passwords."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
