"""Stopping and starting Redis, and waiting until it is healthy."""

import subprocess
import time
from collections.abc import Callable

from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as NotConnected

from redisctl.core.instance import Failure, Instance, error_text
from redisctl.core.scratch_redis import LOAD_TIMEOUT

# Seconds until a Redis that has loaded its data passes its health check.
HEALTHY_TIMEOUT = 60
_POLL = 0.2


Check = Callable[[Redis], list[str]]


# -- Stopping and starting


def stop(instance: Instance) -> None:
    """Stop Redis, which saves first; it has the time that the deploy gave it. Raises Failure."""
    done = subprocess.run(["docker", "stop", instance.name], capture_output=True, text=True, check=False)
    if done.returncode != 0 and "No such container" not in done.stderr:
        raise Failure(f"{instance.name} cannot be stopped: {done.stderr.strip()}")


def start(instance: Instance) -> None:
    """Start Redis, and do not wait for it. Raises Failure."""
    instance.refresh_container()
    begin = ["docker", "start", instance.name]
    if not instance.container:
        begin = ["docker", "compose", "--project-directory", str(instance.root), "up", "--detach", instance.name]
    done = subprocess.run(begin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"Redis does not start: {done.stderr.strip()}")


def start_and_check(instance: Instance, check: Check) -> list[str]:
    """Start Redis, wait until it has loaded its data and passes its health check, and say what is wrong with it."""
    try:
        start(instance)
    except Failure as error:
        return [str(error)]
    why = _wait_until_loaded(instance)
    if why:
        return [why]
    try:
        with instance.connect(decode_responses=False) as redis:
            problems = check(redis)
    except RedisError as error:
        return [f"Redis says: {error_text(error)}"]
    return problems or _wait_until_healthy(instance)


def _wait_until_loaded(instance: Instance) -> str:
    deadline = time.monotonic() + LOAD_TIMEOUT
    while time.monotonic() < deadline:
        time.sleep(_POLL)
        instance.refresh_container()
        state = instance.container.get("State", {})
        if state.get("Restarting") or not state.get("Running") or instance.container.get("RestartCount"):
            return f"Redis does not stay up with it: tail {instance.root}/logs/redis.log"
        try:
            with instance.connect() as redis:
                redis.ping()
            return ""
        except (BusyLoadingError, NotConnected):
            continue
        except RedisError as error:
            return f"Redis says: {error_text(error)}"
    return f"it was not loaded within {LOAD_TIMEOUT / 3600:.0f} h"


def _wait_until_healthy(instance: Instance) -> list[str]:
    """By the health check itself: the engine asks only now and then."""
    check = ["docker", "exec", instance.name, "/bin/sh", "/etc/redis/healthcheck.sh"]
    deadline = time.monotonic() + HEALTHY_TIMEOUT
    while True:
        done = subprocess.run(check, capture_output=True, text=True, timeout=HEALTHY_TIMEOUT, check=False)
        if done.returncode == 0:
            return []
        if time.monotonic() > deadline:
            return [f"Redis is not healthy: {(done.stdout or done.stderr).strip()}"]
        time.sleep(_POLL)
