"""Changes to a running Redis without a restart.

They are its configuration, its certificate and its container's limits.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from redisctl import paths
from redisctl.core import docker, process, progress
from redisctl.core.answers import reading_answers
from redisctl.core.errors import Failure
from redisctl.core.files import write_file
from redisctl.core.instance import Instance, error_text
from redisctl.schema import CertificateRequest, LiveConfigRequest, PersistenceRequest, Result

# Seconds that Redis gets to give evicted memory back to the kernel before its limit is lowered.
_SHRINK_TIMEOUT = 30
# Seconds for one CONFIG SET: lowering maxmemory evicts keys while it runs.
_SET_TIMEOUT = 30
# The first version that sets several directives in one call.
_SETS_SEVERAL_SINCE = 7


def apply(instance: Instance, request: LiveConfigRequest) -> Result:
    """Apply configuration and limits to the running Redis.

    Redis takes each CONFIG SET whole or not. Writes ROOT/compose.created.yml, so that Compose does not replace the
    container for the change. Raises Failure.
    """
    _write_override(instance, request.override)
    if request.raise_limits_first:
        _set_limits(instance, request)
        _set_config(instance, request)
    else:
        _set_config(instance, request)
        _set_limits(instance, request)
    return Result(changed=True)


def _write_override(instance: Instance, override: str) -> None:
    container_id = docker.container(instance.name).get("Id")
    if not container_id:
        raise Failure(f"there is no container {instance.name} to change: deploy again")
    path: Path = instance.root / paths.COMPOSE_OVERRIDE
    write_file(path, f"# {container_id}\n{override}", mode=0o600, uid=0, gid=0)


def _set_config(instance: Instance, request: LiveConfigRequest) -> None:
    if not request.config:
        return
    with instance.connect(socket_timeout=_SET_TIMEOUT) as redis:
        for arguments in request.config:
            _config_set(instance, redis, *arguments)


def _config_set(instance: Instance, redis: Redis, *arguments: str) -> None:
    try:
        instance.execute_renamed(redis, "CONFIG", "SET", *arguments)
    except RedisError as error:
        reason = _without_secret_names(instance, error_text(error))
        raise Failure(f"{instance.name} refuses this while it runs, and keeps what it has: {reason}") from None


def _without_secret_names(instance: Instance, text: str) -> str:
    for command, name in instance.renamed.items():
        text = text.replace(name, command)
    return text


def _set_limits(instance: Instance, request: LiveConfigRequest) -> None:
    if not request.limits:
        return
    if not request.raise_limits_first:
        _wait_until_it_fits(instance, request.memory)
    result = process.run(["docker", "update", *request.limits, instance.name])
    if result.returncode != 0:
        raise Failure(
            f"Docker does not change these limits while {instance.name} runs: {result.stderr.strip()}. To have the "
            f"next deploy recreate the container with them, run 'docker stop {instance.name}' and 'docker rm "
            f"{instance.name}'"
        )


def _wait_until_it_fits(instance: Instance, limit: int) -> None:
    """Wait until Redis uses less memory than the new limit.

    The kernel would kill it otherwise. Raises Failure.
    """
    deadline = time.monotonic() + _SHRINK_TIMEOUT
    while True:
        with instance.connect() as redis:
            resident = int(redis.info("memory")["used_memory_rss"])
        if resident < limit:
            return
        if time.monotonic() > deadline:
            raise Failure(
                f"{instance.name} uses {resident} bytes, and the kernel would kill it at a limit of {limit}: it keeps "
                "its limit. Redis gives freed memory back when it restarts: redisctl "
                "restart, then deploy again"
            )
        time.sleep(1)


@reading_answers()
def reload_certificate(instance: Instance, request: CertificateRequest) -> Result:
    """Have the running Redis load a certificate; connections stay open.

    Raises Failure; then Redis keeps its own.
    """
    with instance.connect(socket_timeout=_SET_TIMEOUT) as redis:
        try:
            if int(redis.info("server")["redis_version"].partition(".")[0]) < _SETS_SEVERAL_SINCE:
                _reload_without_port(instance, redis, request.directives)
            else:
                arguments = [word for pair in request.directives.items() for word in pair]
                instance.execute_renamed(redis, "CONFIG", "SET", *arguments)
        except RedisError as error:
            reason = _without_secret_names(instance, error_text(error))
            raise Failure(f"{instance.name} refuses the certificate, and keeps its own: {reason}") from None
    return Result(changed=True)


def _reload_without_port(instance: Instance, redis: Redis, directives: Mapping[str, str]) -> None:
    """Load a certificate into a Redis that sets one directive in a call.

    It refuses a certificate before its key, and the key before its certificate. Without a TLS port it compares them
    only when the port comes back. Until then, some milliseconds, it refuses new connections. Raises RedisError; then
    Redis has what it had.
    """
    before = {name: _config_get(instance, redis, name)[name] for name in ("tls-port", *directives)}
    try:
        _set_in_turn(instance, redis, {**directives, "tls-port": before["tls-port"]})
    except RedisError:
        _set_in_turn(instance, redis, {**{name: before[name] for name in directives}, "tls-port": before["tls-port"]})
        raise


def _set_in_turn(instance: Instance, redis: Redis, values: Mapping[str, str]) -> None:
    """Close the TLS port and set directives one after the other, the port last.

    All calls are sent at once: Redis executes them even if this process is killed. Raises the first RedisError.
    """
    pipeline = redis.pipeline(transaction=False)
    for name, value in (("tls-port", "0"), *values.items()):
        pipeline.execute_command(instance.renamed_command("CONFIG"), "SET", name, value)
    pipeline.execute()


def switch_persistence(instance: Instance, request: PersistenceRequest) -> Result:
    """Have the running Redis write its data as AOF or as RDB snapshot.

    This comes before a configuration that reads only that: with appendonly on Redis starts empty from an RDB snapshot
    alone. An AOF that is on is rewritten. Raises Failure; then the data stays as it is.
    """
    try:
        with instance.connect(socket_timeout=_SET_TIMEOUT) as redis:
            if request.target == "aof":
                if _config_get(instance, redis, "appendonly").get("appendonly") == "yes":
                    _begin(instance, redis, "BGREWRITEAOF", request.timeout)
                _config_set(instance, redis, "appendonly", "yes")
                _wait_until_written(instance, redis, "aof_rewrite", "aof_last_bgrewrite_status", request.timeout)
            else:
                _write_rdb(instance, redis, request)
    except RedisError as error:
        raise Failure(f"{instance.name} stays as it is: {error_text(error)}") from None
    return Result(changed=True)


def _write_rdb(instance: Instance, redis: Redis, request: PersistenceRequest) -> None:
    _config_set(instance, redis, "save", request.save)
    # Redis 7.0 introduced it; older ones always save when they stop.
    if "shutdown-on-sigterm" in _config_get(instance, redis, "shutdown-on-sigterm"):
        _config_set(instance, redis, "shutdown-on-sigterm", "default")
    # A crash before the next save point would leave an old snapshot, now that there will be no AOF. A save that is
    # under way began earlier, so it does not count.
    _begin(instance, redis, "BGSAVE", request.timeout)
    _wait_until_written(instance, redis, "rdb_bgsave", "rdb_last_bgsave_status", request.timeout)


def _begin(instance: Instance, redis: Redis, command: str, timeout: int) -> None:
    """Have Redis begin to write its data, after a write in progress. Raises Failure."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            instance.execute_renamed(redis, command)
            return
        except RedisError as error:
            if time.monotonic() > deadline:
                raise Failure(f"{instance.name} does not write its data: {error_text(error)}") from None
        time.sleep(1)


@reading_answers()
def _config_get(instance: Instance, redis: Redis, name: str) -> dict[str, str]:
    answer = instance.execute_renamed(redis, "CONFIG", "GET", name)
    return dict(zip(answer[::2], answer[1::2], strict=False)) if isinstance(answer, list) else dict(answer)


def _wait_until_written(instance: Instance, redis: Redis, job: str, status: str, timeout: int) -> None:
    deadline = time.monotonic() + timeout
    while True:
        persistence: Mapping[str, Any] = redis.info("persistence")
        if not persistence.get(f"{job}_in_progress") and not persistence.get(f"{job}_scheduled"):
            break
        progress.report(f"Redis writes its data: {persistence.get('current_save_keys_processed', 0)} keys")
        if time.monotonic() > deadline:
            raise Failure(
                f"{instance.name} needs more than {timeout} s to write its data. Deploy again when INFO persistence "
                "says that it has finished"
            )
        time.sleep(0.5)
    if persistence.get(status) != "ok":
        raise Failure(f"{instance.name} could not write its data: redisctl log")
