"""Logs: the log file and its rotation, the container's output, and the slow log."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from testinfra.host import Host

from redoubt.settings.model import Settings
from redoubt.sizes import parse_docker_size
from tests.host.host_under_test import Target, by_redis, quoted


@pytest.fixture
def private_state(target: Target) -> Iterator[str]:
    """Return a state file for the test's rotation.

    The host's daily rotation ignores it.
    """
    path = f"/run/{target.mark}.logrotate"
    yield path
    target.host.check_output(f"rm -f {path}")


@pytest.fixture
def verbose(target: Target) -> Iterator[None]:
    """Have Redis log a line for each save, whatever its log level is."""
    level = target.config()["loglevel"]
    target.admin_call("CONFIG", "SET", "loglevel", "notice")
    yield
    target.admin_call("CONFIG", "SET", "loglevel", level)


def test_redis_logs_to_the_host(host: Host, settings: Settings) -> None:
    """The log is on the host, where it survives the container.

    Its lines are in Redis's format (process, role, date).
    """
    logs = by_redis(settings, "find logs -type f -name 'redis.log*' -exec tail -q -c 4096 {} + | head -c 65536")
    assert re.search(r"^\d+:[MSCX] \d\d \w{3} \d{4} ", host.check_output(logs), re.MULTILINE)


def test_times_in_the_log_are_utc(target: Target) -> None:
    """Redis logs the time of its container, which has no time zone of the host."""
    name = quoted(target.settings.redis_name)
    assert target.host.check_output(f"docker exec {name} date +%z") == "+0000"


def test_container_output_is_bounded(container: dict[str, Any], settings: Settings) -> None:
    """Docker's default keeps all output for ever."""
    logging = container["HostConfig"]["LogConfig"]
    assert logging["Type"] == "json-file"
    assert parse_docker_size(logging["Config"]["max-size"]) == settings.redis_container_log_max_size
    assert int(logging["Config"]["max-file"]) == settings.redis_container_log_max_file


def test_logrotate_accepts_its_configuration(host: Host, settings: Settings) -> None:
    """logrotate's timer silently skips a file with an error."""
    result = host.run(f"logrotate --debug /etc/logrotate.d/{quoted(settings.redis_name)}")
    output = result.stdout + result.stderr
    assert result.rc == 0
    assert "error" not in output
    assert f"considering log {settings.root}/logs/redis.log" in output


@pytest.mark.writes
@pytest.mark.usefixtures("verbose")
def test_redis_logs_to_the_new_file_after_a_rotation(target: Target, settings: Settings, private_state: str) -> None:
    """Redis logs to the new file without a signal.

    The rotation uses the host's configuration, which removes the oldest file.
    """
    log = f"{quoted(settings.root)}/logs/redis.log"
    inode = target.host.check_output(f"stat -c %i {log}")
    target.host.check_output(
        f"logrotate --force --state {private_state} /etc/logrotate.d/{quoted(settings.redis_name)}"
    )
    assert target.host.check_output(f"stat -c %i {log}.1") == inode, "the old file is gone"

    target.save()
    target.host.check_output(by_redis(settings, "tail -c 65536 logs/redis.log | grep -m 1 'Background saving'"))
    assert target.host.check_output(f"stat -c '%u:%g' {log}") == settings.owner


@pytest.mark.writes
def test_slow_commands_are_kept(target: Target, settings: Settings, queues: Redis, queue_key: str) -> None:
    """The slow log has a command of 30 ms, if the settings call that slow.

    The entry includes the caller's mark.
    """
    duration = 30_000
    busy = f"local t = os.clock() while os.clock() - t < {duration / 1e6} do end return ARGV[1]"
    queues.evalsha(queues.script_load(busy), 1, queue_key, target.mark)
    entries = target.admin.slowlog_get(32)
    expected = 0 <= settings.redis_slowlog_log_slower_than < duration and settings.redis_slowlog_max_len > 0
    assert any(target.mark in str(entry["command"]) for entry in entries) == expected
