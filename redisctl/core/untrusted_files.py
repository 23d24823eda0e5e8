"""Safe use of files below a directory in which Redis can write.

A Redis that was taken over can replace every name in its directories at any moment: by a link to a file of root, a FIFO
without a writer, a sparse file of terabytes or a directory with a million names. So root names such files by the
descriptor of their directory, follows no link, uses only regular files of the right owner, and bounds what it reads.
"""

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from redisctl.core import process, progress
from redisctl.core.errors import Failure
from redisctl.core.files import copy_open

# Names in one directory. Redis needs a handful.
MAX_NAMES = 10_000
# Seconds for du and rm, which a directory with millions of names must not keep busy for ever.
_USAGE_TIMEOUT, _REMOVE_TIMEOUT = 30, 1800
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_UNTRUSTED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class UntrustedDirectory:
    """A directory in which Redis, or another user, can write.

    ``path`` itself lies in a directory of root and is followed. With ``follow`` False it must be no link.
    ``owner`` is the uid and gid that the files belong to, and that new files get; a file of another owner is used only
    if it has no second name elsewhere. Without an owner, files of every owner are used, and new files are root's.
    ``names`` lead from the directory to a file. They may be answers of Redis, so none of them may leave the directory.
    All methods raise OSError.
    """

    path: Path
    owner: tuple[int, int] | None = None
    follow: bool = True

    def open_file(self, *names: str) -> BinaryIO:
        """Open a regular file for reading."""
        with self._parent(*names) as (parent, name, path):
            descriptor = _open(name, os.O_RDONLY | _UNTRUSTED, parent, path)
        try:
            self._ensure_usable(os.fstat(descriptor), path)
            return open(path, "rb", opener=lambda *_: descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def open_path(self, *names: str) -> int:
        """Return a descriptor of a file, a socket or a link itself, which opens nothing."""
        with self._parent(*names) as (parent, name, path):
            return _open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, parent, path)

    def read_file(self, *names: str, limit: int) -> bytes:
        """Return the contents of a regular file.

        A file above ``limit`` bytes is an error.
        """
        with self.open_file(*names) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(self.path.joinpath(*names)))
        return data

    def read_end(self, name: str, start: int, limit: int) -> str:
        """Return a file's text from an offset on, at most its last ``limit`` bytes.

        A file that is shorter than the offset was replaced, and is read from its beginning.
        """
        with self.open_file(name) as file:
            size = os.fstat(file.fileno()).st_size
            offset = start if start <= size else 0
            return os.pread(file.fileno(), limit, max(offset, size - limit)).decode(errors="replace")

    def list_names(self, *names: str, limit: int = MAX_NAMES) -> list[str]:
        """Return the names in a directory below this one; none if it does not exist.

        More than ``limit`` names are an error.
        """
        path = self.path.joinpath(*names)
        try:
            descriptor = self._open_directory(*names)
        except FileNotFoundError:
            return []
        listed: list[str] = []
        try:
            # Reads the directory in parts: os.listdir would read all of it.
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    listed.append(entry.name)
                    if len(listed) > limit:
                        raise OSError(errno.E2BIG, f"it has more than {limit} files", str(path))
        finally:
            os.close(descriptor)
        return listed

    def status(self, *names: str) -> os.stat_result:
        """Return the status of a file or directory, or of a link itself."""
        with self._parent(*names) as (parent, name, path):
            try:
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None

    def file_size(self, *names: str) -> int:
        """Return the size of a regular file in bytes."""
        with self.open_file(*names) as file:
            return os.fstat(file.fileno()).st_size

    def copy_file(self, source: BinaryIO, *names: str) -> dict[str, Any]:
        """Copy an open file into a new one, as ``files.copy_open`` does."""
        with self.create_file(*names) as target:
            return copy_open(source, None, target)

    def make_directory(self, *names: str) -> None:
        """Create a directory for the owner alone."""
        with self._parent(*names) as (parent, name, path):
            os.mkdir(name, 0o700, dir_fd=parent)
            descriptor = _open(name, _DIRECTORY | _UNTRUSTED, parent, path)
            try:
                os.fchown(descriptor, *(self.owner or (0, 0)))
            finally:
                os.close(descriptor)

    def create_file(self, *names: str) -> BinaryIO:
        """Create a file for the owner alone and open it for writing.

        An existing file, link or FIFO of that name is an error.
        """
        with self._parent(*names) as (parent, name, path):
            descriptor = _open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _UNTRUSTED, parent, path)
        os.fchown(descriptor, *(self.owner or (0, 0)))
        return open(path, "wb", opener=lambda *_: descriptor)

    def link_file(self, source: BinaryIO, *names: str) -> None:
        """Give an open file another name, on the same disk."""
        with self._parent(*names) as (parent, name, _):
            # By its descriptor, whatever has its old name now. Only linkat, which takes descriptors, follows that.
            os.link(f"/proc/self/fd/{source.fileno()}", name, src_dir_fd=parent, dst_dir_fd=parent)

    def write_file(self, *names: str, text: str, mode: int = 0o600) -> None:
        """Write a small file for the owner alone, in place of anything with its name."""
        self.remove_file(*names)
        with self.create_file(*names) as file:
            file.write(text.encode())
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())

    def truncate_file(self, *names: str, size: int) -> None:
        """Cut a regular file after some bytes."""
        with self._parent(*names) as (parent, name, path):
            descriptor = _open(name, os.O_WRONLY | _UNTRUSTED, parent, path)
        try:
            self._ensure_usable(os.fstat(descriptor), path)
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def remove_file(self, *names: str) -> None:
        """Remove a file, a link or a FIFO, if there is one."""
        with self._parent(*names) as (parent, name, path):
            try:
                os.unlink(name, dir_fd=parent)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None

    @contextmanager
    def _parent(self, *names: str) -> Iterator[tuple[int, str, Path]]:
        """Give the descriptor of a file's directory, the file's name, and its path."""
        path = self.path.joinpath(*names[:-1])
        _ensure_plain(names[-1], path)
        descriptor = self._open_directory(*names[:-1])
        try:
            yield descriptor, names[-1], path / names[-1]
        finally:
            os.close(descriptor)

    def _open_directory(self, *names: str) -> int:
        path = self.path
        if self.follow:
            descriptor = os.open(path, _DIRECTORY | os.O_CLOEXEC)
        else:
            descriptor = _open(str(path), _DIRECTORY | _UNTRUSTED, None, path)
        try:
            for name in names:
                _ensure_plain(name, path)
                path /= name
                inner = _open(name, _DIRECTORY | _UNTRUSTED, descriptor, path)
                os.close(descriptor)
                descriptor = inner
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _ensure_usable(self, status: os.stat_result, path: Path) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if self.owner is not None and status.st_uid != self.owner[0] and status.st_nlink != 1:
            reason = f"a hard link to a file of uid {status.st_uid}, which is not used"
            raise OSError(errno.EPERM, reason, str(path))


def _ensure_plain(name: str, directory: Path) -> None:
    """Raise OSError unless a name is that of an entry of its directory."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, f"{name!r} is not the name of a file", str(directory))


def _open(name: str, flags: int, directory: int | None, path: Path) -> int:
    try:
        return os.open(name, flags, 0o600, dir_fd=directory)
    except OSError as error:
        is_link = error.errno == errno.ELOOP or (flags & os.O_DIRECTORY and _is_link(name, directory))
        reason = "a symbolic link, which is not followed" if is_link else error.strerror
        raise OSError(error.errno, reason, str(path)) from None


def _is_link(name: str, directory: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a file, a link or a directory with everything in it, if it exists.

    Follows no link, and a directory may be as deep and large as Redis can make it. Raises Failure.
    """
    progress.report(f"removing {path}")
    # shutil.rmtree fails below some hundred levels.
    result = _run(["rm", "--recursive", "--force", "--", str(path)], _REMOVE_TIMEOUT)
    if result.returncode != 0 and not ignore_errors:
        raise Failure(f"{path} cannot be removed: {_last_line(result.stderr)}")


def disk_usage(path: Path) -> int:
    """Return the bytes that a file or directory takes on disk.

    Follows no link. What is missing, or is removed during the count, counts as nothing. Raises Failure if the count
    takes too long.
    """
    result = _run(["du", "--summarize", "--block-size=1", "--no-dereference", "--", str(path)], _USAGE_TIMEOUT)
    # It fails for a file that disappeared, and prints what it has counted.
    usage = result.stdout.partition("\t")[0]
    if usage.isdecimal():
        return int(usage)
    if os.path.lexists(path):
        raise Failure(f"{path}: its size cannot be found: {_last_line(result.stderr)}")
    return 0


def _run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            env=dict(process.ENVIRONMENT),
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{command[0]} of {command[-1]} did not finish within {timeout:.0f} s: too many files") from None


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
