"""Clients of redis-py whose answers are bounded.

redis-py reads answers of any size and depth, and its timeout starts again with each byte. Every client that redisctl
makes comes from here, for the instance, for scratch servers and for the source of an import.
"""

import socket
import threading
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis._parsers import BaseParser
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from redisctl.core.answers import parse_info
from redisctl.core.redis_socket import SOCKET
from redisctl.core.resp import AnswerReader, MalformedAnswer, RespError, TooLargeAnswer

# Bytes that Redis may answer to what is sent at once. A step of a scan sends up to 1000 commands or gets 1000 names,
# and a comparison gets up to 100 values of 100 KiB.
MAX_ANSWERS = 16 * 1024**2


class UnreadableAnswer(RespError, RedisError):
    """An answer is too large, nested too deep, or no RESP2."""


def client(*, connect: Callable[[float | None], socket.socket] | None = None, **options: Any) -> Redis:
    """Return a client that never retries and bounds what it reads.

    ``connect`` returns a connected socket, and gets a timeout in seconds. ``options`` are those of redis-py.
    ``socket_timeout`` is in seconds, for all answers to what is sent at once. Its commands raise UnreadableAnswer, too.
    """
    if connect is not None:
        options["unix_socket_path"] = f"/{SOCKET}"
    redis = Redis(retry=Retry(NoBackoff(), 0), protocol=2, **options)
    pool = redis.connection_pool
    if connect is not None:
        pool.connection_kwargs["connect"] = connect
    pool.connection_class = _BOUNDED[pool.connection_class]
    pool.connection_kwargs["parser_class"] = _Parser
    redis.set_response_callback("INFO", lambda answer, **_: parse_info(answer))
    return redis


class _Parser(BaseParser):
    """Reads answers for a connection of redis-py."""

    def __init__(self, socket_read_size: int) -> None:
        self._reader: AnswerReader | None = None

    def on_connect(self, connection: Any) -> None:
        self._encoder = connection.encoder
        self._reader = AnswerReader(connection._sock, self.parse_error, skips_long=True)

    def on_disconnect(self) -> None:
        self._reader = None

    def expect(self, timeout: float) -> None:
        """Start to wait for the answers to what was sent."""
        if self._reader is not None:
            self._reader.expect(timeout, MAX_ANSWERS)

    def can_read(self, timeout: float = 0) -> bool:
        return self._reader is not None and self._reader.can_read(timeout)

    def read_response(self, disable_decoding: bool = False, timeout: object = None) -> Any:
        if self._reader is None:
            raise RedisConnectionError("Connection closed by server.")
        try:
            answer = self._reader.read(bytes if disable_decoding else self._encoder.decode)
        except TooLargeAnswer as error:
            raise UnreadableAnswer(f"an answer of Redis {error}, so redisctl does not read it") from None
        except MalformedAnswer:
            raise UnreadableAnswer("an answer of Redis cannot be read") from None
        if isinstance(answer, RedisConnectionError):
            raise answer
        return answer


class _BoundedConnection(AbstractConnection):
    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        AbstractConnection.send_packed_command(self, command, check_health)
        self._parser.expect(self.socket_timeout)


class _UnixConnection(_BoundedConnection, UnixDomainSocketConnection):
    def __init__(self, *, connect: Callable[[float | None], socket.socket], **options: Any) -> None:
        UnixDomainSocketConnection.__init__(self, **options)
        self._connect_socket = connect

    def _connect(self) -> socket.socket:
        connection = self._connect_socket(self.socket_connect_timeout)
        connection.settimeout(self.socket_timeout)
        return connection


class _TcpConnection(_BoundedConnection, Connection):
    pass


class _TlsConnection(_BoundedConnection, SSLConnection):
    def _wrap_socket_with_ssl(self, sock: socket.socket) -> Any:
        # The timeout of a handshake starts again with each byte, too.
        timer = threading.Timer(self.socket_timeout or 0, sock.shutdown, [socket.SHUT_RDWR])
        timer.daemon = True
        timer.start()
        try:
            return SSLConnection._wrap_socket_with_ssl(self, sock)
        finally:
            timer.cancel()


_BOUNDED = {UnixDomainSocketConnection: _UnixConnection, Connection: _TcpConnection, SSLConnection: _TlsConnection}
