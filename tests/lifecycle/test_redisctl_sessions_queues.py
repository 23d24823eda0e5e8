"""redisctl on sessions and queues, as the host runs it: real sessions, real jobs, a real worker, a million keys."""

import json
import operator
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import flask
import pytest
from flask.testing import FlaskClient
from flask_session import Session
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, Worker
from rq.job import Job, requeue_job
from rq.rate_limit import RateLimit
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, empty_instance
from tests.lifecycle.deployed_redis import Instance, redisctl, tunnel, wait_until

LIFETIME = 7200
MILLION = 1_000_000

# On the host: runs a command, and meanwhile asks Redis for a PING again and again, as another client. Prints the worst
# answer and the time of the command in seconds, and the most memory that the command itself had in bytes.
BESIDE = """
import json, re, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, "/srv/redis/redisctl")
from redisctl.core.instance import Instance
redis = Instance("redis", Path("/srv/redis"), "").connect("queues")
redis.ping()
worst = most = 0
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
status = Path(f"/proc/{process.pid}/status")
while process.poll() is None:
    asked = time.perf_counter()
    redis.ping()
    worst = max(worst, time.perf_counter() - asked)
    found = re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())
    most = max(most, int(found[1]) * 1024 if found else 0)
    time.sleep(0.001)
took = time.perf_counter() - start
said = process.stdout.read()
print(json.dumps({"worst": worst, "took": took, "most": most, "failed": process.returncode, "said": said}))
"""
# All keys in one step: what a client does that does not care.
AT_ONCE = (
    '{ printf "AUTH admin %s\\n" "$(cat /srv/redis/secrets/admin)"; echo SCAN 0 COUNT 10000000; } '
    "| docker exec -i redis redis-cli -s /run/redis/redis.sock > /dev/null"
)
# A million sessions, as inline commands.
FILL = (
    '{ printf "AUTH admin %s\\n" "$(cat /srv/redis/secrets/admin)"; '
    'awk "BEGIN { for (i = 0; i < 1000000; i++) '
    'printf \\"SET app:session:%032d xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx EX %d\\\\r\\\\n\\", i, 600 + i % 6000 }"; } '
    "| timeout 120 docker exec -i redis redis-cli --pipe"
)


@dataclass(frozen=True)
class Rq:
    """RQ as an application has it: a connection as ``queues``, and the socket that it goes through."""

    path: Path
    password: str = field(repr=False)
    connection: Redis

    def queue(self, name: str) -> Queue:
        return Queue(name, connection=self.connection)

    def work(self, *names: str) -> None:
        """Start a worker that works off what waits, and wait until it is through."""
        process = get_context("fork").Process(target=self._work, args=names)
        process.start()
        process.join(60)
        assert process.exitcode == 0

    def _work(self, *names: str) -> None:
        with Redis(unix_socket_path=str(self.path), username="queues", password=self.password) as connection:
            queues = [Queue(name, connection=connection) for name in names]
            Worker(queues, connection=connection).work(burst=True, logging_level="CRITICAL")


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """The shared host with an empty Redis; empty again afterwards."""
    with empty_instance(host, deployer) as instance:
        yield instance


@pytest.fixture(scope="module")
def rq(redis: Instance) -> Iterator[Rq]:
    """RQ's way to the instance."""
    password = redis.secrets.passwords["queues"]
    with (
        tunnel(redis.host, "127.0.0.1", redis.port) as path,
        Redis(
            unix_socket_path=str(path), username="queues", password=password, retry=Retry(NoBackoff(), 0)
        ) as connection,
    ):
        yield Rq(path, password, connection)


@pytest.fixture(scope="module", autouse=True)
def _undenied(redis: Instance) -> Iterator[None]:
    """Nothing that redisctl does may be denied to it."""
    yield
    assert [line for line in redis.call("ACL LOG") if "name=redisctl" in line] == []


@contextmanager
def browsers(redis: Instance, count: int) -> Iterator[list[FlaskClient]]:
    """Browsers that are logged in to a real application."""
    with redis.client("sessions", decode_responses=False) as connection:
        app = flask.Flask("redoubt_test")
        app.config.update(
            SESSION_TYPE="redis",
            SESSION_REDIS=connection,
            SESSION_KEY_PREFIX="app:session:",
            PERMANENT_SESSION_LIFETIME=LIFETIME,
        )
        Session(app)

        @app.post("/login")
        def login() -> str:
            flask.session["user"] = "somebody"
            return "in"

        @app.get("/")
        def who() -> str:
            return str(flask.session.get("user", "nobody"))

        clients = [app.test_client() for _ in range(count)]
        for client in clients:
            client.post("/login")
        try:
            yield clients
        finally:
            connection.unlink(*(key_of(client) for client in clients))


def key_of(browser: FlaskClient) -> str:
    cookie = browser.get_cookie("session")
    assert cookie is not None
    return f"app:session:{cookie.value}"


def test_sessions_are_counted_limited_and_removed_by_rule_and_nobody_else_is_logged_out(redis: Instance) -> None:
    with browsers(redis, 4) as (used, unused, endless, another), redis.client() as admin:
        # As if the last use was 100 minutes ago; as an application leaves it that sets no TTL.
        admin.expire(key_of(unused), LIFETIME - 6000)
        admin.persist(key_of(endless))

        report = redisctl(redis, "sessions")
        assert (report["count"], report["without_ttl"]) == (4, 1)
        assert 6000 <= report["longest_unused"] < 6060
        assert report["memory"]["all"] == pytest.approx(
            sum(admin.memory_usage(key_of(one)) or 0 for one in (used, unused, endless, another)), abs=4
        )
        shown = redis.host.run("redisctl sessions").stdout
        assert "without a TTL   1: they never go" in shown
        assert not [one for one in (used, unused, endless, another) if key_of(one)[12:] in shown + json.dumps(report)]

        both = "sessions expire --no-ttl --older-than 90min"
        expected = {"looked_at": 4, "removed": 1, "limited": 1}
        assert redisctl(redis, both) == {"instance": "redis", "dry_run": True, **expected}
        assert (admin.ttl(key_of(endless)), admin.exists(key_of(unused))) == (-1, 1), "a dry run changed something"

        assert redisctl(redis, f"{both} --yes") == {"instance": "redis", "dry_run": False, **expected}
        assert 0 <= LIFETIME - int(admin.ttl(key_of(endless))) < 60
        assert [one.get("/").text for one in (used, unused, endless, another)] == [
            "somebody",
            "nobody",
            "somebody",
            "somebody",
        ]


def test_queues_are_told_as_rq_sees_them_and_failures_by_their_reason(redis: Instance, rq: Rq, tmp_path: Path) -> None:
    mail, slow = rq.queue("mail"), rq.queue("slow")
    ids = {
        "done": mail.enqueue(operator.add, "secret", " argument").id,
        "failed": mail.enqueue(operator.truediv, 1, 0).id,
        "again": mail.enqueue(operator.truediv, 2, 0).id,
        "other": mail.enqueue(operator.getitem, {}, "[red]").id,
    }
    rq.work("mail")
    waits = slow.enqueue(operator.add, 1, 1)
    slow.enqueue(operator.add, 1, 1, depends_on=waits)
    slow.enqueue(operator.add, 1, 1).cancel()
    # Registered as it starts, and killed: when its record has expired, RQ hears no more of it.
    Worker([slow], connection=rq.connection, name="killed").register_birth()
    Worker([slow], connection=rq.connection, name="living").register_birth()
    rq.connection.expire("rq:worker:killed", 0)

    report = redisctl(redis, "queues")

    queues = {queue["name"]: queue for queue in report["queues"]}
    none = dict.fromkeys(("started", "finished", "failed", "deferred", "scheduled", "canceled"), 0)
    assert queues["mail"]["registries"] == {**none, "finished": 1, "failed": 3}
    assert len(FailedJobRegistry(queue=mail)) == 3
    assert queues["slow"]["registries"] == {**none, "deferred": 1, "canceled": 1}
    assert (queues["mail"]["waiting"], queues["slow"]["waiting"]) == (mail.count, slow.count) == (0, 1)
    assert queues["mail"]["oldest"] is None
    assert 0 < queues["slow"]["oldest"] < 30
    workers = {worker["name"]: worker for worker in report["workers"]}
    assert (workers["killed"]["dead"], workers["living"]["dead"]) == (True, False)
    assert 0 <= workers["living"]["heartbeat"] < 30
    assert workers["living"]["queues"] == ["slow"]
    groups = {group["error"]: group for group in report["failed"]["groups"]}
    assert {error: group["count"] for error, group in groups.items()} == {
        "ZeroDivisionError: division by zero": 2,
        "KeyError: '[red]'": 1,
    }
    assert groups["KeyError: '[red]'"]["job"] == ids["other"]
    assert groups["KeyError: '[red]'"]["function"] == "_operator.getitem"
    pile = report["backlog"]
    assert (pile["jobs"], pile["results"]) == (7, 4)
    # RQ gives them none: docs/applications.md.
    assert pile["results_without_ttl"] == 3
    assert pile["jobs_without_ttl"] == {"canceled": 1}
    shown = redis.host.run("redisctl queues").stdout
    assert "KeyError: '[red]'" in shown
    assert "secret" not in shown + json.dumps(report)
    misspelt = redis.host.run("redisctl queues requeue --queue mial")
    assert (misspelt.returncode, misspelt.stdout) == (3, "")
    assert "RQ knows no queue mial, but: mail, slow" in misspelt.stderr


def test_failed_jobs_are_put_back_as_rq_does_and_a_worker_works_them_off(
    redis: Instance, rq: Rq, tmp_path: Path
) -> None:
    queue = rq.queue("files")
    missing = tmp_path / "missing"
    jobs = [queue.enqueue(os.path.getsize, str(missing)) for _ in range(3)]
    limited = queue.enqueue(os.path.getsize, str(missing), rate_limit=RateLimit(key="one", concurrency=1))
    broken = queue.enqueue(operator.truediv, 1, 0)
    rq.work("files")
    failed = FailedJobRegistry(queue=queue)
    assert len(failed) == 5
    missing.write_text("here")

    # One of them by RQ itself: redisctl must leave the same.
    requeue_job(jobs[0].id, rq.connection)
    told = redisctl(redis, "queues requeue --queue files --error 'No such file'")
    assert told == {
        "instance": "redis",
        "dry_run": True,
        "count": 3,
        "queues": {"files": 3},
        "rate_limited": 1,
        "skipped": 0,
    }
    assert (queue.count, len(failed)) == (1, 4), "a dry run changed something"
    told = redisctl(redis, "queues requeue --queue files --error 'No such file' --yes")
    assert (told["dry_run"], told["count"], told["rate_limited"]) == (False, 3, 1)
    assert failed.get_job_ids() == [broken.id]
    assert set(queue.get_job_ids()) == {job.id for job in jobs}
    by_rq, by_redisctl = (rq.connection.hgetall(job.key) for job in jobs[:2])
    assert by_rq.keys() == by_redisctl.keys()
    differing = {name for name in by_rq if by_rq[name] != by_redisctl[name]}
    assert differing <= {b"created_at", b"enqueued_at", b"last_heartbeat", b"worker_name"}
    # A job that waits may not be evicted.
    assert rq.connection.ttl(jobs[1].key) == -1

    # A worker looks after rate limits when it starts.
    rq.work("files")
    for job in [*jobs, limited]:
        assert Job.fetch(job.id, connection=rq.connection).return_value() == len("here")
    assert broken.get_status(refresh=True).value == "failed"

    # By name; and what is not failed is left alone.
    told = redisctl(redis, f"queues requeue --job {broken.id} --job {jobs[0].id} --yes")
    assert (told["count"], told["skipped"]) == (1, 1)
    assert queue.get_job_ids() == [broken.id]


def test_old_jobs_go_with_all_that_rq_keeps_of_them_and_no_other_does(redis: Instance, rq: Rq) -> None:
    queue = rq.queue("old")
    ended = [queue.enqueue(operator.add, 1, 1), queue.enqueue(operator.truediv, 1, 0)]
    evicted = queue.enqueue(operator.truediv, 1, 0)
    again = queue.enqueue(operator.add, 1, 1, job_id="again")
    rq.work("old")
    # Run again under its name: the registry still has the old run.
    queue.enqueue(operator.add, 1, 1, job_id="again")
    canceled = queue.enqueue(operator.add, 1, 1)
    canceled.cancel()
    deferred = queue.enqueue(operator.add, 1, 1, depends_on=again)
    rq.connection.delete(evicted.key)
    counts = {
        "finished": {"jobs": 1, "entries": 1, "results": 0},
        "failed": {"jobs": 1, "entries": 1, "results": 0},
        "canceled": {"jobs": 1, "entries": 0, "results": 0},
    }

    young = redisctl(redis, "queues prune --older-than 1d --yes --queue old")["registries"]
    assert {name: one["jobs"] for name, one in young.items()} == dict.fromkeys(counts, 0)
    queue.finished_job_registry.connection.zadd(queue.finished_job_registry.key, {"again": 10**11})
    queue.failed_job_registry.connection.zadd(queue.failed_job_registry.key, {evicted.id: 10**11})
    assert redisctl(redis, "queues prune --older-than 0 --queue old")["registries"] == counts
    assert all(Job.exists(job.id, rq.connection) for job in [*ended, canceled]), "a dry run changed something"

    assert redisctl(redis, "queues prune --older-than 0 --queue old --yes")["registries"] == counts
    with redis.client() as admin:
        for job in [*ended, canceled]:
            assert list(admin.scan_iter(f"*{job.id}*", count=1000)) == []
    assert FinishedJobRegistry(queue=queue).get_job_ids() == FailedJobRegistry(queue=queue).get_job_ids() == []
    assert queue.get_job_ids() == ["again"]
    assert deferred.get_status(refresh=True).value == "deferred"

    # The traceback has outlived its job.
    assert rq.connection.exists(f"rq:results:{evicted.id}") == 1
    results = "queues prune --older-than 0 --registry results --yes"
    assert redisctl(redis, results)["registries"]["results"]["results"] == 1
    assert rq.connection.exists(f"rq:results:{evicted.id}") == 0
    rq.work("old")
    assert again.get_status(refresh=True).value == deferred.get_status(refresh=True).value == "finished"


def test_a_million_sessions_are_looked_at_without_a_stall_and_without_memory(redis: Instance) -> None:
    """Another client waits for next to nothing, beside what one that takes all keys at once makes it wait."""
    assert redis.host.run(FILL, check=True).stdout.endswith(f"errors: 0, replies: {MILLION + 1}\n")
    wait_until(lambda: not saves(redis), "no save runs", 60)

    small = beside(redis, "redisctl", "stats", "--json")
    careful = beside(redis, "redisctl", "sessions", "--json")
    greedy = beside(redis, "sh", "-c", AT_ONCE)

    print(f"worst PING beside redisctl sessions: {careful['worst'] * 1000:.1f} ms; it took {careful['took']:.1f} s")
    print(f"worst PING beside SCAN of all keys at once: {greedy['worst'] * 1000:.1f} ms")
    print(f"memory: {careful['most'] / 1024**2:.0f} MiB, of a snapshot {small['most'] / 1024**2:.0f} MiB")
    report = json.loads(careful["said"])
    assert (report["count"], report["without_ttl"]) == (MILLION, 0)
    assert report["memory"]["sampled"] == 1000
    assert careful["worst"] < greedy["worst"] / 4
    # The names alone are 45 MB, and as strings of Python twice that.
    assert careful["most"] - small["most"] < 16 * 1024**2


def saves(redis: Instance) -> list[str]:
    running = ("rdb_bgsave_in_progress:1", "aof_rewrite_in_progress:1")
    return [line for line in redis.call("INFO persistence") if line.startswith(running)]


def beside(redis: Instance, *command: str) -> dict[str, Any]:
    """How another client fares while a command runs on the host."""
    done = redis.host.run(f"timeout 120 python3 -I - {shlex.join(command)}", input=BESIDE, check=True)
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["failed"] == 0
    return seen
