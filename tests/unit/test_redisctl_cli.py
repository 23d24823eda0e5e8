"""redisctl's command line: a call's imports, the help, and the Redis client."""

import ast
import importlib
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
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
from redisctl.core.answers import ImplausibleAnswer, parse_info
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.keyspace import keyspace
from redisctl.core.resp import RespClient, RespError, RespRefusal
from redisctl.deploy import users


@pytest.mark.parametrize(
    ("verb", "modules"),
    [
        ("health", "redisctl.monitor.disk_status, redisctl.monitor.health"),
        ("stats", "redisctl.monitor.stats"),
        ("deploy", "redisctl.deploy.state"),
        ("deploy", "redisctl.core.server_changes"),
    ],
)
def test_quick_verbs_import_no_large_library(verb: str, modules: str) -> None:
    """Quick verbs import no large library.

    Imports are most of the time of a health check, which monitoring runs every few seconds, and of the inspection
    before each deploy. redis-py alone doubles it.
    """
    script = (
        f"import sys; from redisctl.cli.main import cli; cli.get_command(None, sys.argv[1]); import {modules}; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script, verb], capture_output=True, text=True, check=True)
    assert {"click", "redisctl"} <= set(done.stdout.split())
    # The threads of the inspection need logging.
    large = {"redis", "rich", "asyncio", "ssl", *(["logging"] if verb != "deploy" else [])}
    assert not large & set(done.stdout.split())


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
        # common.py uses progress.py, and test_progress.py checks it.
        if path.name not in ("common.py", "progress.py")
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


@pytest.mark.parametrize("verb", ["restore", "repair", "import finish", "stop", "restart"])
def test_verbs_that_stop_redis_accept_the_loss(verb: str) -> None:
    """Verbs that stop Redis have the option --discard-unsaved.

    Their errors name it if Redis cannot save. A removal names the one of stop.
    """
    assert "--discard-unsaved" in CliRunner().invoke(main.cli, [*verb.split(), "--help"]).output


@contextmanager
def server(tmp_path: Path, answer: bytes, *, pause: float = 0.0) -> Iterator[socket.socket]:
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
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                yield connection
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
    with server(tmp_path, answer) as connection, RespClient(connection, 5) as client:
        assert client.execute("ANY") == expected


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"$99999999999\r\n", "the answer to ANY is larger than 4.0 MiB"),
        (b"*99999999999\r\n", "the answer to ANY is larger than 4.0 MiB"),
        (b"*99\r\n" + (b"+" + b"x" * 60_000 + b"\r\n") * 99, "the answer to ANY is larger than 4.0 MiB"),
        # It is not read as an empty one: a user would be missing.
        (b"*1\r\n$5000000\r\n" + b"x" * 100, "the answer to ANY is larger than 4.0 MiB"),
        (b"$-7\r\n", "cannot be read"),
        (b"nonsense\r\n", "cannot be read"),
        (b"*1\r\n" * 20 + b":1\r\n", "cannot be read"),
        (b"+" + b"x" * 100_000, "cannot be read"),
        (b"$5\r\nab", "did not answer within 0.2 s"),
    ],
)
def test_hostile_answers_are_refused(tmp_path: Path, answer: bytes, error: str) -> None:
    """What Redis answers is bounded in size, depth and time."""
    with (
        server(tmp_path, answer) as connection,
        RespClient(connection, 0.2) as client,
        pytest.raises(RespError, match=error),
    ):
        client.execute("ANY")


def test_slow_answer_is_refused(tmp_path: Path) -> None:
    """Each byte comes in time, and the whole answer does not."""
    answer = b"$30\r\n" + b"x" * 30 + b"\r\n"
    slow = pytest.raises(RespError, match=r"did not answer within 0\.3 s")
    with server(tmp_path, answer, pause=0.05) as connection, slow:
        RespClient(connection, 0.3).execute("ANY")


def test_all_commands_of_a_client_have_one_deadline(tmp_path: Path) -> None:
    answer = b"$30\r\n" + b"x" * 30 + b"\r\n"
    deadline = time.monotonic() + 0.3
    with server(tmp_path, answer, pause=0.05) as connection, RespClient(connection, 5, deadline) as client:
        for _ in range(2):
            with pytest.raises(RespError, match="did not answer"):
                client.execute("ANY")
    assert time.monotonic() < deadline + 1


def test_large_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resp, "MAX_ANSWER", 10)
    answer = b"*2\r\n$6\r\nabcdef\r\n$6\r\nabcdef\r\n"
    with (
        server(tmp_path, answer) as connection,
        RespClient(connection, 5) as client,
        pytest.raises(RespError, match="larger than"),
    ):
        client.execute("ANY")


def test_error_of_redis_is_a_refusal(tmp_path: Path) -> None:
    answer = b"-NOPERM no\r\n"
    with (
        server(tmp_path, answer) as connection,
        RespClient(connection, 5) as client,
        pytest.raises(RespRefusal, match="NOPERM no"),
    ):
        client.execute("ANY")


def test_info_is_parsed() -> None:
    versions = "redis_version:8.0.2\r\nvalkey_version:8.1\r\n"
    text = f"# Server\r\n{versions}uptime:7\r\nratio:1.50\r\n\r\ndb0:keys=2,expires=1,avg_ttl=0\r\n"
    assert parse_info(text) == {
        "redis_version": "8.0.2",
        "valkey_version": "8.1",
        "uptime": 7,
        "ratio": 1.5,
        "db0": {"keys": 2, "expires": 1, "avg_ttl": 0},
    }


@pytest.mark.parametrize("separator", ["\n", "\u2028", "\x0b", "\x85"])
def test_value_of_info_is_no_further_line(separator: str) -> None:
    """Redis prints the name of a primary as it got it."""
    info = parse_info(f"role:slave\r\nmaster_host:x{separator}loading:0\r\nmaster_port:1\r\n")
    assert info == {"role": "slave", "master_host": f"x{separator}loading:0", "master_port": 1}


def test_first_value_of_info_counts() -> None:
    assert parse_info("role:slave\r\nmaster_host:x\r\nrole:master\r\n")["role"] == "slave"


@pytest.mark.parametrize("value", ["x", "inf", "nan", "9" * 30, "-1e300", "1=2", ""])
def test_number_that_no_redis_reports_is_missing(value: str) -> None:
    info = parse_info(f"used_memory:{value}\r\nos:{value}\r\n")
    assert list(info) == ["os"]
    assert info.get("used_memory", 0) == 0
    with pytest.raises(ImplausibleAnswer, match="the answers of Redis cannot be read: INFO has no valid used_memory"):
        assert info["used_memory"]


@pytest.mark.parametrize("value", ["x", "7", "keys=1", "keys=x,expires=1", "keys=1,expires=inf"])
def test_database_that_no_redis_reports_is_an_error(value: str) -> None:
    with pytest.raises(ImplausibleAnswer, match="INFO has no valid db3"):
        keyspace(parse_info(f"db0:keys=1,expires=0\r\ndb3:{value}\r\n"))


@pytest.mark.parametrize("answer", [7, None, ["used_memory:1"]])
def test_info_that_is_no_text_is_an_error(answer: object) -> None:
    with pytest.raises(ImplausibleAnswer, match="INFO is no text"):
        parse_info(answer)
