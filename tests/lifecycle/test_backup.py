"""Backups on the host: of one point in time, verified by loading.

They are taken under load and listed only if complete. A backup that is truncated, altered or interrupted is reported,
and the running Redis does not notice.
"""

import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rq import Queue
from rq.job import Job

from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl, refused, wait_until
from tests.deployer import Deployer
from tests.lifecycle.conftest import empty_instance

# docs/backups.md has figures of a million.
SESSIONS = int(os.environ.get("BACKUP_SESSIONS", "200000"))
BACKUPS = "/srv/redis/backups"

# Writes sessions as inline commands.
FILL = (
    '{ printf "AUTH admin %s\\n" "$(cat /srv/redis/secrets/admin)"; '
    f'awk "BEGIN {{ for (i = 0; i < {SESSIONS}; i++) '
    'printf \\"SET app:session:%032d xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx EX %d\\\\r\\\\n\\", i, 600 + i % 6000 }"; } '
    "| timeout 120 docker exec -i redis redis-cli --pipe"
)

# On the host: writes 20,000 new sessions a second, in pipelines of 500, while /run/write exists (a minute at most).
# Prints how many, in how many seconds, and how long the slowest pipeline took.
WRITE = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, "/srv/redis/redisctl")
from redisctl.core.instance import Instance
redis = Instance("redis", Path("/srv/redis"), "").connect("sessions")
written, worst, start = 0, 0.0, time.perf_counter()
while os.path.exists("/run/write") and time.perf_counter() < start + 60:
    time.sleep(max(0.0, start + written / 20000 - time.perf_counter()))
    with redis.pipeline(transaction=False) as pipeline:
        for number in range(written, written + 500):
            pipeline.set(f"app:session:w{number}", "x" * 32, ex=7200)
        sent = time.perf_counter()
        pipeline.execute()
        worst = max(worst, time.perf_counter() - sent)
    written += 500
print(json.dumps({"written": written, "took": time.perf_counter() - start, "worst": worst}))
"""


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """Yield the shared host with an empty Redis and no backups.

    Data and backups are removed again afterwards.
    """
    # A save of Redis's own would look like the backup's.
    with empty_instance(host, deployer, redis_save="3600 1000000000") as instance:
        yield instance
        assert_nothing_left_over(host)


def assert_nothing_left_over(host: Host) -> None:
    """There is one container, and no incomplete directory."""
    output = host.run(f"docker ps --all --quiet | wc -l; find {BACKUPS} -name '*.partial'").stdout
    assert output.split() == ["1"]


def backup_ids(redis: Instance) -> list[str]:
    return [backup["id"] for backup in redisctl(redis, "backup list")["backups"]]


@contextmanager
def writers(redis: Instance) -> Iterator[dict[str, Any]]:
    """Write in the background; the dictionary has the statistics afterwards."""
    statistics: dict[str, Any] = {}
    redis.host.run(
        "cat >/run/write.py; touch /run/write; "
        "{ setsid python3 -I /run/write.py >/run/written 2>&1 </dev/null & echo $! >/run/writer; }",
        input=WRITE,
        check=True,
    )
    try:
        # On a busy machine Python needs seconds to start.
        wait_until(lambda: redis.call("EXISTS app:session:w499") == ["1"], "the writer writes", 60)
        yield statistics
    finally:
        redis.host.run("rm /run/write; tail --pid $(cat /run/writer) -f /dev/null")
        statistics |= json.loads(redis.host.run("cat /run/written").stdout)


@contextmanager
def damaged(redis: Instance, name: str, command: str) -> Iterator[None]:
    """Change a file of a backup by a command, and restore the file afterwards.

    The command gets the file's path as $f.
    """
    path = f"{BACKUPS}/{name}"
    redis.host.run(f"cp -a {path} /run/intact && f={path} && {command}", check=True)
    try:
        yield
    finally:
        redis.host.run(f"rm -f {path} && mv /run/intact {path}", check=True)


def test_backup_under_load_is_one_moment(redis: Instance) -> None:
    """RDB snapshot and AOF have the same keys, to the last one.

    Clients wait for milliseconds.
    """
    with redis.client("queues", decode_responses=False) as connection:
        queue = Queue("mail", connection=connection)
        jobs = [queue.enqueue("builtins.abs", -1, result_ttl=0).id for _ in range(20)]
    assert redis.host.run(FILL, check=True).stdout.endswith(f"errors: 0, replies: {SESSIONS + 1}\n")
    with writers(redis) as statistics:
        backup = redisctl(redis, "backup")

    rate = statistics["written"] / statistics["took"]
    print(f"{rate:.0f} writes a second; the slowest pipeline took {statistics['worst'] * 1000:.0f} ms")
    pause = backup["write_pause"]
    print(f"{backup['keys']} keys, {backup['size'] / 1024**2:.0f} MiB; writes waited for {pause * 1000:.1f} ms")
    print(f"loaded twice and compared in {backup['verified']['took']} s")
    # 20,000 on an idle machine. Enough to tell two points in time apart.
    assert rate > 2_000
    assert backup["verified"]["verdict"] == "ok"
    assert backup["verified"]["jobs"] == len(jobs)
    # All sessions from before, and some but not all of those that were written during the backup.
    assert SESSIONS < backup["verified"]["sessions"] < SESSIONS + statistics["written"]
    # The verdict means that both parts have exactly the keys that Redis had. This shows that they are compared.
    with damaged(redis, f"{backup['id']}/backup.json", 'sed -i \'s/"keys": [0-9]*/"keys": 1/\' $f'):
        message = refused(redis, f"backup verify {backup['id']}")
    assert "the RDB snapshot: db0 has" in message
    assert "the AOF: db0 has" in message
    # Redis ends a write pause by itself after a second.
    assert pause < 0.5

    restored = redisctl(redis, f"restore {backup['id']} --yes")
    print(f"restored: Redis was down for {restored['downtime']} s")
    assert (restored["keys"], redis.keys) == (backup["keys"], backup["keys"])
    with redis.client("queues", decode_responses=False) as connection:
        assert Job.fetch(jobs[0], connection=connection).func_name == "builtins.abs"


@pytest.fixture(scope="module")
def small(redis: Instance) -> Instance:
    """Give the instance with some thousand keys, so that the other tests are quick."""
    redis.host.run("docker stop redis; rm -rf /srv/redis/data/live/* /srv/redis/data/previous; docker start redis")
    redis.wait_until_healthy()
    redis.call(*(f"SET app:session:{number} {number} EX 7200" for number in range(3000)))
    return redis


@pytest.mark.parametrize(
    ("name", "command", "message"),
    [
        ("dump.rdb", "printf x | dd of=$f bs=1 seek=20000 conv=notrunc", "its checksum differs"),
        ("dump.rdb", "truncate -s -100 $f", "bytes, not"),
        ("appendonlydir/appendonly.aof.1.incr.aof", "rm $f", "No such file"),
        ("samples.json", 'sed -i \'s/"digest": "[0-9a-f]*"/"digest": "0"/\' $f', "sampled keys differ"),
        ("backup.json", "truncate -s 100 $f", "cannot be read"),
    ],
)
def test_damaged_backup_is_bad(small: Instance, name: str, command: str, message: str) -> None:
    backup = redisctl(small, "backup")["id"]
    with damaged(small, f"{backup}/{name}", command):
        if name == "backup.json":
            assert backup not in backup_ids(small)
            assert message in small.host.run("redisctl backup list").stderr
        else:
            assert message in refused(small, f"backup verify {backup}")
            assert message in refused(small, f"restore {backup} --yes") or name == "samples.json"
            assert "BAD" in small.host.run("redisctl backup list").stdout
    assert small.keys == 3000
    assert redisctl(small, f"backup verify {backup}")["verified"]["verdict"] == "ok"


def test_backup_with_other_data_and_a_matching_checksum_is_bad(small: Instance) -> None:
    """Someone alters a file and its checksum: loading it shows the difference."""
    backup = redisctl(small, "backup")["id"]
    path = f"{BACKUPS}/{backup}"
    small.call("SET app:session:more 1 EX 7200", "SAVE")
    small.host.run("docker exec redis sh -c 'cat /data/dump.rdb' >/run/other.rdb", check=True)
    small.call("DEL app:session:more")
    forge = (
        "cat /run/other.rdb >$f && b=$(sha256sum <$f | cut -d' ' -f1) && s=$(stat -c %s $f) && "
        f"cp {path}/backup.json /run/metadata && python3 -c 'import json, sys; p, b, s = sys.argv[1:]; "
        't = json.load(open(p)); t["files"]["dump.rdb"] = {"size": int(s), "sha256": b}; json.dump(t, open(p, "w"))\' '
        f"{path}/backup.json $b $s"
    )
    with damaged(small, f"{backup}/dump.rdb", forge):
        message = refused(small, f"backup verify {backup}")
        small.host.run(f"cat /run/metadata >{path}/backup.json", check=True)
    expected = "the RDB snapshot: db0 has 3001 keys, 3001 with a TTL, the backup should have 3000 keys, 3000 with a TTL"
    assert expected in message


def test_backup_without_disk_space_is_refused_at_once(small: Instance) -> None:
    before = backup_ids(small)
    small.host.run(f"mount -t tmpfs -o size=1m tmpfs {BACKUPS}", check=True)
    try:
        message = refused(small, "backup")
        present = small.host.run(f"ls -A {BACKUPS}").stdout.split()
        health = small.host.run("redisctl health")
    finally:
        small.host.run(f"umount {BACKUPS}", check=True)
    assert " KiB free, and a backup takes up to" in message
    assert present == [".attempt.json"]
    assert health.returncode == 2
    assert " KiB free, and a backup takes up to" in health.stdout
    assert backup_ids(small) == before


def test_disk_that_fills_up_during_a_backup_is_reported(small: Instance) -> None:
    """Another program takes the space after the check; nothing incomplete is left."""
    small.host.run(f"mount -t tmpfs -o size=128m tmpfs {BACKUPS}", check=True)
    try:
        # The backup is frozen, so that it cannot finish first.
        result = small.host.run(
            f"redisctl backup & p=$!; while kill -0 $p; do [ -d {BACKUPS}/.taken.partial ] && break; done; "
            f"kill -STOP $p; head -c 200M /dev/zero >{BACKUPS}/other 2>/dev/null; kill -CONT $p; wait $p; echo code $?"
        )
        present = small.host.run(f"ls -A {BACKUPS}").stdout.split()
        health = small.host.run("redisctl health")
    finally:
        small.host.run(f"umount {BACKUPS}", check=True)
    assert result.stdout == "code 3\n"
    assert "free some space" in result.stderr
    assert present == [".attempt.json", "other"]
    assert (health.returncode, "free some space" in health.stdout) == (2, True)


@pytest.mark.parametrize(
    ("line", "until"),
    [
        ("backup", f"[ -d {BACKUPS}/.taken.partial ]"),
        ("backup", "docker ps --quiet --filter label=redoubt.redisctl | grep -q ."),
        ("backup verify", "docker ps --quiet --filter label=redoubt.redisctl | grep -q ."),
    ],
)
def test_killed_backup_is_cleaned_up_by_the_next(small: Instance, line: str, until: str) -> None:
    """A killed backup blocks no writer, and nothing incomplete is listed.

    Health reports it until a backup succeeds.
    """
    before = backup_ids(small)
    killed = small.host.run(
        f"redisctl {line} & p=$!; while kill -0 $p; do {until} && break; done; kill -9 $p; wait $p; echo $?"
    )
    assert killed.stdout.splitlines()[-1:] == ["137"]
    start = time.monotonic()
    small.call("SET app:session:after 1 EX 7200", "DEL app:session:after")
    assert time.monotonic() - start < 3
    # A complete backup that was not verified yet is listed as such.
    unverified = [backup["id"] for backup in redisctl(small, "backup list")["backups"] if not backup["verified"]]
    assert set(backup_ids(small)) - set(before) <= set(unverified)
    if line == "backup":
        health = small.host.run("redisctl health")
        assert (health.returncode, "was interrupted" in health.stdout) == (2, True)
    assert redisctl(small, "backup")["verified"]["verdict"] == "ok"
    assert "was interrupted" not in small.host.run("redisctl health").stdout
    assert_nothing_left_over(small.host)


def test_second_command_is_refused_and_names_the_first(small: Instance) -> None:
    result = small.host.run(
        'redisctl backup >/dev/null & p=$!; for _ in $(seq 200); do grep -qsx "$p" /run/redoubt-redis.lock && break; '
        "sleep 0.01; done; kill -STOP $p; redisctl backup verify; echo $?; kill -CONT $p; wait $p; echo $?"
    )
    assert result.stdout.split() == ["3", "0"]
    assert "redisctl is at work (backup, process" in result.stderr


def test_backup_during_aof_rewrites_is_complete(small: Instance) -> None:
    """A rewrite removes the files that are being copied."""
    loop = "for _ in $(seq 30); do [ -e /run/rewrite ] || break; redisctl_rewrite; sleep 0.05; done"
    call = (
        '{ printf "AUTH admin %s\\nBGREWRITEAOF\\n" "$(cat /srv/redis/secrets/admin)"; } '
        "| docker exec -i redis redis-cli -s /run/redis/redis.sock >/dev/null"
    )
    small.host.run(
        f"touch /run/rewrite; {{ setsid bash -c {shlex.quote(f'redisctl_rewrite() {{ {call}; }}; {loop}')} "
        "</dev/null >/dev/null 2>&1 & }"
    )
    try:
        verdicts = [redisctl(small, "backup")["verified"]["verdict"] for _ in range(2)]
    finally:
        small.host.run("rm -f /run/rewrite")
    assert verdicts == ["ok", "ok"]
    wait_until(lambda: "aof_rewrite_in_progress:0" in small.call("INFO persistence"), "no rewrite runs", 20)


def test_old_backups_are_pruned_and_newest_good_stays(small: Instance) -> None:
    """Old backups are pruned, and the newest good one of a day stays.

    The test creates five backups of one earlier day. No output contains the key of a session, which is its cookie.
    """
    current = redisctl(small, "backup")["id"]
    old = []
    for number in range(5):
        name = f"20260102T0{number}0000Z"
        moment = 1767312000 + number * 3600
        small.host.run(
            f'cp -a {BACKUPS}/{current} {BACKUPS}/{name} && sed -i \'s/"id": "[^"]*"/"id": "{name}"/; '
            f's/"taken_at": [0-9.]*/"taken_at": {moment}.0/\' {BACKUPS}/{name}/backup.json',
            check=True,
        )
        old.append(name)
    for line in ("backup list", f"backup verify {old[0]}"):
        output = small.host.run(f"redisctl {line}", check=True).stdout
        assert old[0] in output
        assert "app:session" not in output
    # The newest of that day is bad, and takes the place of no good one.
    small.host.run(f'sed -i \'s/"verdict": "ok"/"verdict": "failed"/\' {BACKUPS}/{old[-1]}/verified.json', check=True)
    small.host.run(
        "cp /srv/redis/redisctl.json /run/redisctl.json && python3 -c '"
        'import json; p = "/srv/redis/redisctl.json"; config = json.load(open(p)); '
        'config["backup"]["keep"] = {"daily": 3}; json.dump(config, open(p, "w"))\'',
        check=True,
    )
    try:
        planned = redisctl(small, "backup prune")
        assert (planned["dry_run"], planned["pruned"]) == (True, old[-3::-1])
        # The verb removes what a new backup would remove.
        small.host.run(f"cp -a {BACKUPS} {BACKUPS}.before", check=True)
        by_hand = redisctl(small, "backup prune --yes")
        assert (by_hand["dry_run"], by_hand["pruned"]) == (False, planned["pruned"])
        remaining = redisctl(small, "backup list")["backups"]
        assert not {backup["id"] for backup in remaining} & set(planned["pruned"])
        assert redisctl(small, "backup prune --yes")["pruned"] == []
        small.host.run(f"cp -a {BACKUPS}.before/. {BACKUPS}", check=True)
        pruned = redisctl(small, "backup")["pruned"]
    finally:
        small.host.run(
            f"mv /run/redisctl.json /srv/redis/redisctl.json && rm -rf {BACKUPS}/{old[-1]} {BACKUPS}.before", check=True
        )
    assert pruned == old[-3::-1]
    present = {backup["id"] for backup in redisctl(small, "backup list")["backups"]}
    assert {old[-2], current} < present
