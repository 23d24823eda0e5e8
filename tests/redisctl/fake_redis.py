"""A server that answers like a Redis that somebody has taken over.

It runs as uid 999 in a root directory of its own, as Redis does in a container, and listens on its socket and on a port
of the loopback interface. It ignores SIGTERM.

python -m tests.redisctl.fake_redis ROOT KIND INFO CONFIG
"""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from redisctl.core.redis_socket import SOCKET

# The uid and gid of Redis, by default.
REDIS = 999
# What a hostile answer contains: terminal escapes, markup of rich, a forged line, bidirectional controls, and bytes
# that are no UTF-8.
HOSTILE_TEXT = "\x1b[2J\x1b]0;title\x07[/x][bold]\u202egpj\u2066\x9b31m\x85\ud83d forged\nredisctl: all is well\r"
HOSTILE_BYTES = HOSTILE_TEXT.encode(errors="surrogatepass") + b"\xff\xfe\x00"

# Answers to everything that comes after the login. Some of them never end.
_ANSWERS: dict[str, Callable[[], bytes]] = {
    "length": lambda: b"$99999999999999\r\n",
    "count": lambda: b"*4000000\r\n" + b":1\r\n" * 4_000_000,
    "depth": lambda: b"*1\r\n" * 10_000,
    "number": lambda: b":7\r\n",
    "null": lambda: b"$-1\r\n",
    "error": lambda: b"-ERR " + HOSTILE_BYTES.replace(b"\r", b"") + b"\r\n",
    "text": lambda: b"$%d\r\n%s\r\n" % (len(HOSTILE_BYTES), HOSTILE_BYTES),
}
_PREFIXES = (b"app:session:", b"rq:job:", b"rq:results:", b"rq:queue:", b"rq:worker:")
# Answers of the right shape to the commands that verbs send, with hostile text in place of every name.
_SHAPED: dict[str, Callable[[list[str]], Any]] = {
    "SCAN": lambda _: ["0", [HOSTILE_BYTES, *(prefix + HOSTILE_BYTES for prefix in _PREFIXES)]],
    "SMEMBERS": lambda _: [HOSTILE_BYTES, *(prefix + HOSTILE_BYTES for prefix in _PREFIXES)],
    "ZSCAN": lambda _: ["0", [HOSTILE_BYTES, "1"]],
    "ZRANGE": lambda _: [HOSTILE_BYTES],
    "ZREVRANGE": lambda words: [HOSTILE_BYTES] if words[2] == "0" else [],
    "LRANGE": lambda _: [HOSTILE_BYTES],
    "SLOWLOG": lambda words: (
        [[1, 1, 20_000, [HOSTILE_BYTES] * 2, HOSTILE_BYTES, HOSTILE_BYTES]] if words[1] == "GET" else 1
    ),
    "LATENCY": lambda words: {
        "LATEST": [[HOSTILE_BYTES, 1, 2, 3]],
        "HISTOGRAM": [HOSTILE_BYTES, ["calls", 1, "histogram_usec", [1, 1]]],
    }.get(words[1], HOSTILE_BYTES),
    "TTL": lambda _: -1,
    "PEXPIRETIME": lambda _: -1,
    "HMGET": lambda words: [HOSTILE_BYTES] * (len(words) - 2),
    "XREVRANGE": lambda _: [["1-1", ["exc_string", HOSTILE_BYTES]]],
    "ACL": lambda _: [b"user " + HOSTILE_BYTES],
    **dict.fromkeys(("HGET", "RANDOMKEY", "GET", "TYPE"), lambda _: HOSTILE_BYTES),
    **dict.fromkeys(("MEMORY", "STRLEN", "LLEN", "ZCARD", "ZCOUNT", "SCARD", "HLEN", "EXISTS"), lambda _: 4),
}
_ENDLESS = {"line": b"+", "bulk": b"$4000000\r\n"}
KINDS = (*_ANSWERS, *_ENDLESS, "trickle")
SHAPED = "shaped-late"
# Values of INFO that are no numbers or too large ones, by kind. None leaves the field out.
MALFORMED_INFO: dict[str, str | None] = {
    "words-late": "\x1b[2Jforged",
    "infinite-late": "inf",
    "huge-late": "9" * 400,
    "missing-late": None,
}
# After these a verb asks for data, so the answers to them are right if a kind ends with "-late".
_NUMBER = re.compile(r"(\w+:|db\d:keys=)[\d.]+(?![\w.])")
_POLITE = {"INFO", "PING", "DBSIZE", "TIME", "ROLE", "BGSAVE"}


def _encode(value: Any) -> bytes:
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(_encode, value))
    data = value if isinstance(value, bytes) else value.encode(errors="surrogatepass")
    return b"$%d\r\n%s\r\n" % (len(data), data)


def _malformed(info: str, value: str | None) -> str:
    """Return INFO with another value in place of every number, and of every database."""
    lines = [line for line in info.splitlines() if value is not None or not _NUMBER.match(line)]
    return "\r\n".join(_NUMBER.sub(lambda match: f"{match[1]}{value}", line) for line in [*lines, f"db1:{value}"])


class Server:
    """Answers one kind of answer.

    With "-late" it begins after the answers that open a conversation.
    """

    def __init__(self, kind: str, info: str, config: list[str]) -> None:
        self.kind, _, late = kind.partition("-")
        self.polite = _POLITE if late else set()
        self.info, self.config = info, config
        if kind == SHAPED:
            text = " ".join(HOSTILE_TEXT.split())
            self.info = re.sub(
                r"^((redis_version|role|maxmemory_policy|os):)[^\r\n]*", rf"\1{text}", info, flags=re.MULTILINE
            )
            self.config = [*config, HOSTILE_TEXT, HOSTILE_TEXT]
        if kind in MALFORMED_INFO:
            self.kind, self.info = "shaped", _malformed(info, MALFORMED_INFO[kind])

    def serve(self, connection: socket.socket) -> None:
        """Answer the commands of a connection."""
        with suppress(OSError, ValueError), connection, connection.makefile("rb") as requests:
            while line := requests.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int(requests.readline()[1:])
                    words.append(requests.read(size + 2)[:-2].decode(errors="replace").upper())
                self.answer(connection, words)

    def answer(self, connection: socket.socket, words: list[str]) -> None:
        """Answer one command."""
        if words[0] in ("AUTH", "SELECT", "CLIENT"):
            connection.sendall(b"+OK\r\n")
        elif words[0] == "INFO" and self.polite:
            connection.sendall(_encode(self.info))
        elif words[1:2] == ["GET"] and words[0] != "SLOWLOG" and self.polite:
            pairs = zip(self.config[::2], self.config[1::2], strict=True)
            connection.sendall(_encode([w for pair in pairs if fnmatch(pair[0], words[2].lower()) for w in pair]))
        elif words[0] in self.polite:
            connection.sendall(b"+OK\r\n")
        elif self.kind == "shaped":
            connection.sendall(_encode(_SHAPED[words[0]](words) if words[0] in _SHAPED else "OK"))
        elif self.kind in _ANSWERS:
            connection.sendall(_ANSWERS[self.kind]())
        elif self.kind == "trickle":
            connection.sendall(b"$1000\r\n")
            while True:
                connection.sendall(b"x")
                time.sleep(0.05)
        else:
            connection.sendall(_ENDLESS[self.kind])
            while True:
                connection.sendall(b"\xff" * 65536)


def _accept(listener: socket.socket, server: Server) -> None:
    while True:
        connection, _ = listener.accept()
        # For the test, which counts the verbs that have connected.
        print("connected", flush=True)
        threading.Thread(target=server.serve, args=(connection,), daemon=True).start()


def main(root: str, kind: str, info: str, config: str) -> None:
    """Serve until the process is killed. Prints the port first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = Server(kind, Path(info).read_bytes().decode(), json.loads(Path(config).read_text()))
    (Path(root) / SOCKET).parent.mkdir(parents=True)
    os.chown((Path(root) / SOCKET).parent, REDIS, REDIS)
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setgid(REDIS)
    os.setuid(REDIS)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/{SOCKET}")
    listener.listen(64)
    port = socket.create_server(("127.0.0.1", 0))
    print(port.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(port, server), daemon=True).start()
    _accept(listener, server)


if __name__ == "__main__":
    main(*sys.argv[1:])
