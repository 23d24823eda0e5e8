"""Damaged data files: health says what it is, repair what it would lose, and then the instance serves again."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, empty_instance
from tests.lifecycle.deployed_redis import Instance, wait_until

ROOT = "/srv/redis"
LOG = f"{ROOT}/data/appendonlydir"
GOOD = "/root/good-data"
BASE, INCR, MANIFEST = "appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof", "appendonly.aof.manifest"
# Keys in the base of the log, and in what was written since.
BEFORE, SINCE = 200, 100
KEYS = BEFORE + SINCE


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """The shared host with some sessions, half of them in the base of the log; empty again afterwards."""
    with empty_instance(host, deployer, GOOD) as instance:
        instance.call(*(f"SET app:session:{number} {number:04} EX 72000" for number in range(BEFORE)), "BGREWRITEAOF")
        wait_until(lambda: host.run(f"test -e {LOG}/{BASE}").returncode == 0, "the log is rewritten", 20)
        instance.call(*(f"SET app:session:{number} {number:04} EX 72000" for number in range(BEFORE, KEYS)))
        assert instance.call("SAVE") == ["OK"]
        host.run(f"docker stop redis && cp -a {ROOT}/data {GOOD}", check=True)
        yield instance


@pytest.fixture
def stopped(redis: Instance) -> Iterator[Instance]:
    """The instance with its files as they were, and not running; it serves them again afterwards."""
    lay = (
        f"docker stop redis; rm -rf {ROOT}/backups/2* {ROOT}/data/[!.]*; cp -a {GOOD}/. {ROOT}/data/; "
        f": > {ROOT}/logs/redis.log"
    )
    redis.host.run(lay)
    yield redis
    redis.host.run(f"{lay}; docker start redis", check=True)
    wait_until(lambda: redis.health == "healthy", "Redis is healthy", 30)
    assert redis.host.run("docker ps --all --quiet | wc -l").stdout.split() == ["1"]
    assert redis.host.run(f"ls -d {ROOT}/replace.json {ROOT}/data/.incoming {ROOT}/backups/.*.partial").stdout == ""


def health(redis: Instance) -> tuple[int, dict[str, tuple[str, str, str]]]:
    """The exit code; and verdict, what was seen and advice of each check that is not ok."""
    done = redis.host.run("redisctl health --json")
    checks = json.loads(done.stdout)["checks"]
    return done.returncode, {
        one["name"]: (one["verdict"], one["observed"], one["remedy"]) for one in checks if one["verdict"] != "ok"
    }


def repair(redis: Instance, options: str = "") -> tuple[int, dict[str, Any]]:
    done = redis.host.run(f"redisctl repair --json {options}")
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def start(redis: Instance) -> None:
    redis.host.run("docker start redis", check=True)


def explained(redis: Instance) -> bool:
    return ": " in health(redis)[1].get("container", ("", "", ""))[1]


def repaired(redis: Instance, of: str, count: int) -> None:
    """Repair it, and see that all is well and the damaged files are kept; what they are is no way back."""
    kept = redis.host.run(f"cd {ROOT}/data && find . -type f ! -path './previous/*' | sort | xargs sha256sum").stdout
    code, told = repair(redis, "--yes")
    assert (code, told["repaired"], told["source"], told["found"]["keys"]) == (0, True, of, count)
    assert redis.keys == count
    assert health(redis) == (0, {})
    # Byte for byte, but for what Redis itself did before it was stopped.
    former = redis.host.run(f"cd {ROOT}/data/previous/* && find . -type f | sort | xargs sha256sum").stdout
    assert former == kept
    assert json.loads(redis.host.run("redisctl repair --json").stdout)["serves"] is True


def refuses_to_come_back(redis: Instance) -> None:
    """What does not load is not put back: the repaired data goes on serving, and the damaged stays aside."""
    count = redis.keys
    done = redis.host.run("redisctl restore --undo --yes")
    assert (done.returncode, "Redis does not stay up with it" in done.stderr) == (3, True)
    assert redis.keys == count
    assert redis.host.run(f"ls {ROOT}/data/previous/*").stdout != ""


def test_a_redis_that_serves_is_left_alone(redis: Instance) -> None:
    redis.host.run("docker start redis", check=True)
    wait_until(lambda: redis.health == "healthy", "Redis is healthy", 30)
    before = redis.identity
    for options in ("", "--yes"):
        assert repair(redis, options) == (0, {"instance": "redis", "serves": True, "repaired": False})
    assert redis.identity == before


def test_a_torn_end_is_cut_off_by_redis_itself_and_told(stopped: Instance) -> None:
    stopped.host.run(f"truncate --size -7 {LOG}/{INCR}; rm {ROOT}/data/dump.rdb", check=True)
    code, told = repair(stopped)
    assert (code, told["source"], told["found"]["keys"], told["lost"]["commands"]) == (1, "aof", KEYS - 1, {})
    assert 7 < told["lost"]["size"] < 100
    start(stopped)
    wait_until(lambda: stopped.health == "healthy", "Redis is healthy", 30)
    code, ill = health(stopped)
    assert (code, list(ill), ill["aof truncated"][0]) == (1, ["aof truncated"], "warning")
    assert "by itself once" in ill["aof truncated"][1]
    assert stopped.keys == KEYS - 1


def test_a_log_with_garbage_is_cut_there(stopped: Instance) -> None:
    harm = f"printf GARBAGEGARBAGE | dd of={LOG}/{INCR} bs=1 seek=2000 conv=notrunc; rm {ROOT}/data/dump.rdb"
    stopped.host.run(harm, check=True)
    start(stopped)
    wait_until(lambda: explained(stopped), "health explains it", 20)
    code, ill = health(stopped)
    assert (code, ill["container"][0]) == (2, "critical")
    assert f"damaged in {INCR}" in ill["container"][1]
    assert "redisctl repair" in ill["container"][2]

    code, told = repair(stopped)
    (damage,) = told["damaged"]
    lost = told["lost"]
    assert (code, told["repaired"], damage["name"]) == (1, False, INCR)
    assert (lost["size"], damage["sound"] <= 2000) == (damage["size"] - damage["sound"], True)
    # What hit the garbage is in no count.
    assert told["found"]["keys"] + lost["keys"]["sessions"] == KEYS - 1
    assert lost["commands"] == {"SET": lost["keys"]["sessions"]}
    said = stopped.host.run("redisctl repair").stdout
    assert (f"{lost['size']} bytes of the log" in said, "app:session:" in said) == (True, False)
    assert f"app:session:{KEYS - 1}" in stopped.host.run("redisctl repair --names").stdout
    repaired(stopped, "aof", told["found"]["keys"])
    refuses_to_come_back(stopped)


@pytest.mark.parametrize(
    ("harm", "seen"),
    [
        (f"truncate --size 100 {LOG}/{BASE}", "a snapshot is cut off or damaged"),
        (
            f"cd {LOG} && printf xxxxxxxx | dd of={BASE} bs=1 seek=$(($(stat -c %s {BASE}) - 8)) conv=notrunc",
            "its checksum",
        ),
        (f"printf 0099 | dd of={LOG}/{BASE} bs=1 seek=5 conv=notrunc", "newer version (RDB format 99)"),
        (f"rm {LOG}/{BASE}", f"{BASE}, a part of the log of writes, is missing"),
        # The snapshot was made after the last write: it has what is missing.
        (f"rm {LOG}/{INCR}", f"{INCR}, a part of the log of writes, is missing"),
    ],
)
def test_a_snapshot_beside_the_log_stands_in_for_it(stopped: Instance, harm: str, seen: str) -> None:
    stopped.host.run(harm, check=True)
    start(stopped)
    wait_until(lambda: explained(stopped), "health explains it", 20)
    code, ill = health(stopped)
    assert (code, seen in ill["container"][1]) == (2, True), ill
    code, told = repair(stopped)
    assert (code, told["source"], told["found"]["keys"], told["snapshot"]["keys"]) == (1, "rdb", KEYS, KEYS)
    repaired(stopped, "rdb", KEYS)


def test_a_damaged_base_without_a_snapshot_needs_a_backup(stopped: Instance) -> None:
    start(stopped)
    wait_until(lambda: stopped.health == "healthy", "Redis is healthy", 30)
    taken = json.loads(stopped.host.run("redisctl backup --json", check=True).stdout)["id"]
    stopped.host.run(f"docker stop redis; truncate --size 100 {LOG}/{BASE}; rm {ROOT}/data/dump.rdb", check=True)
    start(stopped)
    wait_until(lambda: explained(stopped), "health explains it", 20)
    for options in ("", "--yes"):
        code, told = repair(stopped, options)
        assert (code, told["source"], told["repaired"], told["backup"]["id"]) == (1, "", False, taken)
    # It goes on as it was.
    wait_until(lambda: explained(stopped), "the engine starts it again", 20)
    assert "redisctl restore latest" in stopped.host.run("redisctl repair").stdout
    stopped.host.run("redisctl restore latest --yes", check=True)
    assert (stopped.keys, health(stopped)) == (KEYS, (0, {}))


def test_a_damaged_part_in_the_middle_takes_what_follows_with_it(stopped: Instance) -> None:
    third = "appendonly.aof.3.incr.aof"
    script = f"""
        cd {LOG} && rm {ROOT}/data/dump.rdb && printf '*2\\r\\n$3\\r\\nDEL\\r\\n$13\\r\\napp:session:1\\r\\n' >{third}
        printf GARBAGE | dd of={INCR} bs=1 seek=2000 conv=notrunc
        echo 'file {third} seq 3 type i' >>{MANIFEST}
        chown 999:999 {third}
    """
    stopped.host.run(script, check=True)
    code, told = repair(stopped)
    assert (code, told["source"], told["damaged"][0]["name"]) == (1, "aof", INCR)
    assert told["lost"]["commands"]["DEL"] == 1
    count = told["found"]["keys"]
    assert BEFORE < count < KEYS
    repaired(stopped, "aof", count)
    assert third not in stopped.host.run(f"cat {LOG}/{MANIFEST}").stdout


def test_a_manifest_is_made_anew_from_the_names_of_the_files(stopped: Instance) -> None:
    stopped.host.run(f"echo 'file appe' >{LOG}/{MANIFEST}", check=True)
    start(stopped)
    wait_until(lambda: explained(stopped), "health explains it", 20)
    assert "the manifest of the log of writes is damaged" in health(stopped)[1]["container"][1]
    code, told = repair(stopped)
    assert (code, told["lost"]["size"], told["found"]["keys"]) == (1, 0, KEYS)
    assert BASE in told["notes"][0]
    repaired(stopped, "aof", KEYS)


def test_a_redis_that_began_empty_beside_its_log_gets_it_back(stopped: Instance) -> None:
    stopped.host.run(f"rm {LOG}/{MANIFEST}", check=True)
    assert "Redis would start empty" in health(stopped)[1]["aof files"][1]
    assert repair(stopped)[1]["found"]["keys"] == KEYS
    # Nobody looked: it serves, and is well by its own word.
    start(stopped)
    wait_until(lambda: stopped.health == "healthy", "Redis is healthy", 30)
    assert stopped.keys == 0
    code, ill = health(stopped)
    assert (code, f"{BASE}, {INCR}" in ill["aof files"][1]) == (2, True)
    # It is running: what it saves when it is stopped is not what lay there before.
    code, told = repair(stopped, "--yes")
    assert (code, told["repaired"], told["found"]["keys"], stopped.keys) == (0, True, KEYS, KEYS)
    assert health(stopped) == (0, {})
    stopped.host.run("redisctl restore --undo --yes", check=True)
    assert stopped.keys == 0


def test_files_that_are_not_redis_own_and_commands_that_it_does_not_know(stopped: Instance) -> None:
    stopped.host.run(f"chown 0:0 {LOG}/{INCR} && chmod 600 {LOG}/{INCR}", check=True)
    start(stopped)
    wait_until(lambda: explained(stopped), "health explains it", 20)
    assert "may not read or write" in health(stopped)[1]["container"][1]
    repaired(stopped, "aof", KEYS)
    # redis-check-aof finds nothing wrong with that.
    stopped.host.run("docker stop redis; rm -r /srv/redis/data/previous", check=True)
    name = stopped.host.run(f"ls {LOG} | grep incr").stdout.split()[-1]
    stopped.host.run(f"printf '*2\\r\\n$3\\r\\nFOO\\r\\n$1\\r\\na\\r\\n' >>{LOG}/{name}; rm {ROOT}/data/dump.rdb")
    start(stopped)
    wait_until(lambda: explained(stopped), "health explains it", 20)
    assert "the command FOO" in health(stopped)[1]["container"][1]
    code, told = repair(stopped, "--yes")
    assert (code, told["damaged"], told["repaired"], "FOO" in told["does_not_load"]) == (1, [], False, True)


def test_health_tells_of_backups_and_of_what_was_set_aside(redis: Instance) -> None:
    run = redis.host.run
    run("docker start redis", check=True)
    wait_until(lambda: redis.health == "healthy", "Redis is healthy", 30)
    config = f"{ROOT}/redisctl.json"
    told = json.loads(run(f"cat {config}", check=True).stdout)
    scheduled = {**told, "backup": {**told.get("backup", {}), "scheduled": True, "max_age": 26}}

    def ill() -> dict[str, str]:
        return {name: f"{verdict}: {seen}" for name, (verdict, seen, _) in health(redis)[1].items()}

    try:
        run(f"rm -rf {ROOT}/backups/2* {ROOT}/backups/.attempt.json; cat >{config}", input=json.dumps(scheduled))
        assert ill() == {}
        run(f"touch --date '2 days ago' {ROOT}/secrets/admin", check=True)
        assert ill()["backup"].startswith("warning: none that was verified")
        taken = json.loads(run("redisctl backup --json", check=True).stdout)
        assert ill() == {}
        path = f"{ROOT}/backups/{taken['id']}"
        for hours, verdict in ((27, "warning"), (53, "critical")):
            old = f'"taken_at": {taken["taken_at"] - hours * 3600}'
            run(f"""sed -i.old 's/"taken_at": [0-9.]*/{old}/' {path}/backup.json""", check=True)
            assert ill()["backup"].startswith(f"{verdict}: the newest good one is ")
            run(f"mv {path}/backup.json.old {path}/backup.json", check=True)
        run(f"printf xxxxxxxx | dd of={path}/dump.rdb bs=1 seek=100 conv=notrunc && redisctl backup verify latest")
        assert "critical: verified and found bad" in ill()["backup"]
        run(f"rm -r {path}; echo '{{' >{ROOT}/backups/.attempt.json", check=True)
        assert (health(redis)[0], ill()["backup"].startswith("unknown")) == (3, True)
        run(f"touch {ROOT}/secrets/admin; mount -t tmpfs -o size=64k tmpfs {ROOT}/backups", check=True)
        assert ill() == {"backup disk": ill()["backup disk"]}
        assert ill()["backup disk"].startswith("critical: ")
    finally:
        run(f"umount {ROOT}/backups; rm -rf {ROOT}/backups/.attempt.json; touch {ROOT}/secrets/admin")
        run(f"cat >{config}", input=json.dumps(told, indent=2) + "\n", check=True)
    assert ill() == {}
    journal = {
        **dict.fromkeys(("what", "stage", "place", "previous"), "x"),
        "began": 0,
        "present": [],
        "incoming": [],
    }
    run(f"cat >{ROOT}/replace.json", input=json.dumps(journal))
    try:
        assert ill()["interrupted restore"].startswith("critical: x was broken off while x")
    finally:
        run(f"rm {ROOT}/replace.json", check=True)


def test_growth_is_told_since_the_newest_backup(redis: Instance) -> None:
    redis.host.run("docker start redis; redisctl backup", check=True)
    count = redis.keys
    redis.call("SET app:session:new 1 EX 7200", "HSET rq:job:new status queued")
    for verb, grown in (("sessions", (count, 1)), ("queues", (0, 1))):
        told = json.loads(redis.host.run(f"redisctl {verb} --json", check=True).stdout)["growth"]
        assert [(one["count"], one["change"]) for one in told] == [grown]
    assert "the backup had" in redis.host.run("redisctl sessions", check=True).stdout
    redis.host.run(f"rm -r {ROOT}/backups/2*", check=True)
    assert json.loads(redis.host.run("redisctl sessions --json", check=True).stdout)["growth"] == []
    redis.call("DEL app:session:new rq:job:new")
