"""Confinement of the containers that redisctl starts next to Redis."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redisctl.core import docker, process, scratch_redis
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.scratch_redis import NotLoadable
from redisctl.deploy import preview
from redisctl.schema import AclRequest, ActivedefragRequest

OWNER = "1234:5678"

START: dict[str, Callable[[Instance, Path], Any]] = {
    "load": lambda instance, directory: scratch_redis.start(instance, "x", directory, {}, 1, label="x"),
    "check": lambda instance, directory: scratch_redis.run_checker(instance, directory, "redis-check-rdb", "dump.rdb"),
    "configuration": lambda instance, _: preview.check_config(instance, "redis:8", OWNER),
    "users": lambda instance, _: preview.check_acl(instance, AclRequest("user x on\n", "redis:8", OWNER)),
    "defragmentation": lambda instance, _: preview.probe_activedefrag(instance, ActivedefragRequest("redis:8", OWNER)),
}


@pytest.mark.parametrize("kind", START)
def test_scratch_container_is_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """It has umask 077, no core dumps and no rights."""
    commands: list[list[str]] = []

    def run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append([*command])
        return subprocess.CompletedProcess(command, 0, "redoubt-probe" if "--redoubt-probe" in command else "[]", "")

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(process, "check", lambda command, **options: run(command, **options).stdout)
    monkeypatch.setattr(docker, "image", lambda _: {"Id": "sha256:1"})
    (tmp_path / "config").mkdir()
    (tmp_path / "config/redis.conf").write_text("list-compress-depth 1\n")
    instance = Instance("redis", tmp_path, "app:session:*", image="redis:8", uid=1234, gid=5678)
    START[kind](instance, tmp_path)
    (command,) = (each for each in commands if each[:2] == ["docker", "run"])
    options, program = command[: command.index("-c")], command[command.index("-c") + 1]
    assert options[options.index("--user") + 1] == OWNER
    assert options[options.index("--ulimit") + 1] == "core=1:1"
    assert options[options.index("--cap-drop") + 1] == "ALL"
    assert "--read-only" in options
    assert options[options.index("--entrypoint") + 1] == "/bin/sh"
    assert program.split(";")[0].split("\n")[0].strip() == "umask 077" or program.strip().startswith("umask 077\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Failure("did not finish within 4 h")])
def test_checker_does_not_outlive_its_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Docker runs a container on after its client was killed."""
    commands: list[list[str]] = []
    names: list[str] = []
    (tmp_path / "x").write_bytes(bytes(2048))

    def run(command: Sequence[str], *, name: str = "", **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append([*command])
        names.append(name)
        if command[1] == "run":
            raise error
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(docker, "image", lambda _: {"Id": "sha256:1"})
    with pytest.raises(type(error)):
        scratch_redis.run_checker(Instance("redis", tmp_path, "", image="redis:8"), tmp_path, "redis-check-rdb", "x")
    started, removed = (command for command in commands if command[1] in ("run", "rm"))
    assert removed == ["docker", "rm", "--force", started[started.index("--name") + 1]]
    # A long check reports what it does, and of how much.
    assert "redis-check-rdb of 2.0 KiB" in names


class Exiting:
    """A server that loads, and exits or hangs before it answers INFO."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def __enter__(self) -> "Exiting":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ping(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def info(self, _: str) -> dict[str, Any]:
        raise self.errors.pop(0)


LOADING = BusyLoadingError("loading")


@pytest.mark.parametrize("errors", [[LOADING, RedisConnectionError("closed")], [RedisConnectionError("closed")]])
def test_reason_of_a_scratch_redis_that_exits_is_reported(
    monkeypatch: pytest.MonkeyPatch, errors: list[Exception]
) -> None:
    """What Redis logs says why, and not that the connection was closed."""
    servers = [Exiting(*errors)]

    def client(*_: object) -> Exiting:
        if not servers:
            raise NotLoadable("Bad file format reading the append only file")
        return servers.pop()

    monkeypatch.setattr(scratch_redis, "client", client)
    with pytest.raises(NotLoadable, match="Bad file format"), scratch_redis.connected("x", (1, 1), 1):
        pass


@pytest.mark.parametrize("errors", [[RedisTimeoutError("60 s")], [LOADING, RedisTimeoutError("60 s")]])
def test_busy_scratch_redis_gets_more_time(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> None:
    server = Exiting(*errors)
    monkeypatch.setattr(scratch_redis, "client", lambda *_: server)
    with scratch_redis.connected("x", (1, 1), 1) as redis:
        assert cast("object", redis) is server


def test_private_program_creates_private_files(tmp_path: Path) -> None:
    """The shell becomes the program, which gets its arguments."""
    words = docker.private_program("image", "sh", "-c", 'umask; echo "$1 $$"', "sh", "a b")
    arguments = words[words.index("image") + 1 :]
    with subprocess.Popen(["/bin/sh", *arguments], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as shell:
        output, _ = shell.communicate()
    assert output.splitlines() == ["0077", f"a b {shell.pid}"]
