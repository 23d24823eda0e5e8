"""The passwords and command names of an instance, kept on the machine that deploys.

One YAML file for each host and instance, ``<redis_secrets_dir>/<host>/<redis_name>.yml``, mode 0600 in
directories of mode 0700. What is missing is generated once and then stays the same on every deploy.

While passwords are rotated a user has two, the one before and the one to come, until the former is retired. Each
change of passwords counts up a generation, which the host keeps as well: a store that is older than the host's is
another machine's, or a copy from before, and must not put former passwords back.
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
    """Passwords by user and new names by command. Never shown by repr.

    ``previous`` are the passwords from before a rotation, valid until they are retired; ``generation`` counts changes.
    """

    passwords: dict[str, str] = field(repr=False)
    commands: dict[str, str] = field(repr=False)
    previous: dict[str, str] = field(default_factory=dict, repr=False)
    generation: int = 1

    def name_of(self, command: str) -> str:
        """The name under which a command is called on this instance."""
        return self.commands.get(command.upper(), command.upper())

    def valid(self) -> dict[str, tuple[str, ...]]:
        """The passwords that let each user in: one, or two while they are rotated."""
        return {
            user: tuple(dict.fromkeys((password, self.previous.get(user, password))))
            for user, password in self.passwords.items()
        }


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


def check(settings: Settings, host_name: str) -> int:
    """The generation of what is stored, 0 when nothing is. Raises SecretsError where ``ensure`` would."""
    path = path_for(settings, host_name)
    return _read(path).generation if path.exists() else 0


def rotated(secrets_: Secrets, users: Iterable[str]) -> Secrets:
    """With a new password for each of these users, beside the one that it has. Who has two already keeps them."""
    chosen = [user for user in users if user not in secrets_.previous]
    return _next(
        secrets_,
        passwords={**secrets_.passwords, **{user: secrets.token_urlsafe(32) for user in chosen}},
        previous={**secrets_.previous, **{user: secrets_.passwords[user] for user in chosen}},
    )


def turned_back(secrets_: Secrets, users: Iterable[str]) -> Secrets:
    """With the former password of these users as the present one again; the other stays valid until it is retired."""
    chosen = [user for user in users if user in secrets_.previous]
    return _next(
        secrets_,
        passwords={**secrets_.passwords, **{user: secrets_.previous[user] for user in chosen}},
        previous={**secrets_.previous, **{user: secrets_.passwords[user] for user in chosen}},
    )


def retired(secrets_: Secrets, users: Iterable[str]) -> Secrets:
    """Without the former password of these users."""
    chosen = set(users)
    previous = {user: password for user, password in secrets_.previous.items() if user not in chosen}
    return _next(secrets_, passwords=secrets_.passwords, previous=previous)


def _next(before: Secrets, passwords: dict[str, str], previous: dict[str, str]) -> Secrets:
    after = replace(before, passwords=passwords, previous=previous)
    return before if after == before else replace(after, generation=before.generation + 1)


def keep(settings: Settings, host_name: str, before: Secrets, after: Secrets) -> None:
    """Store the passwords of ``after``, which were made from ``before``.

    Raises SecretsError when somebody else changed the store in between.
    """
    path = path_for(settings, host_name)
    with _locked(path.parent):
        stored = _read(path)
        if stored.generation != before.generation:
            raise SecretsError(f"{path}: somebody else changed passwords just now; run the same command again")
        _write(path, replace(stored, passwords=after.passwords, previous=after.previous, generation=after.generation))


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
    return replace(
        stored,
        passwords={**stored.passwords, **_missing(names, stored.passwords, lambda _: secrets.token_urlsafe(32))},
        commands={
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
        stored = Secrets(
            dict(document["passwords"]),
            dict(document["commands"]),
            dict(document.get("previous", {})),
            int(document.get("generation", 1)),
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        # The parser's own message would quote the file.
        raise SecretsError(
            f"{path}: not a file of passwords and commands; restore it from your copy. Deleting it makes new "
            "passwords, which every client then needs"
        ) from None
    for user, password in (*stored.passwords.items(), *stored.previous.items()):
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
    document: dict[str, object] = {
        "generation": content.generation,
        "passwords": content.passwords,
        "commands": content.commands,
    }
    if content.previous:
        document["previous"] = content.previous
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
        # Under pyinfra gevent closes the descriptor of a directory much later.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
