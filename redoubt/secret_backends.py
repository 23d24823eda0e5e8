"""Backends of the secret store: a file, a file encrypted by SOPS, or a command.

The user provides the command. A backend reads and writes one text, a document of ``secret_store`` or
``certificate_store``.
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

# Seconds for a command: enough for a slow Vault, and for a person who types a passphrase.
COMMAND_TIMEOUT = 60


class SecretsError(ValueError):
    """A store cannot be used. The message names it and says what to do."""


def backend_for(settings: Settings, host_name: str, document: str = "") -> "FileSource | CommandSource":
    """Return the backend for a document of a host.

    The default is the document with the instance's passwords. ``host_name`` is the name in the inventory. Other
    documents have a dot in their names, which no instance has.
    """
    document = document or settings.redis_name
    if settings.redis_secrets_source == "command":
        return CommandSource(settings.redis_secrets_command, host_name, document)
    directory = Path(settings.redis_secrets_dir) / re.sub(r"[^A-Za-z0-9.@_-]", "_", host_name)
    if settings.redis_secrets_source == "sops":
        return SopsSource(directory / f"{document}.sops.yml")
    return FileSource(directory / f"{document}.yml")


class FileSource:
    """A file of mode 0600 in directories of mode 0700, one per host and instance."""

    # Git must not track it.
    _is_plain = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def store(self) -> Path:
        """The directory of all hosts, ``redis_secrets_dir``."""
        return self.path.parent.parent

    def read(self) -> str | None:
        """Return the text, None if there is no file.

        Raises SecretsError, also if other users can read the file.
        """
        mode = self._mode()
        if mode is None:
            return None
        if stat.S_IMODE(mode) & 0o077:
            raise SecretsError(f"{self.path}: other users of this machine can read it; run: chmod 600 {self.path}")
        try:
            return self.path.read_text()
        except UnicodeDecodeError:
            raise SecretsError(f"{self.path} is not a text file; restore it from your backup") from None
        except OSError as error:
            raise self._unreadable(error) from None

    def _mode(self) -> int | None:
        """Return the mode of the file, None if there is none. Raises SecretsError."""
        try:
            return self.path.stat().st_mode
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> SecretsError:
        return SecretsError(f"{self.path} cannot be read by the user who runs this: {error.strerror}")

    def write(self, text: str) -> None:
        """Replace the file atomically."""
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
        """Hold the lock of the file's directory.

        This keeps two deploys from generating two sets of passwords. Creates the directories. In a directory that the
        user created, git may be meant to track other files.
        """
        is_new = not self.store.exists()
        for directory in (self.store, self.path.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_new and self._is_plain:
            (self.store / ".gitignore").write_text("# Secrets, which git must not track.\n*\n")
        fd = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            # gevent, which pyinfra uses, closes the descriptor of a directory much later.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


class SopsSource(FileSource):
    """A file that the program ``sops`` encrypts, so that it can be committed.

    ``sops`` must be 3.10 or newer, and encrypts by its .sops.yaml. The file is decrypted only in memory.
    """

    _is_plain = False

    def read(self) -> str | None:
        """Return the decrypted text, None if there is no file."""
        if self._mode() is None:
            return None
        return self._sops("decrypt", str(self.path.resolve()))

    def write(self, text: str) -> None:
        """Encrypt the text for .sops.yaml's recipients, and replace the file atomically."""
        super().write(self._sops("encrypt", "--filename-override", str(self.path.resolve()), text=text))

    def _sops(self, verb: str, *arguments: str, text: str = "") -> str:
        # sops looks for .sops.yaml in its working directory and those above.
        command = ["sops", "--disable-version-check", verb, "--input-type", "yaml", "--output-type", "yaml", *arguments]
        return _run(self, command, text, self.path.parent)


class CommandSource:
    """A command of the user, for Vault and similar stores.

    ``COMMAND get HOST DOCUMENT`` prints the text, or nothing if there is none; ``COMMAND put HOST DOCUMENT`` reads it
    from standard input. Both exit with 0, or print the reason on standard error.
    """

    def __init__(self, command: Sequence[str], host_name: str, document: str) -> None:
        self._command = tuple(command)
        self._arguments = (host_name, document)

    def __str__(self) -> str:
        return f"{self._command[0]} for {' '.join(self._arguments)}"

    def read(self) -> str | None:
        """Return the text, None if there is none."""
        return _run(self, [*self._command, "get", *self._arguments]) or None

    def write(self, text: str) -> None:
        """Pass the text to the command."""
        _run(self, [*self._command, "put", *self._arguments], text)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Do nothing: only the generation of the document detects concurrent changes."""
        yield


def _run(source: object, command: Sequence[str], text: str = "", directory: Path | None = None) -> str:
    """Return what a program prints.

    Messages contain its standard error, never its output, which may be secret.
    """
    try:
        result = subprocess.run(
            command,
            input=text,
            cwd=directory,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise SecretsError(f"{source}: {command[0]} is not installed on this machine") from None
    except PermissionError:
        raise SecretsError(f"{source}: {command[0]} is not executable; run: chmod +x {command[0]}") from None
    except OSError as error:
        raise SecretsError(f"{source}: {command[0]} cannot be run: {error.strerror}; does it begin with #!?") from None
    except subprocess.TimeoutExpired:
        raise SecretsError(f"{source}: {command[0]} did not finish within {COMMAND_TIMEOUT} s") from None
    if result.returncode != 0:
        reason = " ".join(result.stderr.split()) or "it printed no reason"
        raise SecretsError(f"{source}: {command[0]} failed with exit code {result.returncode}: {reason}")
    return result.stdout
