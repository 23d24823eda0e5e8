"""Where the secrets of an instance are kept: a plain file, a file that SOPS encrypts, or whatever a command reaches.

A source gives and takes one text, the document of ``secret_store``; nothing else here knows what is in it.
"""

import fcntl
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from redoubt.settings.model import Settings

# Vault behind a slow network answers within this; a person who types a passphrase may need it.
COMMAND_TIMEOUT = 60


class SecretsError(ValueError):
    """A store that cannot be used; the message names it and says what to do."""


def backend_for(settings: Settings, host_name: str, document: str = "") -> "FileSource | CommandSource":
    """The source of one document of a host, by the host's name in the inventory; by default the instance's passwords.

    Other documents have a dot in their names, which no instance has.
    """
    document = document or settings.redis_name
    if settings.redis_secrets_source == "command":
        return CommandSource(settings.redis_secrets_command, host_name, document)
    directory = Path(settings.redis_secrets_dir) / re.sub(r"[^A-Za-z0-9.@_-]", "_", host_name)
    if settings.redis_secrets_source == "sops":
        return SopsSource(directory / f"{document}.sops.yml")
    return FileSource(directory / f"{document}.yml")


class FileSource:
    """A file of mode 0600 in directories of mode 0700, one for each host and instance."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> str | None:
        """The text; None where there is none yet. Raises SecretsError when others can read it."""
        if not self.path.exists():
            return None
        if stat.S_IMODE(self.path.stat().st_mode) & 0o077:
            raise SecretsError(f"{self.path}: readable by others on this machine; run: chmod 600 {self.path}")
        return self.path.read_text()

    def write(self, text: str) -> None:
        """Replace the file, whole or not at all."""
        fd, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")  # 0600 from the start
        try:
            with os.fdopen(fd, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Two deploys at once must not make two sets of passwords. Makes the directories."""
        for directory in (self.path.parent.parent, self.path.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            # Under pyinfra gevent closes the descriptor of a directory much later.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


class SopsSource(FileSource):
    """A file that the program ``sops`` (3.10 or newer) encrypts by the rules of its .sops.yaml: fit to be committed.

    It is decrypted in memory only.
    """

    def read(self) -> str | None:
        """The text, decrypted; None where there is none yet."""
        if not self.path.exists():
            return None
        return self._sops("decrypt", str(self.path.resolve()))

    def write(self, text: str) -> None:
        """Encrypt for the recipients that .sops.yaml names for this path."""
        super().write(self._sops("encrypt", "--filename-override", str(self.path.resolve()), text=text))

    def _sops(self, verb: str, *arguments: str, text: str = "") -> str:
        # It looks for .sops.yaml where it is started, and in the directories above.
        command = ["sops", "--disable-version-check", verb, "--input-type", "yaml", "--output-type", "yaml", *arguments]
        return _run(self, command, text, self.path.parent)


class CommandSource:
    """A command of the user's, for Vault and its like.

    ``COMMAND get HOST DOCUMENT`` prints the text, or nothing where there is none yet; ``COMMAND put HOST DOCUMENT``
    reads it on standard input. Both end with 0, or say on standard error why not.
    """

    def __init__(self, command: Sequence[str], host_name: str, document: str) -> None:
        self._command = tuple(command)
        self._what = (host_name, document)

    def __str__(self) -> str:
        return f"{self._command[0]} for {' '.join(self._what)}"

    def read(self) -> str | None:
        """The text; None where there is none yet."""
        return _run(self, [*self._command, "get", *self._what]) or None

    def write(self, text: str) -> None:
        """Hand the text over."""
        _run(self, [*self._command, "put", *self._what], text)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Whoever changes passwords at the same time is told apart by their generation alone."""
        yield


def _run(source: object, command: Sequence[str], text: str = "", directory: Path | None = None) -> str:
    """What a program prints. Its complaint is shown, its output never: that may hold what is secret."""
    try:
        done = subprocess.run(
            command, input=text, cwd=directory, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
        )
    except FileNotFoundError:
        raise SecretsError(f"{source}: there is no program {command[0]} on this machine") from None
    except PermissionError:
        raise SecretsError(f"{source}: {command[0]} cannot be run: is it executable?") from None
    except subprocess.TimeoutExpired:
        raise SecretsError(f"{source}: {command[0]} did not end within {COMMAND_TIMEOUT} s") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or "it does not say why"
        raise SecretsError(f"{source}: {command[0]} failed with exit code {done.returncode}: {said}")
    return done.stdout
