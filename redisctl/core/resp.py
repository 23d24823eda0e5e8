"""Answers of Redis, read within bounds, and a small client for the health check.

What Redis answers is not trusted: size, depth, elements and time are bounded. Importing redis-py takes longer than all
the rest of a health check, so that has its own client. The clients of redis-py read with the same reader
(core/client.py).
"""

import math
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redisctl.core.formatting import size, words

# Bytes that Redis may answer to one command of the small client, and of one string. INFO and CONFIG GET * are about
# 20 KiB.
MAX_ANSWER = MAX_STRING = 4 * 1024**2
# Bytes of a string in a list that are skipped. Applications may write longer names than redisctl reads.
_MAX_SKIPPED = 512 * 1024**2
# Values, counting those in arrays, in the answers to what is sent at once. A step of a scan has a few thousand.
MAX_VALUES = 500_000
_MAX_LINE = 64 * 1024
_MAX_DEPTH = 8
_CHUNK = 64 * 1024


class RespError(Exception):
    """Redis reported an error, did not answer in time, or its answer cannot be read."""


class RespRefusal(RespError):
    """Redis answered with an error."""


class MalformedAnswer(ValueError):
    """An answer is no RESP2, or its arrays are nested too deep."""


class TooLargeAnswer(ValueError):
    """An answer is larger than its limit. The message says which."""


class AnswerReader:
    """Reads RESP2 from a connected socket. ``to_error`` makes an object of an error.

    With ``skips_long`` a string of a list that is too long is read as an empty one, instead of an error.
    """

    def __init__(
        self, connection: socket.socket, to_error: Callable[[str], Exception], *, skips_long: bool = False
    ) -> None:
        self._socket = connection
        self._to_error = to_error
        self._skips_long = skips_long
        self._buffer = bytearray()
        self._timeout: float | None = None
        self._deadline = 0.0
        self._limit = self._bytes_left = self._values_left = 0

    def expect(self, timeout: float, limit: int) -> None:
        """Set the bounds of the answers to what was sent: seconds and bytes."""
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._limit = limit
        self._bytes_left = limit - len(self._buffer)
        self._values_left = MAX_VALUES

    def read(self, decode: Callable[[bytes], Any]) -> Any:
        """Return one answer: a string, a number, a list, an error or None.

        A string is as ``decode`` returns it. Raises OSError, TimeoutError, MalformedAnswer and TooLargeAnswer.
        """
        try:
            return self._read(decode, _MAX_DEPTH)
        finally:
            with suppress(OSError):
                self._socket.settimeout(self._timeout)

    def can_read(self, timeout: float) -> bool:
        """Say whether Redis has sent something, or closed the connection."""
        if self._buffer:
            return True
        self._socket.settimeout(timeout)
        try:
            self._buffer += self._socket.recv(_CHUNK)
        except OSError as error:
            # Also TLS's messages of its own, which contain nothing of Redis.
            return isinstance(error, ConnectionError)
        finally:
            self._socket.settimeout(self._timeout)
        return True

    def _read(self, decode: Callable[[bytes], Any], depth: int) -> Any:
        self._values_left -= 1
        if self._values_left < 0:
            raise TooLargeAnswer(f"has more than {MAX_VALUES:,} values")
        line = self._read_line()
        kind, text = line[:1], line[1:]
        if kind == b"+":
            return decode(text)
        if kind == b"-":
            # For people, and on one line.
            return self._to_error(words(text))
        try:
            count = int(text)
        except ValueError:
            raise MalformedAnswer from None
        if kind == b":":
            return count
        if kind not in (b"$", b"*"):
            raise MalformedAnswer
        if count == -1:
            return None
        if count < 0 or depth == 0:
            raise MalformedAnswer
        if kind == b"$":
            return decode(self._read_string(count, is_element=depth < _MAX_DEPTH))
        if count > self._limit:
            raise _too_large(self._limit)
        return [self._read(decode, depth - 1) for _ in range(count)]

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _MAX_LINE:
                raise MalformedAnswer
            self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _read_string(self, count: int, *, is_element: bool) -> bytes:
        limit = min(self._limit, MAX_STRING)
        if count <= limit:
            return self._read_bytes(count)
        if not (is_element and self._skips_long) or count > _MAX_SKIPPED:
            raise _too_large(limit)
        self._skip(count + 2)
        return b""

    def _read_bytes(self, count: int) -> bytes:
        while len(self._buffer) < count + 2:
            self._receive()
        if self._buffer[count : count + 2] != b"\r\n":
            raise MalformedAnswer
        data = bytes(self._buffer[:count])
        del self._buffer[: count + 2]
        return data

    def _skip(self, count: int) -> None:
        while count:
            if not self._buffer:
                self._receive()
            skipped = min(len(self._buffer), count)
            del self._buffer[:skipped]
            self._bytes_left += skipped
            count -= skipped

    def _receive(self) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._socket.settimeout(remaining)
        data = self._socket.recv(_CHUNK)
        if not data:
            raise OSError("the answer ended too early")
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise _too_large(self._limit)
        self._buffer += data


def _too_large(limit: int) -> TooLargeAnswer:
    return TooLargeAnswer(f"is larger than {size(limit)}")


class RespClient:
    """One connection.

    ``timeout`` is in seconds, for the whole of each command. ``deadline`` is a time of ``time.monotonic``, for all.
    """

    def __init__(self, connection: socket.socket, timeout: float, deadline: float = math.inf) -> None:
        self._timeout, self._deadline = timeout, deadline
        self._socket = connection
        self._reader = AnswerReader(self._socket, RespRefusal)

    def __enter__(self) -> "RespClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def execute(self, *command: str, raw: bool = False) -> Any:
        """Send a command and return its answer: text, a number, a list or None.

        With ``raw`` texts are bytes, as Redis sent them. Raises RespError and RespRefusal.
        """
        timeout = min(self._timeout, self._deadline - time.monotonic())
        if timeout <= 0:
            raise RespError("Redis did not answer in time")
        data = list(map(str.encode, command))
        request = b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in data)
        try:
            self._reader.expect(timeout, MAX_ANSWER)
            self._socket.settimeout(timeout)
            self._socket.sendall(request)
            answer = self._reader.read(bytes if raw else _decode)
        except TimeoutError:
            raise RespError(f"Redis did not answer within {timeout:.3g} s") from None
        except OSError as error:
            raise RespError(f"Redis closed the connection: {error.strerror or error}") from None
        except TooLargeAnswer as error:
            raise RespError(f"the answer to {command[0]} {error}") from None
        except MalformedAnswer:
            raise RespError(f"the answer to {command[0]} cannot be read") from None
        if isinstance(answer, RespRefusal):
            raise answer
        return answer


def _decode(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
