"""The passwords and command names of an instance, in the secret store.

The machine that deploys can reach the store. It has one YAML document for each host and instance, in the backend that
the settings choose (``secret_backends``). A deploy generates what is missing; then it stays the same.

During a rotation a user has two passwords, the current and the previous one. Each change of passwords increases the
generation, which the host stores as well. A store that is older than the host is another machine's or an old copy, and
must not bring previous passwords back.
"""

import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import yaml

from redoubt import acl, secret_backends
from redoubt.secret_backends import SecretsError
from redoubt.settings.model import Settings

_HEADER = """\
# Passwords of the Redis users and the new names of renamed commands of one instance.
# Generated once, read by every deploy. Back it up: without it only root on the host can reach Redis, and no one can
# read the off-host copies of its backups.
"""
# 128 bits in base64. Generated passwords have 256 bits.
MIN_PASSWORD_LENGTH = 22
# Placeholders contain such words or few different characters; generated passwords do not.
_PLACEHOLDER = re.compile(r"(?i)change.?me|replace.?me|placeholder|password|example")
MIN_PASSWORD_LETTERS = 10


@dataclass(frozen=True)
class Secrets:
    """Passwords by user and new names by command. repr never shows them.

    ``previous`` are passwords from before a rotation, valid until it is finished; ``generation`` counts changes.
    ``repository`` is the password of the off-host copies, empty if there never were any. No rotation changes it.
    """

    passwords: dict[str, str] = field(repr=False)
    commands: dict[str, str] = field(repr=False)
    previous: dict[str, str] = field(default_factory=dict, repr=False)
    generation: int = 1
    repository: str = field(default="", repr=False)

    def renamed_command(self, command: str) -> str:
        """Return the name of a command on this instance."""
        return self.commands.get(command.upper(), command.upper())

    def valid(self) -> dict[str, tuple[str, ...]]:
        """Return the valid passwords of each user: one, or two during a rotation."""
        return {
            user: tuple(dict.fromkeys((password, self.previous.get(user, password))))
            for user, password in self.passwords.items()
        }


def location(settings: Settings, host_name: str) -> str:
    """Return where the secrets of an instance are, for messages.

    This is a path, or a command with its arguments.
    """
    return str(secret_backends.backend_for(settings, host_name))


def load_or_create(settings: Settings, host_name: str) -> Secrets:
    """Return the secrets of an instance. Generates and stores those that are missing.

    Changes nothing on a host. Raises SecretsError if the store cannot be used, or contains a password that is too short
    or a placeholder.
    """
    source = secret_backends.backend_for(settings, host_name)
    with source.locked():
        stored = _read(source) or Secrets({}, {})
        complete = _complete(stored, settings)
        if complete != stored:
            _write(source, complete)
    return _for(settings, complete)


def check(settings: Settings, host_name: str) -> Secrets:
    """Return the stored secrets.

    Without a store they are empty and have generation 0. Raises SecretsError.
    """
    return _read(secret_backends.backend_for(settings, host_name)) or Secrets({}, {}, generation=0)


def rotate(secrets_: Secrets, users: Iterable[str]) -> Secrets:
    """Return secrets with a second password for these users.

    A user who already has two keeps them.
    """
    chosen = [user for user in users if user not in secrets_.previous]
    return _next(
        secrets_,
        passwords={**secrets_.passwords, **{user: secrets.token_urlsafe(32) for user in chosen}},
        previous={**secrets_.previous, **{user: secrets_.passwords[user] for user in chosen}},
    )


def undo_rotation(secrets_: Secrets, users: Iterable[str]) -> Secrets:
    """Return secrets with these users' current and previous passwords exchanged.

    Both stay valid.
    """
    chosen = [user for user in users if user in secrets_.previous]
    return _next(
        secrets_,
        passwords={**secrets_.passwords, **{user: secrets_.previous[user] for user in chosen}},
        previous={**secrets_.previous, **{user: secrets_.passwords[user] for user in chosen}},
    )


def drop_previous(secrets_: Secrets, users: Iterable[str]) -> Secrets:
    """Return secrets without the previous password of these users."""
    finished = set(users)
    previous = {user: password for user, password in secrets_.previous.items() if user not in finished}
    return _next(secrets_, passwords=secrets_.passwords, previous=previous)


def _next(before: Secrets, passwords: dict[str, str], previous: dict[str, str]) -> Secrets:
    after = replace(before, passwords=passwords, previous=previous)
    return before if after == before else replace(after, generation=before.generation + 1)


def update(settings: Settings, host_name: str, before: Secrets, after: Secrets) -> None:
    """Store the passwords of ``after``, which were derived from ``before``.

    Raises SecretsError if another command changed the store in between.
    """
    source = secret_backends.backend_for(settings, host_name)
    with source.locked():
        stored = _read(source)
        if stored is None or stored.generation != before.generation:
            raise SecretsError(f"{source}: another command has just changed the passwords; run the same command again")
        document = replace(stored, passwords=after.passwords, previous=after.previous, generation=after.generation)
        _write(source, document)


def load(settings: Settings, host_name: str) -> Secrets:
    """Return the stored secrets of an instance.

    Raises SecretsError if there are none.
    """
    source = secret_backends.backend_for(settings, host_name)
    stored = _read(source)
    if stored is None:
        raise SecretsError(f"{source} is empty: deploy {settings.redis_name} to {host_name} first")
    return _for(settings, stored)


def _for(settings: Settings, stored: Secrets) -> Secrets:
    """Return the secrets without names of commands that are no longer renamed.

    The store keeps these names for later.
    """
    renamed = {command: name for command, name in stored.commands.items() if command in settings.redis_renamed_commands}
    return replace(stored, commands=renamed)


def _complete(stored: Secrets, settings: Settings) -> Secrets:
    names = (user.name for user in acl.users(settings))
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
        # Kept when the settings name no repository any more: the copies in the previous one need it.
        repository=stored.repository or (secrets.token_urlsafe(32) if settings.redis_backup_restic_repository else ""),
    )


def _missing(names: Iterable[str], present: dict[str, str], generate: Callable[[str], str]) -> dict[str, str]:
    return {name: generate(name) for name in names if name not in present}


def _read(source: secret_backends.FileSource | secret_backends.CommandSource) -> Secrets | None:
    text = source.read()
    if text is None:
        return None
    try:
        document = yaml.safe_load(text)
        stored = Secrets(
            dict(document["passwords"]),
            dict(document["commands"]),
            dict(document.get("previous", {})),
            int(document.get("generation", 1)),
            document.get("repository", ""),
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        # The parser's message would quote the text.
        raise SecretsError(
            f"{source}: not a document of passwords and commands; restore it from your backup. If you remove it, the "
            "next deploy generates new passwords, which every client needs"
        ) from None
    for user, password in (*stored.passwords.items(), *stored.previous.items()):
        if weakness := password_problem(password):
            raise SecretsError(
                f"{source}: the password of {user} {weakness}. Remove its line: the next deploy generates a new one"
            )
    if stored.repository != "" and (weakness := password_problem(stored.repository)):
        raise SecretsError(
            f"{source}: the password of the backup repository {weakness}. Restore its line from your backup: the "
            "copies there cannot be read without it"
        )
    for command, name in stored.commands.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{16,}", name):
            raise SecretsError(
                f"{source}: the new name of {command} is shorter than 16 characters or invalid. Remove its line: "
                "the next deploy generates a new one"
            )
    return stored


def password_problem(password: object) -> str:
    """Return why a password is refused, without showing it; empty if it is accepted."""
    if not isinstance(password, str) or len(password) < MIN_PASSWORD_LENGTH or re.search(r"\s", password):
        return f"is too short or contains spaces; it needs {MIN_PASSWORD_LENGTH} characters"
    if _PLACEHOLDER.search(password) or len(set(password)) < MIN_PASSWORD_LETTERS:
        return "is a placeholder"
    return ""


def _write(source: secret_backends.FileSource | secret_backends.CommandSource, content: Secrets) -> None:
    document: dict[str, object] = {
        "generation": content.generation,
        "passwords": content.passwords,
        "commands": content.commands,
    }
    if content.previous:
        document["previous"] = content.previous
    if content.repository:
        document["repository"] = content.repository
    source.write(_HEADER + yaml.safe_dump(document, sort_keys=True))
