"""Reports on RQ's records, and their requeueing. RQ itself creates the records."""

import operator
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis
from rq.job import Job
from rq.queue import Queue as RqQueue
from rq.registry import (
    BaseRegistry,
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.results import Result
from rq.utils import utcformat

from redisctl.apps import rq_jobs
from redisctl.apps.rq_queues import (
    JOB,
    MAX_TRACEBACK,
    QUEUE,
    REGISTRIES,
    RESULTS,
    Backlog,
    Failures,
    backlog_rows,
    failure_rows,
    function_of,
    last_line,
    packed_error,
    queue_rows,
    unpacked,
    when,
    worker_of,
    worker_rows,
)

AT = datetime(2026, 11, 24, 12, 0, 0, 250_000, tzinfo=UTC)
# Nothing listens on this port: RQ creates a job's record without a connection.
NOWHERE = Redis(port=1)
TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\nKeyError: "x"\n'


def record(**changes: str | None) -> dict[str, Any]:
    """Return a failed job's fields as requeue reads them."""
    fields = ("status", "origin", "ended_at", "timeout", "ttl", "rate_limit_key", "rate_limit_concurrency")
    return {**dict.fromkeys(fields), "status": "failed", "origin": "mail", "timeout": "180", **changes}


def test_keys_have_the_names_that_rq_uses() -> None:
    queue = RqQueue("mail", connection=NOWHERE)
    job = Job.create(operator.add, (1, 2), connection=NOWHERE, id="j")
    kinds: dict[str, type[BaseRegistry]] = {
        "started": StartedJobRegistry,
        "finished": FinishedJobRegistry,
        "failed": FailedJobRegistry,
        "deferred": DeferredJobRegistry,
        "scheduled": ScheduledJobRegistry,
        "canceled": CanceledJobRegistry,
    }
    assert {name: kind(queue=queue).key for name, kind in kinds.items()} == {
        name: f"{prefix}mail" for name, prefix in REGISTRIES.items()
    }
    assert (queue.key, job.key, Result.get_key("j")) == (f"{QUEUE}mail", f"{JOB}j", f"{RESULTS}j")
    (removal,) = rq_jobs._removal("j", None, None)
    assert {job.key, job.dependents_key, job.dependencies_key, Result.get_key("j")} < set(removal)


def test_reason_is_the_last_line_of_the_traceback() -> None:
    result = Result("j", Result.Type.FAILED, connection=NOWHERE, exc_string=TRACEBACK)
    assert last_line(unpacked(packed_error(result.serialize()))) == 'KeyError: "x"'


@pytest.mark.parametrize(
    ("packed", "line"),
    [
        (zlib.compress(b""), "no reason was stored"),
        (b"", "no reason was stored"),
        (b"not packed:\nValueError", "ValueError"),
        (zlib.compress(b"one\n\xff\n  \n"), "�"),
        (zlib.compress(b"E" * 5000), "E" * 300),
    ],
)
def test_missing_damaged_or_long_reason_is_one_line(packed: bytes, line: str) -> None:
    assert last_line(unpacked(packed)) == line


def test_unpacked_traceback_is_limited_in_size() -> None:
    assert len(unpacked(zlib.compress(b"x" * MAX_TRACEBACK * 20))) == MAX_TRACEBACK


@pytest.mark.parametrize("result", [{}, {"exc_string": "=="}, {"exc_string": "ä"}, {"return_value": "gASVBQAAAA=="}])
def test_result_without_a_traceback_has_no_reason(result: dict[str, str]) -> None:
    assert packed_error(result) == b""


def test_job_is_named_without_its_arguments() -> None:
    job = Job.create(operator.add, ("secret", 2), connection=NOWHERE)
    assert function_of(job.description) == "_operator.add"
    assert function_of(None) == "?"


def test_times_of_rq_are_parsed() -> None:
    assert when(utcformat(AT)) == AT.timestamp()
    assert when(None, "", "2026-11-24T12:00:00Z") == AT.timestamp() - 0.25
    assert when("", None, "yesterday") == 0


def worker(**changes: str | None) -> dict[str, str | None]:
    defaults = {"state": "idle", "last_heartbeat": utcformat(AT), "queues": "a,b", "current_job": None, "death": None}
    return {**defaults, **changes}


@pytest.mark.parametrize(
    ("values", "later", "dead"),
    [
        (worker(), 1, False),
        (worker(), 480, False),
        (worker(), 481, True),
        (worker(death=utcformat(AT)), 1, True),
        (dict.fromkeys(worker()), 1, True),
    ],
)
def test_worker_is_dead_by_its_record_or_without_heartbeat(
    values: dict[str, str | None], later: float, dead: bool
) -> None:
    assert worker_of("w", values, AT.timestamp() + later).dead is dead


def test_workers_are_shown_with_their_last_heartbeat() -> None:
    workers = [worker_of("w", worker(), AT.timestamp() + 600), worker_of("gone", dict.fromkeys(worker()), 0)]
    rows = list(worker_rows({"workers": [vars(each) for each in workers]}))
    assert rows == [("w", "idle, dead", "10 min ago", "a, b", ""), ("gone", "gone", "no record", "", "")]


def test_failures_are_grouped_by_queue_and_reason() -> None:
    failures = Failures()
    failures.add("mail", "KeyError", 100, "old", "f")
    failures.add("mail", "KeyError", 300, "new", "g")
    failures.add("mail", "KeyError", 200, "between", "f")
    failures.add("other", "KeyError", 0, "when?", "f")
    first, second = failures.groups(at=360)
    assert first == {
        "queue": "mail",
        "error": "KeyError",
        "count": 3,
        "newest": 60,
        "job": "new",
        "function": "g",
    }
    assert (second["count"], second["newest"]) == (1, None)
    rows = failure_rows({"failed": {"groups": [first, second]}})
    assert list(rows) == [("3", "mail", "1 min ago", "g", "KeyError"), ("1", "other", "?", "f", "KeyError")]


def test_only_ended_jobs_without_a_ttl_are_a_backlog() -> None:
    backlog = Backlog()
    backlog.add_jobs(
        [(-1, "queued"), (-1, "scheduled"), (-1, "canceled"), (-1, "failed"), (500, "finished"), (-1, None)]
    )
    backlog.add_results([(-1, 0), (-1, 1), (500, 1)])
    assert backlog.jobs == 6
    assert backlog.jobs_without_ttl == {"canceled": 1, "failed": 1, "damaged": 1}
    assert (backlog.results, backlog.results_without_ttl, backlog.results_without_job) == (3, 2, 1)


def test_backlog_is_reported_only_if_there_is_one() -> None:
    sizes = {"jobs_memory": {"all": 10}, "results_memory": {"all": 20}}
    assert dict(backlog_rows({"backlog": {**vars(Backlog()), **sizes}})) == {
        "jobs": "0, about 10 B",
        "results": "0, about 20 B",
    }
    backlog = Backlog()
    backlog.add_jobs([(-1, "canceled")])
    backlog.add_results([(-1, 0)])
    rows = dict(backlog_rows({"backlog": {**vars(backlog), **sizes}}))
    assert "1 canceled" in rows["ended, no TTL"]
    assert rows["results, no TTL"] == "1; 1 results have no job"


def test_abandoned_and_overdue_jobs_are_marked() -> None:
    counts = dict.fromkeys(REGISTRIES, 0) | {"started": 2, "scheduled": 3}
    queue = {"name": "q", "waiting": 1, "oldest": None, "registries": counts, "overdue": 1, "abandoned": 2}
    (row,) = queue_rows({"queues": [queue]})
    assert row[:4] == ("q", "1", "", "2 (2 abandoned)")
    assert "3 (1 overdue" in row[7]


@pytest.mark.parametrize(("registry", "since"), [("finished", 200), ("failed", 200), ("canceled", 9), ("deferred", 9)])
def test_time_of_entry_into_a_registry(registry: str, since: float) -> None:
    """The score of an entry is its end or its beginning, depending on the registry."""
    ended_at, created_at = (utcformat(datetime.fromtimestamp(at, UTC)) for at in (200, 100))
    assert rq_jobs.ended(registry, 9, ended_at, created_at) == since


def test_requeued_job_loses_its_ttl_first() -> None:
    first, *expiries, last = rq_jobs.requeue_commands("mail", "j", record(), AT)
    assert first[:2] == ("HSET", "rq:job:j")
    fields = dict(zip(first[2::2], first[3::2], strict=True))
    assert fields["status"] == "queued"
    assert fields["started_at"] == fields["ended_at"] == ""
    assert fields["enqueued_at"] == utcformat(AT)
    assert {name for name, *_ in expiries} == {"PERSIST"}
    assert last == ("RPUSH", "rq:queue:mail", "j")


def test_requeued_job_keeps_its_own_ttl() -> None:
    commands = list(rq_jobs.requeue_commands("mail", "j", record(ttl="60"), AT))
    assert ("EXPIRE", "rq:job:j", "60") in commands
    assert "PERSIST" not in {name for name, *_ in commands}


def test_requeued_job_waits_for_its_rate_limit() -> None:
    commands = list(rq_jobs.requeue_commands("mail", "j", record(rate_limit_key="one", rate_limit_concurrency="1"), AT))
    assert ("ZADD", "rq:rl:one:rate_limited", AT.timestamp(), "j") in commands
    assert "RPUSH" not in {name for name, *_ in commands}
    assert "rate_limited" in commands[0]
