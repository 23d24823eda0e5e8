"""A small client of Redis for the health check.

Importing redis-py takes longer than all the rest of the check. The client speaks RESP2 over a Unix socket. Answers are
bounded in size and time, because what Redis answers is not trusted.
"""

import socket
import time
from contextlib import suppress
from typing import Any

from redisctl.core.formatting import size

# Bytes that one command may answer. INFO and CONFIG GET * are about 20 KiB.
MAX_ANSWER = 4 * 1024**2
_MAX_LINE = 64 * 1024
_MAX_DEPTH = 8
_CHUNK = 64 * 1024


class RespError(Exception):
    """Redis reported an error, did not answer in time, or its answer cannot be read."""


class RespRefusal(RespError):
    """Redis answered with an error."""


class _TooLarge(ValueError):
    """An answer is larger than MAX_ANSWER."""


class RespClient:
    """One connection. ``timeout`` is in seconds, for the whole of each command."""

    def __init__(self, path: str, timeout: float) -> None:
        self._timeout = timeout
        self._deadline = 0.0
        self._remaining = 0
        self._buffer = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise RespError(f"Redis does not accept connections: {error.strerror or error}") from None

    def __enter__(self) -> "RespClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def execute(self, *words: str) -> Any:
        """Send a command and return its answer: text, a number, a list or None.

        Raises RespError and RespRefusal.
        """
        data = list(map(str.encode, words))
        request = b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in data)
        self._remaining = MAX_ANSWER - len(self._buffer)
        self._deadline = time.monotonic() + self._timeout
        self._socket.settimeout(self._timeout)
        try:
            self._socket.sendall(request)
            answer = self._read(_MAX_DEPTH)
        except TimeoutError:
            raise RespError(f"Redis did not answer within {self._timeout:g} s") from None
        except OSError as error:
            raise RespError(f"Redis closed the connection: {error.strerror or error}") from None
        except _TooLarge:
            raise RespError(f"the answer to {words[0]} is larger than {size(MAX_ANSWER)}") from None
        except ValueError:
            raise RespError(f"the answer to {words[0]} cannot be read") from None
        if isinstance(answer, RespRefusal):
            raise answer
        return answer

    def _read(self, depth: int) -> Any:
        line = self._read_line()
        kind, text = line[:1], line[1:]
        if kind == b"+":
            return text.decode(errors="backslashreplace")
        if kind == b"-":
            return RespRefusal(text.decode(errors="backslashreplace"))
        count = int(text)
        if kind == b":":
            return count
        if count == -1:
            return None
        if kind == b"$":
            return self._read_bytes(count).decode(errors="backslashreplace")
        if kind != b"*" or depth == 0:
            raise ValueError
        self._check(count)
        return [self._read(depth - 1) for _ in range(count)]

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _MAX_LINE:
                raise ValueError
            self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _read_bytes(self, count: int) -> bytes:
        self._check(count)
        while len(self._buffer) < count + 2:
            self._receive()
        data = bytes(self._buffer[:count])
        del self._buffer[: count + 2]
        return data

    def _receive(self) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._socket.settimeout(remaining)
        data = self._socket.recv(_CHUNK)
        if not data:
            raise OSError("the answer ended too early")
        self._remaining -= len(data)
        if self._remaining < 0:
            raise _TooLarge
        self._buffer += data

    def _check(self, count: int) -> None:
        if count < 0:
            raise ValueError
        if count > MAX_ANSWER:
            raise _TooLarge


def parse_info(text: str) -> dict[str, Any]:
    """Return INFO as a dictionary.

    Numbers become numbers, and values such as ``keys=1,expires=0`` dictionaries.
    """
    info: dict[str, Any] = {}
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator and not line.startswith("#"):
            info[name] = _parse_value(value)
    return info


def _parse_value(text: str) -> Any:
    if "=" in text:
        return {name: _parse_number(value) for name, _, value in (part.partition("=") for part in text.split(","))}
    return _parse_number(text)


def _parse_number(text: str) -> int | float | str:
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text)
    return text
