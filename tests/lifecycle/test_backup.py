"""Backups as the host takes them: of one moment under load, proven by loading, and never half a one in the list.

What is taken away, cut, altered or ended in the middle is told, and the Redis that serves does not notice.
"""

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rq import Queue
from rq.job import Job

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, empty_instance
from tests.lifecycle.deployed_redis import Instance, redisctl, refused, wait_until

MILLION = 1_000_000
BACKUPS = "/srv/redis/backups"

# A million sessions, as inline commands.
FILL = (
    '{ printf "AUTH admin %s\\n" "$(cat /srv/redis/secrets/admin)"; '
    'awk "BEGIN { for (i = 0; i < 1000000; i++) '
    'printf \\"SET app:session:%032d xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx EX %d\\\\r\\\\n\\", i, 600 + i % 6000 }"; } '
    "| timeout 120 docker exec -i redis redis-cli --pipe"
)

# On the host: writes 20,000 new sessions a second, in pipelines of 500, for as long as /run/write exists and for a
# minute at most. Prints how many, in how many seconds, and how long the slowest pipeline took.
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
        asked = time.perf_counter()
        pipeline.execute()
        worst = max(worst, time.perf_counter() - asked)
    written += 500
print(json.dumps({"written": written, "took": time.perf_counter() - start, "worst": worst}))
"""


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """The shared host with an empty Redis and no backups; so again afterwards."""
    # What Redis saves by itself while a test looks for one save would not be the backup's.
    with empty_instance(host, deployer, redis_save="3600 1000000000") as instance:
        yield instance
        left = nothing_left_over(host)
    assert left == ["1"]


def nothing_left_over(host: Host) -> list[str]:
    """Containers, of which there is one, and what is not whole."""
    return host.run(f"docker ps --all --quiet | wc -l; find {BACKUPS} -name '*.partial'").stdout.split()


def listed(redis: Instance) -> list[str]:
    return [backup["id"] for backup in redisctl(redis, "backup list")["backups"]]


@contextmanager
def writers(redis: Instance) -> Iterator[dict[str, Any]]:
    """Writes that go on meanwhile; what they came to is in the dictionary afterwards."""
    seen: dict[str, Any] = {}
    redis.host.run(
        "cat >/run/write.py; touch /run/write; "
        "{ setsid python3 -I /run/write.py >/run/written 2>&1 </dev/null & echo $! >/run/writer; }",
        input=WRITE,
        check=True,
    )
    try:
        time.sleep(1)
        yield seen
    finally:
        redis.host.run("rm /run/write; tail --pid $(cat /run/writer) -f /dev/null")
        seen |= json.loads(redis.host.run("cat /run/written").stdout)


@contextmanager
def damaged(redis: Instance, name: str, command: str) -> Iterator[None]:
    """A file of a backup that somebody changed by a command, which sees its path as $f."""
    path = f"{BACKUPS}/{name}"
    redis.host.run(f"cp -a {path} /run/kept && f={path} && {command}", check=True)
    try:
        yield
    finally:
        redis.host.run(f"rm -f {path} && mv /run/kept {path}", check=True)


def test_a_million_keys_are_backed_up_in_one_moment_while_thousands_of_writes_a_second_go_on(
    redis: Instance,
) -> None:
    """The snapshot and the log hold the same keys, to the last one, and clients wait for milliseconds."""
    with redis.client("queues", decode_responses=False) as connection:
        queue = Queue("mail", connection=connection)
        jobs = [queue.enqueue("builtins.abs", -1, result_ttl=0).id for _ in range(20)]
    assert redis.host.run(FILL, check=True).stdout.endswith(f"errors: 0, replies: {MILLION + 1}\n")
    with writers(redis) as seen:
        taken = redisctl(redis, "backup")

    print(
        f"{seen['written'] / seen['took']:.0f} writes a second; the slowest pipeline took {seen['worst'] * 1000:.0f} ms"
    )
    print(f"{taken['keys']} keys, {taken['size'] / 1024**2:.0f} MiB; writes waited for {taken['held'] * 1000:.1f} ms")
    print(f"loaded twice and compared in {taken['verified']['took']} s")
    # Twenty thousand where nothing else takes the processor: enough to tell a moment from another one in any case.
    assert seen["written"] / seen["took"] > 2_000
    assert taken["verified"]["verdict"] == "ok"
    assert taken["verified"]["jobs"] == len(jobs)
    # Those of before the moment, and some but not all of those that came.
    assert MILLION < taken["verified"]["sessions"] < MILLION + seen["written"]
    # That both parts have the very count that Redis had is what makes the verdict: this says that it is compared.
    with damaged(redis, f"{taken['id']}/backup.json", 'sed -i \'s/"keys": [0-9]*/"keys": 1000000/\' $f'):
        said = refused(redis, f"backup verify {taken['id']}")
    assert "the snapshot: db0 has" in said
    assert "the log of writes: db0 has" in said
    # Redis gives up a hold by itself after a second.
    assert taken["write_pause"] < 0.5

    back = redisctl(redis, f"restore {taken['id']} --yes")
    print(f"restored: Redis did not serve for {back['down']} s")
    assert (back["keys"], redis.keys) == (taken["keys"], taken["keys"])
    with redis.client("queues", decode_responses=False) as connection:
        assert Job.fetch(jobs[0], connection=connection).func_name == "builtins.abs"


@pytest.fixture(scope="module")
def small(redis: Instance) -> Instance:
    """The same with some thousand keys, so that what follows is quick."""
    redis.host.run("docker rm -f redis; rm -rf /srv/redis/data/* && cd /srv/redis && docker compose up -d --wait")
    redis.call(*(f"SET app:session:{number} {number} EX 7200" for number in range(3000)))
    return redis


def test_a_backup_is_for_root_and_says_what_it_is(small: Instance) -> None:
    name = redisctl(small, "backup")["id"]
    modes = small.host.run(f"find {BACKUPS}/{name} -printf '%#m %U %G %y\\n' | sort -u").stdout.splitlines()
    assert modes == ["0400 999 999 f", "0700 999 999 d"]
    told = json.loads(small.host.run(f"cat {BACKUPS}/{name}/backup.json").stdout)
    assert (told["instance"], told["host"]) == ("redis", small.host.run("hostname").stdout.strip())
    assert f"redis_version:{told['version']}" in small.call("INFO server")
    sums = "".join(f"{file['sha256']}  {BACKUPS}/{name}/{path}\n" for path, file in told["files"].items())
    assert small.host.run("sha256sum --check --quiet", input=sums).returncode == 0
    # Names of sessions are cookies: they are in the backup, and nowhere in what is printed.
    for line in ("backup list", "backup list --json", "backup verify", "backup verify --json"):
        assert "app:session" not in small.host.run(f"redisctl {line}").stdout


@pytest.mark.parametrize(
    ("name", "command", "words"),
    [
        ("dump.rdb", "printf x | dd of=$f bs=1 seek=20000 conv=notrunc", "its checksum differs"),
        ("dump.rdb", "truncate -s -100 $f", "bytes, not"),
        ("appendonlydir/appendonly.aof.1.incr.aof", "rm $f", "No such file"),
        ("samples.json", 'sed -i \'s/"digest": "[0-9a-f]*"/"digest": "0"/\' $f', "sampled keys differ"),
        ("backup.json", "truncate -s 100 $f", "cannot be read"),
    ],
)
def test_a_backup_that_was_cut_or_tampered_with_is_bad(small: Instance, name: str, command: str, words: str) -> None:
    taken = redisctl(small, "backup")["id"]
    with damaged(small, f"{taken}/{name}", command):
        if name == "backup.json":
            assert taken not in listed(small)
            assert words in small.host.run("redisctl backup list").stderr
        else:
            assert words in refused(small, f"backup verify {taken}")
            assert words in refused(small, f"restore {taken} --yes") or name == "samples.json"
            assert "BAD" in small.host.run("redisctl backup list").stdout
    assert small.keys == 3000
    assert redisctl(small, f"backup verify {taken}")["verified"]["verdict"] == "ok"


def test_files_that_are_right_and_yet_not_the_data_are_found_by_loading_them(small: Instance) -> None:
    """Somebody who alters a file and its checksum with it."""
    taken = redisctl(small, "backup")["id"]
    path = f"{BACKUPS}/{taken}"
    other = "docker exec redis sh -c 'cat /data/dump.rdb' >/run/other.rdb"
    small.call("SET app:session:more 1 EX 7200", "SAVE")
    small.host.run(other, check=True)
    small.call("DEL app:session:more")
    swap = "a=$(sha256sum <$f | cut -d' ' -f1) && cat /run/other.rdb >$f && "
    swap += f"b=$(sha256sum <$f | cut -d' ' -f1) && s=$(stat -c %s $f) && cp {path}/backup.json /run/told && "
    swap += (
        "python3 -c 'import json, sys; p, b, s = sys.argv[1:]; t = json.load(open(p)); "
        't["files"]["dump.rdb"] = {"size": int(s), "sha256": b}; json.dump(t, open(p, "w"))\' '
        f"{path}/backup.json $b $s"
    )
    with damaged(small, f"{taken}/dump.rdb", swap):
        said = refused(small, f"backup verify {taken}")
        small.host.run(f"cat /run/told >{path}/backup.json", check=True)
    assert "the snapshot: db0 has 3001 keys, 3001 with a TTL, the backup says 3000 keys, 3000 with a TTL" in said


def test_no_room_is_told_before_anything_is_written(small: Instance) -> None:
    before = listed(small)
    small.host.run(f"mount -t tmpfs -o size=1m tmpfs {BACKUPS}", check=True)
    try:
        said = refused(small, "backup")
        there = small.host.run(f"ls -A {BACKUPS}").stdout.split()
        health = small.host.run("redisctl health")
    finally:
        small.host.run(f"umount {BACKUPS}", check=True)
    assert " KiB free, and a backup takes up to" in said
    assert there == [".attempt.json"]
    assert health.returncode == 2
    assert " KiB free, and a backup takes up to" in health.stdout
    assert listed(small) == before


def test_a_disk_that_gets_full_on_the_way_leaves_nothing_and_is_told(small: Instance) -> None:
    """Somebody takes the room between the look at it and the copy."""
    small.host.run(f"mount -t tmpfs -o size=128m tmpfs {BACKUPS}", check=True)
    try:
        # It is held meanwhile, so that it is never done before.
        done = small.host.run(
            f"redisctl backup & p=$!; while kill -0 $p; do [ -d {BACKUPS}/.taken.partial ] && break; done; "
            f"kill -STOP $p; head -c 200M /dev/zero >{BACKUPS}/other 2>/dev/null; kill -CONT $p; wait $p; echo code $?"
        )
        there = small.host.run(f"ls -A {BACKUPS}").stdout.split()
        health = small.host.run("redisctl health")
    finally:
        small.host.run(f"umount {BACKUPS}", check=True)
    assert done.stdout == "code 3\n"
    assert "No space left on device" in done.stderr
    assert there == [".attempt.json", "other"]
    assert (health.returncode, "No space left on device" in health.stdout) == (2, True)


@pytest.mark.parametrize(
    ("line", "until"),
    [
        ("backup", f"[ -d {BACKUPS}/.taken.partial ]"),
        ("backup", "docker ps --quiet --filter label=redoubt.redisctl | grep -q ."),
        ("backup verify", "docker ps --quiet --filter label=redoubt.redisctl | grep -q ."),
    ],
)
def test_a_verb_that_is_killed_leaves_no_half_of_a_backup_and_the_next_one_clears_up(
    small: Instance, line: str, until: str
) -> None:
    """Nor does it leave writers waiting."""
    before = listed(small)
    killed = small.host.run(
        f"redisctl {line} & p=$!; while kill -0 $p; do {until} && break; done; kill -9 $p; wait $p; echo $?"
    )
    assert killed.stdout.splitlines()[-1:] == ["137"]
    start = time.monotonic()
    small.call("SET app:session:after 1 EX 7200", "DEL app:session:after")
    assert time.monotonic() - start < 3
    # One that is whole but was not loaded yet is listed as what it is.
    unverified = [one["id"] for one in redisctl(small, "backup list")["backups"] if not one["verified"]]
    assert set(listed(small)) - set(before) <= set(unverified)
    if line == "backup":
        health = small.host.run("redisctl health")
        assert (health.returncode, "was interrupted" in health.stdout) == (2, True)
    assert redisctl(small, "backup")["verified"]["verdict"] == "ok"
    assert "was interrupted" not in small.host.run("redisctl health").stdout
    assert nothing_left_over(small.host) == ["1"]


def test_two_at_once_are_one_and_a_refusal_that_says_who(small: Instance) -> None:
    done = small.host.run(
        'redisctl backup >/dev/null & p=$!; for _ in $(seq 200); do grep -qs " $p," /srv/redis/redisctl.lock && break; '
        "sleep 0.01; done; kill -STOP $p; redisctl backup verify; echo $?; kill -CONT $p; wait $p; echo $?"
    )
    assert done.stdout.split() == ["3", "0"]
    assert "redisctl backup has run for" in done.stderr


def test_a_log_of_writes_that_is_rewritten_meanwhile_is_whole(small: Instance) -> None:
    """A rewrite takes away the files that are being copied."""
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


def test_old_backups_go_and_the_newest_good_one_stays(small: Instance) -> None:
    """Five of one day, made old: the last good one stays, beside what is new."""
    taken = redisctl(small, "backup")["id"]
    made = []
    for number in range(5):
        name = f"20260102T0{number}0000Z"
        moment = 1767312000 + number * 3600
        small.host.run(
            f'cp -a {BACKUPS}/{taken} {BACKUPS}/{name} && sed -i \'s/"id": "[^"]*"/"id": "{name}"/; '
            f's/"taken_at": [0-9.]*/"taken_at": {moment}.0/\' {BACKUPS}/{name}/backup.json',
            check=True,
        )
        made.append(name)
    assert set(made) < set(listed(small))
    # The newest of that day is no good, and takes nobody's place.
    small.host.run(f'sed -i \'s/"verdict": "ok"/"verdict": "failed"/\' {BACKUPS}/{made[-1]}/verified.json', check=True)
    small.host.run(
        "cp /srv/redis/redisctl.json /run/told && python3 -c '"
        'import json; p = "/srv/redis/redisctl.json"; t = json.load(open(p)); '
        't["backup"]["keep"] = {"daily": 3}; json.dump(t, open(p, "w"))\'',
        check=True,
    )
    gone = redisctl(small, "backup")["removed"]
    small.host.run(f"mv /run/told /srv/redis/redisctl.json; rm -r {BACKUPS}/{made[-1]}", check=True)
    assert gone == made[-3::-1]
    assert {made[-2], taken} < set(listed(small))
