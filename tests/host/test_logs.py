"""Logs: Redis's own log and its rotation, the container's output, and the slow log."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from testinfra.host import Host

from redoubt.settings.model import Settings
from redoubt.sizes import parse_docker_size
from tests.host.host_under_test import Target, quoted


@pytest.fixture
def private_state(target: Target) -> Iterator[str]:
    """A state file of the test's own: the host's daily rotation does not learn of this one."""
    path = f"/run/{target.mark}.logrotate"
    yield path
    target.host.check_output(f"rm -f {path}")


@pytest.fixture
def talkative(target: Target) -> Iterator[None]:
    """Redis logs a line for each save, whatever its level is otherwise."""
    before = target.config()["loglevel"]
    target.admin_call("CONFIG", "SET", "loglevel", "notice")
    yield
    target.admin_call("CONFIG", "SET", "loglevel", before)


def test_redis_logs_to_the_host(host: Host, settings: Settings) -> None:
    """Where it outlives the container: lines as Redis writes them (process, role, date)."""
    logs = f"find {quoted(settings.root)}/logs -name 'redis.log*' ! -name '*.gz' -exec tail -q -n 5 {{}} +"
    assert re.search(r"^\d+:[MSCX] \d\d \w{3} \d{4} ", host.check_output(logs), re.MULTILINE)


def test_container_output_is_bounded(container: dict[str, Any], settings: Settings) -> None:
    """Docker's default keeps it without end."""
    given = container["HostConfig"]["LogConfig"]
    assert given["Type"] == "json-file"
    assert parse_docker_size(given["Config"]["max-size"]) == settings.redis_container_log_max_size
    assert int(given["Config"]["max-file"]) == settings.redis_container_log_max_file


def test_logrotate_accepts_its_instructions(host: Host, settings: Settings) -> None:
    """A file that logrotate does not like is passed over in silence by its timer."""
    done = host.run(f"logrotate --debug /etc/logrotate.d/{quoted(settings.redis_name)}")
    said = done.stdout + done.stderr
    assert done.rc == 0
    assert "error" not in said
    assert f"considering log {settings.root}/logs/redis.log" in said


@pytest.mark.writes
@pytest.mark.usefixtures("talkative")
def test_rotation_starts_a_new_file_and_redis_goes_on_in_it(
    target: Target, settings: Settings, private_state: str
) -> None:
    """Forced, with the host's own instructions: the oldest file goes, as it does every day. Redis needs no signal."""
    log = f"{quoted(settings.root)}/logs/redis.log"
    before = target.host.check_output(f"stat -c %i {log}")
    target.host.check_output(
        f"logrotate --force --state {private_state} /etc/logrotate.d/{quoted(settings.redis_name)}"
    )
    assert target.host.check_output(f"stat -c %i {log}.1") == before, "the old file is kept"

    target.save()
    target.host.check_output(f"grep 'Background saving' {log}")
    assert target.host.check_output(f"stat -c '%u:%g' {log}") == "999:999"


@pytest.mark.writes
def test_slow_commands_are_kept(target: Target, settings: Settings, queues: Redis, queue_key: str) -> None:
    """A command of 30 ms, where the settings call that slow; the entry shows who called it."""
    spent = 30_000
    busy = f"local t = os.clock() while os.clock() - t < {spent / 1e6} do end return ARGV[1]"
    queues.evalsha(queues.script_load(busy), 1, queue_key, target.mark)
    entries = target.admin.slowlog_get(32)
    promised = 0 <= settings.redis_slowlog_log_slower_than < spent and settings.redis_slowlog_max_len > 0
    assert any(target.mark in str(entry["command"]) for entry in entries) == promised
