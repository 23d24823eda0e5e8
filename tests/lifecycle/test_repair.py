"""Damaged data files.

Health explains them, repair says what would be lost, and then the instance serves again.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import empty_instance

ROOT = "/srv/redis"
LIVE = f"{ROOT}/data/live"
AOF = f"{LIVE}/appendonlydir"
INTACT = "/root/intact-data"
BASE, INCR, MANIFEST = "appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof", "appendonly.aof.manifest"
# Keys in the base of the AOF, and in the increment after it.
BASE_KEYS, INCR_KEYS = 200, 100
KEYS = BASE_KEYS + INCR_KEYS


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Yield the shared host with some sessions, most of them in the base of the AOF.

    Data and backups are removed again afterwards.
    """
    with empty_instance(host, deployer, INTACT) as instance:
        sessions = [f"SET app:session:{number} {number:04} EX 72000" for number in range(KEYS)]
        instance.call(*sessions[:BASE_KEYS], "BGREWRITEAOF")
        wait_until(lambda: host.run(f"test -e {AOF}/{BASE}").returncode == 0, "the AOF is rewritten", 20)
        instance.call(*sessions[BASE_KEYS:])
        assert instance.call("SAVE") == ["OK"]
        host.run(f"docker stop redis && rm -rf {INTACT} && cp -a {LIVE} {INTACT}", check=True)
        yield instance


@pytest.fixture
def stopped(redis: Instance) -> Iterator[Instance]:
    """Yield the instance with intact files, not running.

    Redis serves the intact files again afterwards.
    """
    reset = (
        f"docker stop redis; rm -rf {ROOT}/backups/2* {ROOT}/data/previous {LIVE}/*; cp -a {INTACT}/. {LIVE}/; "
        f": > {ROOT}/logs/redis.log"
    )
    redis.host.run(reset)
    yield redis
    redis.host.run(f"{reset}; docker start redis", check=True)
    redis.wait_until_healthy()
    assert redis.host.run("docker ps --all --quiet | wc -l").stdout.split() == ["1"]
    leftovers = f"ls -d {ROOT}/data/journal.json {ROOT}/data/staging/* {ROOT}/backups/.*.partial"
    assert redis.host.run(leftovers).stdout == ""


def health(redis: Instance) -> tuple[int, dict[str, tuple[str, str, str]]]:
    """Return the exit code of health and its checks that are not ok.

    Each check has its verdict, observation and remedy.
    """
    result = redis.host.run("redisctl health --json")
    checks = json.loads(result.stdout)["checks"]
    return result.returncode, {
        check["name"]: (check["verdict"], check["observed"], check["remedy"])
        for check in checks
        if check["verdict"] != "ok"
    }


def repair(redis: Instance, options: str = "") -> tuple[int, dict[str, Any]]:
    """Return the exit code and the report of redisctl repair."""
    result = redis.host.run(f"redisctl repair --json {options}")
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


def start(redis: Instance) -> None:
    redis.host.run("docker start redis", check=True)


def start_healthy(redis: Instance) -> None:
    start(redis)
    redis.wait_until_healthy()


def start_explained(redis: Instance) -> tuple[int, tuple[str, str, str]]:
    """Start a Redis that cannot load its data, and wait until health explains it.

    Returns health's exit code and what it says of the container.
    """

    answers = []

    def is_explained() -> bool:
        code, problems = health(redis)
        container = problems.get("container", ("", "", ""))
        answers.append((code, container))
        return ": " in container[1]

    start(redis)
    # The answer that explains it: Docker has started Redis once more at the next.
    wait_until(is_explained, "health explains it", 20)
    return answers[-1]


def repaired(redis: Instance, source: str, count: int) -> None:
    """Repair the data, and check that Redis is healthy.

    The damaged files must be the previous data, byte for byte.
    """
    damaged = redis.host.run(f"cd {LIVE} && find . -type f | sort | xargs sha256sum").stdout
    code, report = repair(redis, "--yes")
    assert (code, report["repaired"], report["source"], report["loaded"]["keys"]) == (0, True, source, count)
    assert redis.keys == count
    assert health(redis) == (0, {})
    previous = redis.host.run(f"cd {ROOT}/data/previous/* && find . -type f | sort | xargs sha256sum").stdout
    assert previous == damaged
    assert json.loads(redis.host.run("redisctl repair --json").stdout)["serves"] is True


def assert_undo_fails(redis: Instance) -> None:
    """Check that data that does not load is not brought back.

    Redis continues with the repaired data, and keeps the damaged data.
    """
    count = redis.keys
    result = redis.host.run("redisctl restore --undo --yes")
    assert (result.returncode, "is damaged" in result.stderr) == (3, True), result
    assert redis.keys == count
    assert redis.host.run(f"ls {ROOT}/data/previous/*").stdout != ""


def test_repair_leaves_a_serving_redis_alone(redis: Instance) -> None:
    start_healthy(redis)
    before = redis.identity
    for options in ("", "--yes"):
        assert repair(redis, options) == (0, {"instance": "redis", "serves": True, "repaired": False})
    assert redis.identity == before


def test_truncated_aof_is_repaired_by_redis_and_reported(stopped: Instance) -> None:
    stopped.host.run(f"truncate --size -7 {AOF}/{INCR}; rm {LIVE}/dump.rdb", check=True)
    code, report = repair(stopped)
    assert (code, report["source"], report["loaded"]["keys"], report["lost"]["commands"]) == (1, "aof", KEYS - 1, {})
    assert 7 < report["lost"]["size"] < 100
    start_healthy(stopped)
    code, problems = health(stopped)
    assert (code, list(problems), problems["aof truncated"][0]) == (1, ["aof truncated"], "warning")
    assert "once" in problems["aof truncated"][1]
    assert stopped.keys == KEYS - 1


def test_aof_is_cut_at_the_first_damage(stopped: Instance) -> None:
    """The AOF ends before the first damage after a repair that reports what is lost.

    Repair names keys only on request, and --undo refuses to bring the damage back.
    """
    damage = f"printf GARBAGEGARBAGE | dd of={AOF}/{INCR} bs=1 seek=2000 conv=notrunc; rm {LIVE}/dump.rdb"
    stopped.host.run(damage, check=True)
    code, (verdict, observed, remedy) = start_explained(stopped)
    assert (code, verdict) == (2, "critical")
    assert f"the AOF is damaged in {INCR}" in observed
    assert "redisctl repair" in remedy

    code, report = repair(stopped)
    (finding,) = report["damaged"]
    loss = report["lost"]
    assert (code, report["repaired"], finding["name"]) == (1, False, INCR)
    assert (loss["size"], finding["sound"] <= 2000) == (finding["size"] - finding["sound"], True)
    # The command that was overwritten is in neither count.
    assert report["loaded"]["keys"] + loss["keys"]["sessions"] == KEYS - 1
    assert loss["commands"] == {"SET": loss["keys"]["sessions"]}
    output = stopped.host.run("redisctl repair").stdout
    assert (f"{loss['size']} bytes of the AOF" in output, "app:session:" in output) == (True, False)
    assert f"app:session:{KEYS - 1}" in stopped.host.run("redisctl repair --names").stdout
    repaired(stopped, "aof", report["loaded"]["keys"])
    assert_undo_fails(stopped)


@pytest.mark.parametrize(
    ("damage", "meaning"),
    [
        (f"truncate --size 100 {AOF}/{BASE}", "an RDB snapshot is truncated or damaged"),
        (
            f"cd {AOF} && printf xxxxxxxx | dd of={BASE} bs=1 seek=$(($(stat -c %s {BASE}) - 8)) conv=notrunc",
            "its checksum",
        ),
        (f"rm {AOF}/{BASE}", f"{BASE}, a file of the AOF, is missing"),
    ],
)
def test_rdb_snapshot_replaces_a_damaged_aof(stopped: Instance, damage: str, meaning: str) -> None:
    """dump.rdb was saved after the last write: it has everything."""
    stopped.host.run(damage, check=True)
    code, (_, observed, _) = start_explained(stopped)
    assert (code, meaning in observed) == (2, True), observed
    repaired(stopped, "rdb", KEYS)


def test_repair_reports_the_rdb_snapshot_before_it_uses_it(stopped: Instance) -> None:
    stopped.host.run(f"rm {AOF}/{INCR}", check=True)
    code, (_, observed, _) = start_explained(stopped)
    assert (code, f"{INCR}, a file of the AOF, is missing" in observed) == (2, True), observed
    code, report = repair(stopped)
    assert (code, report["source"], report["loaded"]["keys"], report["snapshot"]["keys"]) == (1, "rdb", KEYS, KEYS)
    repaired(stopped, "rdb", KEYS)


@pytest.mark.parametrize(
    ("change", "meaning", "advice"),
    [
        (f"printf 0099 | dd of={AOF}/{BASE} bs=1 seek=5 conv=notrunc", "a newer version wrote", "deploy"),
        (f"printf VALKEY080 | dd of={AOF}/{BASE} bs=1 conv=notrunc", "the AOF is damaged", "deploy Valkey 9"),
    ],
)
def test_data_of_another_version_is_no_damage(stopped: Instance, change: str, meaning: str, advice: str) -> None:
    """Health and repair advise the same.

    The RDB snapshot is used only on request.
    """
    stopped.host.run(change, check=True)
    assert meaning in start_explained(stopped)[1][1]
    code, report = repair(stopped, "--yes")
    assert (code, report["damaged"], report["repaired"], report["source"]) == (1, [], False, "")
    assert "Nothing is damaged" in report["load_error"]
    assert advice in report["load_error"]
    code, report = repair(stopped, "--source rdb --yes")
    assert (code, report["repaired"], stopped.keys) == (0, True, KEYS)


def test_bytes_after_the_base_are_cut(stopped: Instance) -> None:
    """redis-check-rdb finds nothing wrong with them, and Redis does not start."""
    stopped.host.run(f"printf GARBAGE >>{AOF}/{BASE}; rm {LIVE}/dump.rdb", check=True)
    assert f"the AOF is damaged in {BASE}" in start_explained(stopped)[1][1]
    code, report = repair(stopped)
    assert (code, report["damaged"][0]["name"], report["source"]) == (1, BASE, "aof")
    assert "7 bytes follow" in report["damaged"][0]["problem"]
    repaired(stopped, "aof", KEYS)


def test_damaged_base_without_rdb_snapshot_needs_a_backup(stopped: Instance) -> None:
    start_healthy(stopped)
    backup = json.loads(stopped.host.run("redisctl backup --json", check=True).stdout)["id"]
    stopped.host.run(f"docker stop redis; truncate --size 100 {AOF}/{BASE}; rm {LIVE}/dump.rdb", check=True)
    start_explained(stopped)
    for options in ("", "--yes"):
        code, report = repair(stopped, options)
        assert (code, report["source"], report["repaired"], report["backup"]["id"]) == (1, "", False, backup)
    # Docker starts it again and again, as before.
    start_explained(stopped)
    assert "redisctl restore latest" in stopped.host.run("redisctl repair").stdout
    stopped.host.run("redisctl restore latest --yes", check=True)
    assert (stopped.keys, health(stopped)) == (KEYS, (0, {}))


def test_aof_files_after_a_damaged_one_are_dropped(stopped: Instance) -> None:
    third = "appendonly.aof.3.incr.aof"
    script = f"""
        cd {AOF} && rm {LIVE}/dump.rdb && printf '*2\\r\\n$3\\r\\nDEL\\r\\n$13\\r\\napp:session:1\\r\\n' >{third}
        printf GARBAGE | dd of={INCR} bs=1 seek=2000 conv=notrunc
        echo 'file {third} seq 3 type i' >>{MANIFEST}
        chown 999:999 {third}
    """
    stopped.host.run(script, check=True)
    code, report = repair(stopped)
    assert (code, report["source"], report["damaged"][0]["name"]) == (1, "aof", INCR)
    assert report["lost"]["commands"]["DEL"] == 1
    count = report["loaded"]["keys"]
    assert BASE_KEYS < count < KEYS
    repaired(stopped, "aof", count)
    assert third not in stopped.host.run(f"cat {AOF}/{MANIFEST}").stdout


def test_damaged_manifest_is_written_from_file_names(stopped: Instance) -> None:
    stopped.host.run(f"echo 'file appe' >{AOF}/{MANIFEST}", check=True)
    assert "the AOF manifest is damaged" in start_explained(stopped)[1][1]
    code, report = repair(stopped)
    assert (code, report["lost"]["size"], report["loaded"]["keys"]) == (1, 0, KEYS)
    assert BASE in report["notes"][0]
    repaired(stopped, "aof", KEYS)


def test_ignored_aof_is_repaired_while_redis_serves_empty(stopped: Instance) -> None:
    """Without a manifest Redis starts empty and is healthy by its own account."""
    stopped.host.run(f"rm {AOF}/{MANIFEST}", check=True)
    assert "Redis would start empty" in health(stopped)[1]["aof files"][1]
    assert repair(stopped)[1]["loaded"]["keys"] == KEYS
    start_healthy(stopped)
    assert stopped.keys == 0
    code, problems = health(stopped)
    assert (code, f"{BASE}, {INCR}" in problems["aof files"][1]) == (2, True)
    code, report = repair(stopped, "--yes")
    assert (code, report["repaired"], report["loaded"]["keys"], stopped.keys) == (0, True, KEYS, KEYS)
    assert health(stopped) == (0, {})
    stopped.host.run("redisctl restore --undo --yes", check=True)
    assert stopped.keys == 0


def test_files_of_another_owner_are_repaired(stopped: Instance) -> None:
    stopped.host.run(f"chown 0:0 {AOF}/{INCR} && chmod 600 {AOF}/{INCR}", check=True)
    assert "may not read or write" in start_explained(stopped)[1][1]
    repaired(stopped, "aof", KEYS)


def test_unknown_command_in_the_aof_is_not_repaired(stopped: Instance) -> None:
    """An unknown command in the AOF is reported, but not as damage.

    redis-check-aof finds nothing wrong with it, and nothing is damaged: the command was renamed or disabled.
    """
    unknown = "*2\\r\\n$3\\r\\nFOO\\r\\n$1\\r\\na\\r\\n"
    stopped.host.run(f"printf '{unknown}' >>{AOF}/{INCR}; rm {LIVE}/dump.rdb", check=True)
    assert "the command FOO" in start_explained(stopped)[1][1]
    code, report = repair(stopped, "--yes")
    assert (code, report["damaged"], report["repaired"]) == (1, [], False)
    assert "FOO" in report["load_error"]


def test_health_reports_the_state_of_backups(redis: Instance) -> None:
    run = redis.host.run
    start_healthy(redis)
    config = f"{ROOT}/redisctl.json"
    deployed = json.loads(run(f"cat {config}", check=True).stdout)
    scheduled = {**deployed, "backup": {**deployed.get("backup", {}), "scheduled": True, "max_age": 26}}

    def problems() -> dict[str, str]:
        return {name: f"{verdict}: {observed}" for name, (verdict, observed, _) in health(redis)[1].items()}

    try:
        run(f"rm -rf {ROOT}/backups/2* {ROOT}/backups/.attempt.json; cat >{config}", input=json.dumps(scheduled))
        assert problems() == {}
        run(f"touch --date '2 days ago' {ROOT}/secrets/admin", check=True)
        assert problems()["backup"].startswith("warning: no verified backup")
        backup = json.loads(run("redisctl backup --json", check=True).stdout)
        assert problems() == {}
        path = f"{ROOT}/backups/{backup['id']}"
        for hours, verdict in ((27, "warning"), (53, "critical")):
            old = f'"taken_at": {backup["taken_at"] - hours * 3600}'
            run(f"""sed -i.old 's/"taken_at": [0-9.]*/{old}/' {path}/backup.json""", check=True)
            assert problems()["backup"].startswith(f"{verdict}: the newest good one is ")
            run(f"mv {path}/backup.json.old {path}/backup.json", check=True)
        run(f"printf xxxxxxxx | dd of={path}/dump.rdb bs=1 seek=100 conv=notrunc && redisctl backup verify latest")
        assert "critical: verification found damage in" in problems()["backup"]
        run(f"rm -r {path}; echo '{{' >{ROOT}/backups/.attempt.json", check=True)
        assert (health(redis)[0], problems()["backup"].startswith("unknown")) == (3, True)
        run(f"touch {ROOT}/secrets/admin; mount -t tmpfs -o size=64k tmpfs {ROOT}/backups", check=True)
        assert problems() == {"backup disk": problems()["backup disk"]}
        assert problems()["backup disk"].startswith("critical: ")
    finally:
        run(f"umount {ROOT}/backups; rm -rf {ROOT}/backups/.attempt.json; touch {ROOT}/secrets/admin")
        run(f"cat >{config}", input=json.dumps(deployed, indent=2) + "\n", check=True)
    assert problems() == {}


def test_growth_is_measured_since_the_newest_backup(redis: Instance) -> None:
    start_healthy(redis)
    redis.host.run("redisctl backup", check=True)
    count = redis.keys
    redis.call("SET app:session:new 1 EX 7200", "HSET rq:job:new status queued")
    for verb, expected in (("sessions", (count, 1)), ("queues", (0, 1))):
        growth = json.loads(redis.host.run(f"redisctl {verb} --json", check=True).stdout)["growth"]
        assert [(row["count"], row["change"]) for row in growth] == [expected]
    assert "the backup had" in redis.host.run("redisctl sessions", check=True).stdout
    redis.host.run(f"rm -r {ROOT}/backups/2*", check=True)
    assert json.loads(redis.host.run("redisctl sessions --json", check=True).stdout)["growth"] == []
    redis.call("DEL app:session:new rq:job:new")
