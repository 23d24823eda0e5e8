"""redisctl's command line: a call's imports, the help, and the Redis client."""

import ast
import importlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from redisctl import paths, schema
from redisctl.cli import common, main
from redisctl.cli.deploy import STEPS
from redisctl.core import resp
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.resp import RespClient, RespError, RespRefusal, parse_info
from redisctl.deploy import users


@pytest.mark.parametrize("verb", ["health", "stats"])
def test_quick_verbs_import_no_large_library(verb: str) -> None:
    """Quick verbs import no large library.

    Imports are most of the time of a health check, which monitoring runs every few seconds.
    """
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


def test_control_characters_and_markup_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Redis, its clients and its files choose these words."""
    words = "\x1b[2J [red]KeyError[/red] :key: \udcff \x9b1m"
    common.print_table(("reason",), [(words,)])
    common.print_columns([(words, words)])
    common.echo(f"first\n{words}")
    common.echo(words, err=True)
    assert main.run_cli(lambda: (_ for _ in ()).throw(Failure(words))) == 3
    output = capsys.readouterr()
    for text in (output.out, output.err):
        assert "[red]KeyError[/red] :key:" in text
        assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]
    assert "first\n" in output.out


def test_verbs_print_only_through_the_common_functions() -> None:
    """These replace characters that could control the terminal."""
    offenders = [
        f"{path.name}:{node.lineno}"
        for path in Path(common.__file__).parent.glob("*.py")
        if path.name != "common.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo", "click.secho"))
        or (isinstance(node, ast.ImportFrom) and str(node.module).startswith("rich"))
    ]
    assert offenders == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Failure("no backup", instance="redis", message="a detail"), "no backup"),
        (OSError(28, "No space left on device", "/srv/redis"), "/srv/redis: No space left on device"),
        (KeyError("maxmemory"), "unexpected error in test_redisctl_cli.py, line"),
        (KeyboardInterrupt(), "cancelled"),
        (click.UsageError("give one"), "give one"),
        (Failure(), "Failure"),
    ],
)
def test_error_is_one_message_and_json_on_request(
    error: BaseException, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every error ends with exit code 3 and without a traceback.

    With --json it is also JSON on standard output.
    """

    @click.command()
    @common.as_json
    def verb(as_json: bool) -> None:
        raise error

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: verb)
    for arguments in (["verb"], ["verb", "--json"]):
        assert main.run_cli(partial(main.cli.main, arguments, "redisctl", standalone_mode=False)) == 3
        output = capsys.readouterr()
        assert message in output.err
        assert "Traceback" not in output.err
        if "--json" not in arguments:
            assert output.out == ""
            continue
        document = json.loads(output.out)
        assert message in document["error"]
        assert document.get("instance") == ("redis" if message == "no backup" else None)


def test_failed_step_of_a_deploy_reports_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed step prints one line of JSON with an error, which the deploy reads.

    An error without a message must not look like success.
    """
    instance = Instance("redis", tmp_path, "app:session:*")
    monkeypatch.setattr(paths, "lock_file", lambda name: str(tmp_path / name))

    def fail(*_: object) -> None:
        raise Failure

    monkeypatch.setattr(users, "apply", fail)
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"acl": ""}'))
    arguments = ["deploy", "acl"]
    assert main.run_cli(lambda: main.cli.main(arguments, "redisctl", standalone_mode=False, obj=instance)) == 3
    (line,) = capsys.readouterr().out.splitlines()
    assert schema.load(schema.Result, line).error == "Failure"


def test_every_step_of_a_deploy_is_where_the_table_says() -> None:
    for kind, place in STEPS.values():
        module, _, name = place.partition(":")
        function = getattr(importlib.import_module(f"redisctl.deploy.{module}"), name)
        hints = typing.get_type_hints(function)
        assert [*hints.values()] == [Instance, kind, schema.Result]


@pytest.mark.parametrize("verb", ["restore", "repair", "import finish", "stop"])
def test_verbs_that_stop_redis_accept_the_loss(verb: str) -> None:
    """Verbs that stop Redis have the option --discard-unsaved.

    Their errors name it if Redis cannot save. A removal names the one of stop.
    """
    assert "--discard-unsaved" in CliRunner().invoke(main.cli, [*verb.split(), "--help"]).output


def test_linked_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A symbolic link in place of the socket is refused.

    Redis owns the directory of its socket, and root must not speak to another service instead.
    """
    place = tmp_path / "redis.sock"
    place.touch()
    monkeypatch.setattr("redisctl.core.instance.SOCKET", str(place).lstrip("/"))
    redis = Instance("redis", tmp_path, "")
    redis.__dict__["container"] = {"State": {"Pid": os.getpid()}}
    assert Path(redis.socket_path()).exists()
    place.rename(tmp_path / "docker.sock")
    place.symlink_to("docker.sock")
    with pytest.raises(Failure, match="is a symbolic link"):
        redis.socket_path()


@contextmanager
def server(tmp_path: Path, answer: bytes, *, pause: float = 0.0) -> Iterator[str]:
    """Serve a socket that sends an answer to the first request, then nothing.

    ``pause`` is seconds after each byte.
    """
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
                    for part in [answer[at : at + 1] for at in range(len(answer))] if pause else [answer]:
                        connection.sendall(part)
                        ended.wait(pause)
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


def test_slow_answer_is_refused(tmp_path: Path) -> None:
    """Each byte comes in time, and the whole answer does not."""
    answer = b"$30\r\n" + b"x" * 30 + b"\r\n"
    slow = pytest.raises(RespError, match=r"did not answer within 0\.3 s")
    with server(tmp_path, answer, pause=0.05) as path, RespClient(path, 0.3) as client, slow:
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
