"""redisctl's command line: what a call imports, the help, and its small client of Redis."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from redisctl.cli import main
from redisctl.core import resp
from redisctl.core.resp import RespClient, RespError, RespRefusal, parse_info


@pytest.mark.parametrize("verb", ["health", "stats"])
def test_quick_verbs_import_no_large_library(verb: str) -> None:
    """Imports are most of the time of a health check, which monitoring runs every few seconds."""
    script = (
        "import sys; from redisctl.cli.main import cli; cli.get_command(None, sys.argv[1]); "
        "import redisctl.monitor.disk_status, redisctl.monitor.health, redisctl.monitor.stats; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script, verb], capture_output=True, text=True, check=True)
    assert {"click", "redisctl"} <= set(done.stdout.split())
    assert not {"redis", "rich", "asyncio", "ssl", "logging"} & set(done.stdout.split())


def test_every_verb_is_where_the_table_says() -> None:
    context = click.Context(main.cli)
    for name in main.VERBS:
        command = main.cli.get_command(context, name)
        assert command is not None
        assert command.name == name
    assert main.cli.get_command(context, "nothing") is None


def test_help_lists_verbs_with_their_summary() -> None:
    output = CliRunner().invoke(main.cli, ["--help"]).output
    assert re.search(r"^  health +Report what is wrong, and what to do about it\.$", output, re.MULTILINE)
    assert not [name for name in ("deploy", "state") if f"\n  {name} " in output], "verbs of a deploy are hidden"


@contextmanager
def server(tmp_path: Path, answer: bytes) -> Iterator[str]:
    """A socket that sends an answer to the first request, and then nothing."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        ended = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                try:
                    connection.sendall(answer)
                except OSError:
                    return
                ended.wait(5)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            ended.set()
            thread.join(10)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"+OK\r\n", "OK"),
        (b":42\r\n", 42),
        (b"$-1\r\n", None),
        (b"$4\r\na\r\nb\r\n", "a\r\nb"),
        (b"$2\r\n\xff\x00\r\n", "\\xff\x00"),
        (b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n", ["a", [1]]),
        (b"*0\r\n", []),
    ],
)
def test_answers_are_parsed(tmp_path: Path, answer: bytes, expected: object) -> None:
    with server(tmp_path, answer) as path, RespClient(path, 5) as client:
        assert client.execute("ANY") == expected


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"$99999999999\r\n", "the answer to ANY is larger than 4.0 MiB"),
        (b"*99999999999\r\n", "the answer to ANY is larger than 4.0 MiB"),
        (b"*99\r\n" + (b"+" + b"x" * 60_000 + b"\r\n") * 99, "the answer to ANY is larger than 4.0 MiB"),
        (b"$-7\r\n", "cannot be read"),
        (b"nonsense\r\n", "cannot be read"),
        (b"*1\r\n" * 20 + b":1\r\n", "cannot be read"),
        (b"+" + b"x" * 100_000, "cannot be read"),
        (b"$5\r\nab", "did not answer within 0.2 s"),
    ],
)
def test_hostile_answers_are_refused(tmp_path: Path, answer: bytes, error: str) -> None:
    """What Redis answers is bounded in size, depth and time."""
    with server(tmp_path, answer) as path, RespClient(path, 0.2) as client, pytest.raises(RespError, match=error):
        client.execute("ANY")


def test_large_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resp, "MAX_ANSWER", 10)
    answer = b"*2\r\n$6\r\nabcdef\r\n$6\r\nabcdef\r\n"
    with server(tmp_path, answer) as path, RespClient(path, 5) as client, pytest.raises(RespError, match="larger than"):
        client.execute("ANY")


def test_error_of_redis_is_a_refusal(tmp_path: Path) -> None:
    answer = b"-NOPERM no\r\n"
    with server(tmp_path, answer) as path, RespClient(path, 5) as client, pytest.raises(RespRefusal, match="NOPERM no"):
        client.execute("ANY")


def test_missing_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RespError, match="does not accept connections: No such file"):
        RespClient(str(tmp_path / "nothing"), 5)


def test_info_is_parsed() -> None:
    text = "# Server\r\nredis_version:8.0.2\r\nuptime:7\r\nratio:1.50\r\n\r\ndb0:keys=2,expires=1,avg_ttl=0\r\n"
    assert parse_info(text) == {
        "redis_version": "8.0.2",
        "uptime": 7,
        "ratio": 1.5,
        "db0": {"keys": 2, "expires": 1, "avg_ttl": 0},
    }
