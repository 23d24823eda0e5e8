"""The passwords and command names of an instance, kept on the machine that deploys or where it can reach them.

One YAML document for each host and instance, in a source that the settings choose (``secret_backends``). What is
missing is generated once and then stays the same on every deploy.

While passwords are rotated a user has two, the one before and the one to come, until the former is retired. Each
change of passwords counts up a generation, which the host keeps as well: a store that is older than the host's is
another machine's, or a copy from before, and must not put former passwords back.
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
# Made once, read by every deploy. Keep it: without it nobody but root on the host reaches Redis, and nobody at all
# reads the copies of backups off the host.
"""
# 128 bits in base64; what Redoubt generates has 256.
MIN_PASSWORD_LENGTH = 22
# Words and monotony of what somebody meant to replace. What is generated has neither: 43 letters out of 64.
_PLACEHOLDER = re.compile(r"(?i)change.?me|replace.?me|placeholder|password|example")
MIN_PASSWORD_LETTERS = 10


@dataclass(frozen=True)
class Secrets:
    """Passwords by user and new names by command. Never shown by repr.

    ``previous`` are the passwords from before a rotation, valid until they are retired; ``generation`` counts changes.
    ``repository`` is the password of the copies off the host, empty where there never were any: no rotation changes it.
    """

    passwords: dict[str, str] = field(repr=False)
    commands: dict[str, str] = field(repr=False)
    previous: dict[str, str] = field(default_factory=dict, repr=False)
    generation: int = 1
    repository: str = field(default="", repr=False)

    def renamed_command(self, command: str) -> str:
        """The name under which a command is called on this instance."""
        return self.commands.get(command.upper(), command.upper())

    def valid(self) -> dict[str, tuple[str, ...]]:
        """The passwords that let each user in: one, or two while they are rotated."""
        return {
            user: tuple(dict.fromkeys((password, self.previous.get(user, password))))
            for user, password in self.passwords.items()
        }


def location(settings: Settings, host_name: str) -> str:
    """Where the secrets of an instance are, in words: the path of a file, or what a command is asked for."""
    return str(secret_backends.backend_for(settings, host_name))


def load_or_create(settings: Settings, host_name: str) -> Secrets:
    """The secrets of an instance; those that are missing are generated and stored.

    Changes nothing on a host. Raises SecretsError when the source cannot be used, or holds a password that is too
    short to keep or stands for one.
    """
    source = secret_backends.backend_for(settings, host_name)
    with source.locked():
        stored = _read(source) or Secrets({}, {})
        complete = _complete(stored, settings)
        if complete != stored:
            _write(source, complete)
    return _for(settings, complete)


def check(settings: Settings, host_name: str) -> Secrets:
    """What is stored; nothing, of generation 0, where nothing is. Raises SecretsError where ``ensure`` would."""
    return _read(secret_backends.backend_for(settings, host_name)) or Secrets({}, {}, generation=0)


def rotate(secrets_: Secrets, users: Iterable[str]) -> Secrets:
    """With a new password for each of these users, beside the one that it has. Who has two already keeps them."""
    chosen = [user for user in users if user not in secrets_.previous]
    return _next(
        secrets_,
        passwords={**secrets_.passwords, **{user: secrets.token_urlsafe(32) for user in chosen}},
        previous={**secrets_.previous, **{user: secrets_.passwords[user] for user in chosen}},
    )


def undo_rotation(secrets_: Secrets, users: Iterable[str]) -> Secrets:
    """With the former password of these users as the present one again; the other stays valid until it is retired."""
    chosen = [user for user in users if user in secrets_.previous]
    return _next(
        secrets_,
        passwords={**secrets_.passwords, **{user: secrets_.previous[user] for user in chosen}},
        previous={**secrets_.previous, **{user: secrets_.passwords[user] for user in chosen}},
    )


def drop_previous(secrets_: Secrets, users: Iterable[str]) -> Secrets:
    """Without the former password of these users."""
    chosen = set(users)
    previous = {user: password for user, password in secrets_.previous.items() if user not in chosen}
    return _next(secrets_, passwords=secrets_.passwords, previous=previous)


def _next(before: Secrets, passwords: dict[str, str], previous: dict[str, str]) -> Secrets:
    after = replace(before, passwords=passwords, previous=previous)
    return before if after == before else replace(after, generation=before.generation + 1)


def update(settings: Settings, host_name: str, before: Secrets, after: Secrets) -> None:
    """Store the passwords of ``after``, which were made from ``before``.

    Raises SecretsError when somebody else changed the store in between.
    """
    source = secret_backends.backend_for(settings, host_name)
    with source.locked():
        stored = _read(source)
        if stored is None or stored.generation != before.generation:
            raise SecretsError(f"{source}: somebody else changed passwords just now; run the same command again")
        changed = replace(stored, passwords=after.passwords, previous=after.previous, generation=after.generation)
        _write(source, changed)


def load(settings: Settings, host_name: str) -> Secrets:
    """The stored secrets of an instance. Raises SecretsError when there are none yet."""
    source = secret_backends.backend_for(settings, host_name)
    stored = _read(source)
    if stored is None:
        raise SecretsError(f"{source}: holds nothing yet; deploy {settings.redis_name} to {host_name} first")
    return _for(settings, stored)


def _for(settings: Settings, stored: Secrets) -> Secrets:
    """Without the names of commands that are renamed no more; the file keeps them, in case they are again."""
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
        # Kept when there is no repository any more: without it nobody reads what is in the former.
        repository=stored.repository or (secrets.token_urlsafe(32) if settings.redis_backup_restic_repository else ""),
    )


def _missing(names: Iterable[str], present: dict[str, str], make: Callable[[str], str]) -> dict[str, str]:
    return {name: make(name) for name in names if name not in present}


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
        # The parser's own message would quote the text.
        raise SecretsError(
            f"{source}: not a document of passwords and commands; restore it from your copy. Removing it makes new "
            "passwords, which every client then needs"
        ) from None
    for user, password in (*stored.passwords.items(), *stored.previous.items()):
        if weakness := password_problem(password):
            raise SecretsError(
                f"{source}: the password of {user} {weakness}. Remove its line and a deploy makes a new one"
            )
    if stored.repository != "" and (weakness := password_problem(stored.repository)):
        raise SecretsError(
            f"{source}: the password of the repository of backups {weakness}. Restore its line from your copy: without "
            "it nobody reads the backups there"
        )
    for command, name in stored.commands.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{16,}", name):
            raise SecretsError(
                f"{source}: the new name of {command} is too short or no name; remove its line for another"
            )
    return stored


def password_problem(password: object) -> str:
    """Why a password is refused, without showing it; nothing when it is fit."""
    if not isinstance(password, str) or len(password) < MIN_PASSWORD_LENGTH or re.search(r"\s", password):
        return f"is too short or holds spaces; it needs {MIN_PASSWORD_LENGTH} characters"
    if _PLACEHOLDER.search(password) or len(set(password)) < MIN_PASSWORD_LETTERS:
        return "stands for one that was never put in"
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
