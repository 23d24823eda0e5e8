"""redisctl health and stats: verdicts over the real answers of a Redis."""

import json
import os
import signal
from typing import Any

import pytest

from tests.redisctl.local_redis import LocalRedis

GIB = 1024**3


def health(redis: LocalRedis) -> tuple[int, str, dict[str, str]]:
    """Return exit code, verdict, and observed values of the checks that are not ok."""
    output = redis.redisctl("health --json")
    report = json.loads(output.stdout)
    checks = {check["name"]: check["observed"] for check in report["checks"] if check["verdict"] != "ok"}
    return output.returncode, report["verdict"], checks


def test_healthy_redis_is_ok(redis: LocalRedis) -> None:
    assert health(redis) == (0, "ok", {})
    assert redis.redisctl("health").stdout.rstrip().endswith(f"{redis.settings.redis_name} is ok")
    stats = redis.report("stats")
    assert (stats["maxmemory_policy"], stats["maxmemory"]) == ("volatile-lru", GIB)


def test_stats_and_health_read_the_same_numbers_as_redis_py(redis: LocalRedis) -> None:
    """The small client of health and stats parses INFO as redis-py does."""
    with redis.client() as client:
        client.set("app:session:one", "x", ex=600)
        client.set("app:session:two", "x")
        info: dict[str, Any] = client.info("all")
        stats = redis.report("stats")
        client.unlink("app:session:one", "app:session:two")
    assert (stats["keys"], stats["keys_with_ttl"]) == (2, 1) == (info["db0"]["keys"], info["db0"]["expires"])
    assert stats["version"] == info["redis_version"]
    assert stats["maxmemory"] == info["maxmemory"]
    assert stats["aof_size"] >= info["aof_current_size"] > 0
    assert 0 < stats["round_trip"] < 1


def test_files_that_redis_does_not_write_are_reported(redis: LocalRedis) -> None:
    """Links and FIFOs are counted, and not followed or opened."""
    live, logs = redis.root / "data/live", redis.root / "logs"
    (live / "core").write_bytes(b"x" * 1024**2)
    (live / "appendonlydir/link").symlink_to("/")
    os.mkfifo(logs / "\x1b[2J")
    try:
        code, verdict, checks = health(redis)
        text = redis.redisctl("health").stdout
    finally:
        for path in (live / "core", live / "appendonlydir/link", logs / "\x1b[2J"):
            path.unlink()
    assert (code, verdict) == (1, "warning")
    names = "data/live/appendonlydir/link, data/live/core, logs/"
    assert checks["files of redis"].startswith(f"Redis does not write {names}")
    assert checks["files of redis"].endswith("(1.0 MiB)")
    assert "\x1b" not in text
    assert health(redis)[0] == 0


def test_hanging_redis_is_critical(redis: LocalRedis) -> None:
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        code, verdict, checks = health(redis)
    finally:
        os.kill(redis.pid, signal.SIGCONT)
    assert (code, verdict) == (2, "critical")
    assert checks["ping"] == "Redis did not answer within 5 s"
    assert health(redis)[0] == 0


@pytest.mark.parametrize("harm", ["other names", "missing file"])
def test_unusable_names_of_commands_are_critical(redis: LocalRedis, harm: str) -> None:
    """An edited or missing commands.conf is critical.

    Every verb names the file, and none shows a name of a command.
    """
    path = redis.root / "secrets/server/commands.conf"
    names = path.read_text()
    path.unlink() if harm == "missing file" else path.write_text(names.replace("\n", "-edited\n"))
    try:
        code, verdict, checks = health(redis)
        refusal = redis.refusal("slowlog")
    finally:
        path.write_text(names)
    reasons = {
        "other names": f"Redis does not know CONFIG by its name in {path}: that file is not the one that Redis started "
        "with. Deploy again",
        "missing file": f"{path}: No such file or directory: deploy again",
    }
    assert (code, verdict, checks["ping"]) == (2, "critical", reasons[harm])
    assert refusal == f"redisctl: {reasons[harm]}\n"


def test_stopped_redis_is_critical(redis: LocalRedis) -> None:
    """Files and backups are checked even if Redis is stopped.

    Deployed: lifecycle/test_redisctl.py.
    """
    redis.stop()
    try:
        output = redis.redisctl("health --json")
        refusal = redis.refusal("sessions")
    finally:
        redis.start()
    checks = {check["name"]: check for check in json.loads(output.stdout)["checks"]}
    assert output.returncode == 2
    assert checks["ping"]["observed"] == "the container is exited"
    assert {"container", "disk", "backup"} <= set(checks)
    assert f"the container {redis.settings.redis_name} is exited: redisctl start starts it" in refusal


@pytest.mark.parametrize(("share", "expected"), [(0.8, (1, "warning")), (0.95, (2, "critical"))])
def test_nearly_full_memory_is_reported(redis: LocalRedis, share: float, expected: tuple[int, str]) -> None:
    # Without evictions, which would be a warning for as long as Redis runs.
    redis.execute_renamed("CONFIG", "SET", "maxmemory-policy", "noeviction")
    with redis.client() as client:
        used = int(client.info("memory")["used_memory"])
    redis.execute_renamed("CONFIG", "SET", "maxmemory", str(int(used / share)))
    try:
        code, verdict, checks = health(redis)
    finally:
        redis.execute_renamed("CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "volatile-lru")
    assert ((code, verdict), set(checks)) == (expected, {"memory"})
    assert health(redis)[0] == 0


def test_failed_save_is_critical(redis: LocalRedis) -> None:
    live = redis.root / "data/live"
    live.chmod(0o500)
    os.chown(live, 0, 0)
    try:
        with redis.client() as client:
            client.bgsave()
            while client.info("persistence")["rdb_bgsave_in_progress"]:
                pass
        code, verdict, checks = health(redis)
    finally:
        os.chown(live, 999, 999)
        live.chmod(0o700)
    assert (code, verdict) == (2, "critical")
    assert checks.get("rdb snapshot", "").startswith("the last save failed"), checks
    with redis.client() as client:
        client.bgsave()
        while client.info("persistence")["rdb_bgsave_in_progress"]:
            pass
    assert health(redis)[0] == 0


def test_replica_is_critical(redis: LocalRedis) -> None:
    """admin may not run REPLICAOF, so the server gets it from its configuration."""
    redis.stop()
    conf = redis.root / "config/redis.conf"
    text = conf.read_text()
    conf.write_text(f"{text}replicaof 127.0.0.1 1\n")
    redis.start()
    try:
        checks = health(redis)[2]
    finally:
        redis.stop()
        conf.write_text(text)
        redis.start()
    assert checks["role"] == "replica of 127.0.0.1:1, link down"


def test_missing_manifest_of_the_aof_is_critical(redis: LocalRedis) -> None:
    """Redis would start empty. Deployed: lifecycle/test_repair.py."""
    manifest = redis.root / "data/live/appendonlydir/appendonly.aof.manifest"
    kept = redis.root / "kept.manifest"
    manifest.rename(kept)
    try:
        code, _, checks = health(redis)
    finally:
        kept.rename(manifest)
    assert (code, set(checks)) == (2, {"aof files"})


def test_links_of_redis_are_not_followed(redis: LocalRedis) -> None:
    """Health reports links in place of files, and reads nothing behind them.

    Redis can replace its files by links.
    """
    directory = redis.root / "data/live/appendonlydir"
    kept = redis.root / "kept"
    directory.rename(kept)
    directory.symlink_to("/etc")
    try:
        code, verdict, checks = health(redis)
    finally:
        directory.unlink()
        kept.rename(directory)
    assert (code, verdict, set(checks)) == (3, "unknown", {"aof files", "files of redis"})
    assert "passwd" not in "".join(checks.values())
