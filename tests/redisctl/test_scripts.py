"""Scripts that do not end or use much memory: what admin may do, and health."""

import json
import threading
import time

import pytest
from redis.exceptions import RedisError

from tests.redisctl.local_redis import LocalRedis
from tests.redisctl.test_health import health

ENDLESS = "while true do end"


def advice(redis: LocalRedis, name: str) -> str:
    """Return the remedy of a check of the health report."""
    checks = json.loads(redis.redisctl("health --json").stdout)["checks"]
    return next(str(check["remedy"]) for check in checks if check["name"] == name)


def test_endless_script_is_stopped_by_admin(redis: LocalRedis) -> None:
    """Health names the command, and admin may call it while Redis is busy."""
    redis.execute_renamed("CONFIG", "SET", "lua-time-limit", "100")
    outcome: list[str] = []

    def run_script() -> None:
        with redis.client("queues") as client:
            digest = client.script_load(ENDLESS)
            try:
                client.evalsha(digest, 0)
            except RedisError as error:
                outcome.append(str(error))

    thread = threading.Thread(target=run_script)
    thread.start()
    try:
        time.sleep(0.5)
        code, verdict, checks = health(redis)
        assert (code, verdict) == (2, "critical")
        assert checks["ping"].startswith("BUSY Redis is busy running a script")
        assert "SCRIPT KILL as admin" in advice(redis, "ping")
    finally:
        with redis.client() as admin:
            assert admin.execute_command("SCRIPT KILL") in (True, b"OK")
        thread.join(10)
        redis.execute_renamed("CONFIG", "SET", "lua-time-limit", "5000")
    assert "killed by user" in outcome[0].lower()
    assert health(redis) == (0, "ok", {})


def test_memory_of_scripts_is_reported_and_freed(redis: LocalRedis) -> None:
    """80 MiB of scripts are 8 % of the memory."""
    with redis.client("queues") as client:
        for number in range(20):
            client.script_load(f"-- {number} {'x' * 4 * 1024**2}\nreturn 1")
    assert health(redis)[:2] == (1, "warning")
    assert "SCRIPT FLUSH as admin" in advice(redis, "scripts")
    with redis.client() as admin:
        admin.script_flush()
    assert health(redis) == (0, "ok", {})


@pytest.mark.parametrize("command", ["EVALSHA x 0", "SCRIPT LOAD x", "FUNCTION LOAD x", "FCALL x 0"])
def test_admin_runs_no_code(redis: LocalRedis, command: str) -> None:
    with redis.client(decode_responses=True) as admin:
        assert "permissions" in admin.execute_command("ACL", "DRYRUN", "admin", *command.split())
