"""Stops and starts the Redis container of an instance, and checks both.

A stop has three steps: Docker loses the means to start Redis by itself, Redis gets SIGTERM, and the way it exited is
checked. Redis exits with 0 even if its last write to the AOF failed, so the check reads the log as well.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis import Redis
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redisctl.core import docker, network_filter, process, progress, publishing, server_changes
from redisctl.core.errors import Failure
from redisctl.core.files import RDB_FILE
from redisctl.core.instance import Instance, error_text

# Seconds until a Redis that has loaded its data must pass its health check, and until it must have loaded.
HEALTHY_TIMEOUT = 60
LOADING_TIMEOUT = 4 * 3600
_POLL = 0.2
# Seconds after SIGTERM. Redis answers no client while it saves; before that it waits up to 10 s for its replicas
# (shutdown-timeout). If it answers later than that, it has refused to exit.
_REFUSED_AFTER = 15

# Seconds in which a container that crashes again and again must be in a state that Docker can update.
_UPDATE_TIMEOUT = 20
# Docker's longest pause between two restarts is a minute. A Redis that has run for longer may have data to save.
_CRASH_LOOP_SECONDS = 60

# What Redis and Valkey log when the last write of a stop fails (src/server.c, prepareForShutdown and
# finishShutdown; src/aof.c, flushAppendOnlyFile).
_CANNOT_EXIT = "can't exit"
_LOST_WRITES = (
    _CANNOT_EXIT,
    "Error trying to save the DB",
    "Fail to fsync the AOF file",
    "Error writing to the AOF file",
    "Short write while writing to the AOF file",
)

Check = Callable[[Redis], list[str]]


class UncleanStop(Failure):
    """A stop of Redis that was not clean.

    ``running`` says that it still runs and has lost nothing.
    """

    def __init__(self, message: str, *, running: bool) -> None:
        super().__init__(message)
        self.running = running


@dataclass(frozen=True)
class Stopped:
    """The result of a stop.

    ``was_running`` is False if Redis was down already; ``warning`` says what may be missing.
    """

    was_running: bool
    warning: str = ""


# -- Stop


def restart_policy(instance: Instance) -> str:
    """Return the restart policy of the container, empty without one.

    The journal records it before it changes.
    """
    inspected = docker.container(instance.name)
    return str(inspected["HostConfig"]["RestartPolicy"]["Name"]) if inspected else ""


def hold_down(instance: Instance) -> None:
    """Make sure that Docker cannot start Redis by itself."""
    set_restart_policy(instance, "no")


def set_restart_policy(instance: Instance, policy: str) -> None:
    """Set the restart policy of the container, if there is one, and have it on disk."""
    inspected = docker.container(instance.name)
    if not inspected or not policy or inspected["HostConfig"]["RestartPolicy"]["Name"] == policy:
        return
    command = ["docker", "update", "--restart", policy, instance.name]
    deadline = time.monotonic() + _UPDATE_TIMEOUT
    # Docker fails in the moment when a process has exited and its container still counts as running.
    while (result := process.run(command)).returncode != 0:
        if time.monotonic() > deadline:
            raise Failure(f"Docker does not change the restart policy of {instance.name}: {result.stderr.strip()}")
        time.sleep(_POLL)
    # Docker writes the file, but leaves it to the kernel when it reaches the disk.
    process.run(["sync", "--file-system", inspected.get("HostsPath") or "/var/lib/docker"])


def stop(instance: Instance, *, discard_unsaved: bool = False) -> Stopped:
    """Stop Redis, which saves what its configuration asks for, and check that it did.

    ``hold_down`` comes first. Waits ``stop_grace`` seconds. A Redis that cannot save keeps running. With
    ``discard_unsaved`` it is killed then, and a stop that lost writes is a warning. Raises UncleanStop.
    """
    instance.refresh_container()
    state = instance.container.get("State", {})
    if not state.get("Running") or state.get("Restarting") or _is_crash_looping(instance):
        # A container that is restarting must not start between here and the move of its data.
        process.run(["docker", "stop", instance.name], timeout=None)
        instance.refresh_container()
        return Stopped(was_running=False, warning=_missing_when_down(instance, state))
    if state.get("Paused"):
        process.check(["docker", "unpause", instance.name])
    # Redis logs an error of the AOF only every 30 s, so the one of the last write may be missing from its log.
    unwritten = _cannot_write(instance)
    if unwritten and not discard_unsaved:
        raise UncleanStop(f"Redis was not stopped: {unwritten}", running=True)
    log_size = instance.log_size()
    saves = _saves_at_stop(instance)
    started = time.time()
    # Not by 'docker kill': if Redis refuses to exit, Docker would never restart it after a crash.
    with contextlib.suppress(ProcessLookupError):
        # It may have crashed since Docker was asked. How it exited is checked in the same way.
        os.kill(state["Pid"], signal.SIGTERM)
    problem = _wait_for_exit(instance, log_size, discard_unsaved=discard_unsaved)
    if not problem and saves:
        problem = _unsaved(instance, started)
    if problem and not discard_unsaved:
        raise UncleanStop(f"Redis stopped, but {problem}", running=False)
    problem = problem or unwritten
    return Stopped(was_running=True, warning=f"Redis did not stop cleanly: {problem}" if problem else "")


def _is_crash_looping(instance: Instance) -> bool:
    """Say whether Redis crashed, was just restarted by Docker and does not serve yet.

    Such a Redis has nothing to save.
    """
    started = str(instance.container["State"].get("StartedAt", ""))[:19]
    if not instance.container.get("RestartCount") or not started:
        return False
    since = time.time() - datetime.fromisoformat(f"{started}+00:00").timestamp()
    return since < _CRASH_LOOP_SECONDS and not _answers(instance)


def _cannot_write(instance: Instance) -> str:
    """Say why the running Redis could not bring its last writes to disk.

    Returns an empty string if it could, or if it does not answer.
    """
    try:
        with instance.connect() as redis:
            persistence = redis.info("persistence")
    except (RedisError, Failure):
        return ""
    if persistence.get("aof_enabled") and persistence.get("aof_last_write_status") != "ok":
        return "its last write to the AOF failed, so its newest writes are only in memory: the disk may be full"
    return ""


def must_stop_checked(instance: Instance) -> bool:
    """Say whether a stop must be checked, because Redis has data that is on no disk.

    Docker alone would kill a Redis that cannot save it.
    """
    return bool(_saves_at_stop(instance) or _cannot_write(instance))


def _saves_at_stop(instance: Instance) -> bool:
    """Say whether the running Redis writes dump.rdb when it stops, and needs it."""
    try:
        with instance.connect() as redis:
            config = instance.execute_renamed(redis, "CONFIG", "GET", "save")
            persistence = redis.info("persistence")
    except (RedisError, Failure):
        return False
    return bool(config[1]) and not persistence.get("aof_enabled")


def _wait_for_exit(instance: Instance, log_size: int, *, discard_unsaved: bool) -> str:
    """Wait until Redis has exited, and return what it may have lost.

    Raises UncleanStop if it keeps running.
    """
    started = time.monotonic()
    while True:
        instance.refresh_container()
        state = instance.container.get("State", {})
        messages = instance.read_log(log_size)
        if not state.get("Running"):
            return _lost_at_exit(state, messages)
        waited = time.monotonic() - started
        progress.report(f"Redis saves its data and stops: {waited:.0f} s")
        problem = ""
        if _CANNOT_EXIT in messages:
            problem = f"it cannot save its data ({_lost(messages)}): the disk may be full"
        elif waited > _REFUSED_AFTER and _answers(instance):
            # A disk that is too full for the data may be too full for the log.
            problem = f"it serves {_REFUSED_AFTER} s after SIGTERM, so it cannot save its data: the disk may be full"
        elif waited > instance.stop_grace:
            problem = f"it did not exit within {instance.stop_grace} s, and still saves"
        if problem and not discard_unsaved:
            raise UncleanStop(f"Redis still runs: {problem}", running=True)
        if problem:
            process.check(["docker", "kill", instance.name])
            instance.refresh_container()
            return f"{problem}. It was killed, and what it had not saved is lost"
        time.sleep(_POLL)


def _answers(instance: Instance) -> bool:
    """Say whether Redis has loaded its data and answers, if only with an error.

    A full disk makes PING an error.
    """
    try:
        with instance.connect() as redis:
            redis.ping()
    except (RedisConnectionError, RedisTimeoutError, Failure):
        return False
    except RedisError:
        pass
    return True


def _lost_at_exit(state: dict[str, Any], messages: str) -> str:
    """Say what a Redis that exited may have lost; empty if it saved everything."""
    if state.get("OOMKilled"):
        return "the kernel killed it for lack of memory: its last writes may be missing"
    if state.get("ExitCode"):
        return f"it exited with {state['ExitCode']}: its last writes may be missing"
    return _lost(messages)


def _lost(messages: str) -> str:
    lines = [line for line in messages.splitlines() if any(text in line for text in _LOST_WRITES)]
    return f"redis.log reports: {lines[-1].strip()}" if lines else ""


def _unsaved(instance: Instance, started: float) -> str:
    rdb = instance.config_value("dbfilename", RDB_FILE)
    try:
        # File systems keep coarser times than the clock has.
        if instance.live_files.status(rdb).st_mtime >= started - 2:
            return ""
    except OSError:
        pass
    return f"it did not write {instance.live}/{rdb}: what changed since its last save may be missing"


def _missing_when_down(instance: Instance, state: dict[str, Any]) -> str:
    """Say what the files of a Redis that was down already may lack.

    Returns an empty string if it had exited cleanly.
    """
    if not instance.container:
        return ""
    looping = state.get("Restarting") or state.get("Running")
    if not looping and not state.get("ExitCode") and not state.get("OOMKilled"):
        return ""
    why = "crashed and was restarted again and again" if looping else f"had exited with {state.get('ExitCode')}"
    return (
        f"Redis was not running: it {why}. Its files are kept as they were; writes that it had not saved are not in "
        "them (redisctl log)"
    )


# -- Start


def start(instance: Instance, policy: str = "") -> None:
    """Start Redis with its restart policy, and do not wait for it. Raises Failure.

    Creates the container from compose.yml if there is none.
    """

    def bring_up() -> str:
        instance.refresh_container()
        if not instance.container:
            return docker.run(docker.compose(instance.root, instance.name, "up", "--detach", instance.name))
        set_restart_policy(instance, policy or instance.restart)
        return docker.run(["docker", "start", instance.name])

    try:
        docker.RestartGuard().call(lambda: publishing.repairing(instance, bring_up))
    except Failure as error:
        raise Failure(f"Redis does not start: {error}") from None
    network_filter.watch(instance)


def start_and_check(instance: Instance, check: Check, policy: str = "") -> list[str]:
    """Start Redis, wait until it is healthy, and return what is wrong with it.

    Redis has loaded its data before ``check`` examines it, and what that changed in the server is undone.
    """
    try:
        start(instance, policy)
        # The container is as it was before the start.
        problem, _ = settle(instance, instance.container)
    except Failure as error:
        return [str(error)]
    if problem:
        return [problem]
    try:
        with instance.connect(decode_responses=False) as redis:
            problems = check(redis)
    except RedisError as error:
        return [f"Redis answers: {error_text(error)}"]
    return problems or _wait_until_healthy(instance)


def settle(instance: Instance, before: dict[str, Any], timeout: float | None = None) -> tuple[str, list[str]]:
    """Wait until Redis has loaded its data, and undo what that changed.

    Every start by redisctl that waits for Redis comes here. ``before`` is the container before the start. ``timeout``
    is in seconds, for loading. Returns why Redis does not serve, and what was undone. Raises Failure, also if the data
    locks admin out.
    """
    if problem := _wait_until_loaded(instance, _earlier_restarts(before), timeout or LOADING_TIMEOUT):
        return problem, []
    return "", server_changes.undo_after_start(instance)


def _earlier_restarts(container: dict[str, Any]) -> int:
    """Return how often Docker had restarted a Redis that runs.

    0 for one that does not run: a start resets Docker's count.
    """
    state = container.get("State", {})
    runs = state.get("Running") and not state.get("Restarting")
    return int(container.get("RestartCount") or 0) if runs else 0


def _wait_until_loaded(instance: Instance, restarts: int, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        time.sleep(_POLL)
        instance.refresh_container()
        state = instance.container.get("State", {})
        has_crashed = int(instance.container.get("RestartCount") or 0) > restarts
        if state.get("Restarting") or not state.get("Running") or has_crashed:
            return "Redis does not stay up with it: redisctl log"
        progress.report("Redis loads its data")
        try:
            with instance.connect() as redis:
                try:
                    redis.ping()
                except NoPermissionError:
                    # The data took this right from admin, and may create users after that.
                    redis.execute_command("ACL", "LOAD")
                    continue
            return ""
        except (AuthenticationError, NoPermissionError):
            # Its data changed its users.
            return ""
        except (BusyLoadingError, RedisConnectionError):
            continue
        except RedisError as error:
            return f"Redis answers: {error_text(error)}"
    return f"Redis did not load its data within {timeout:.0f} s"


def _wait_until_healthy(instance: Instance) -> list[str]:
    """Run the health check itself, because Docker runs it only now and then."""
    check = ["docker", "exec", instance.name, "/bin/sh", "/etc/redis/healthcheck.sh"]
    deadline = time.monotonic() + HEALTHY_TIMEOUT
    while True:
        result = process.run(check, timeout=HEALTHY_TIMEOUT)
        if result.returncode == 0:
            return []
        if time.monotonic() > deadline:
            return [f"Redis is not healthy: {(result.stdout or result.stderr).strip()}"]
        time.sleep(_POLL)
