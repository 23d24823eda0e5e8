"""How keys are grouped by prefix.

Neither groups nor masked names say whose the keys are.
"""

from secrets import token_hex, token_urlsafe
from uuid import uuid4

import pytest

from redisctl.monitor import memory
from redisctl.monitor.memory import Tally, fold, masked, prefix_of

SESSIONS = "app:session:*"


@pytest.mark.parametrize(
    ("part", "folded"),
    [
        ("17", "<id>"),
        ("user-17", "user-<id>"),
        ("user_17", "user_<id>"),
        ("v2", "v2"),
        ("db0", "db0"),
        ("deadbeef", "deadbeef"),
        ("deadbee1", "<id>"),
        ("6f1c2e0a-4b1d-4a55-9d5e-0a1b2c3d4e5f", "<id>"),
        ("job-6f1c2e0a-4b1d-4a55-9d5e-0a1b2c3d4e5f", "job-<id>"),
        ("dQw4w9WgXcQabcdefghiJK", "<id>"),
        ("jane@example.org", "<id>"),
        ("user_notification_preferences", "user_notification_preferences"),
        ("scheduler-lock", "scheduler-lock"),
        ("x" * 5000, "<id>"),
        ("", ""),
    ],
)
def test_what_looks_like_an_id_is_folded_and_names_stay(part: str, folded: str) -> None:
    assert fold(part) == folded


def test_no_id_that_programs_make_is_a_prefix() -> None:
    for _ in range(2000):
        for made in (token_urlsafe(32), token_hex(16), str(uuid4()), uuid4().hex):
            assert made not in prefix_of(f"other:{made}:data", 3, SESSIONS)
            assert prefix_of(f"app:session:{made}", 3, SESSIONS) == "app:session:<id>"


def test_a_session_is_an_id_whatever_it_looks_like() -> None:
    assert prefix_of("app:session:jane", 3, SESSIONS) == "app:session:<id>"
    assert prefix_of("app:session:jane:cart", 3, SESSIONS) == "app:session:<id>"
    assert masked("app:session:jane:cart", SESSIONS) == "app:session:…"


@pytest.mark.parametrize(
    ("key", "depth", "prefix"),
    [
        ("rq:queues", 2, "rq:queues"),
        ("rq:queue:mail", 2, "rq:queue:*"),
        ("rq:queue:mail", 1, "rq:*"),
        ("rq:queue:mail", 3, "rq:queue:mail"),
        ("user:17:cart", 2, "user:<id>:*"),
        ("counter", 2, "counter"),
    ],
)
def test_a_prefix_says_whether_something_follows(key: str, depth: int, prefix: str) -> None:
    assert prefix_of(key, depth, SESSIONS) == prefix


def test_a_masked_name_lacks_its_last_part() -> None:
    assert masked("user:17:jane", SESSIONS) == "user:<id>:…"
    assert masked("jane", SESSIONS) == "…"


def test_a_sample_stands_for_all_keys_by_its_shares() -> None:
    tally = Tally(2, SESSIONS, biggest=2)
    for number in range(30):
        tally.add(b"app:session:%d" % number, 100)
    for number in range(10):
        tally.add(b"rq:job:%d" % number, 1000 + number)
    jobs, sessions = tally.groups(4000)
    assert (jobs.prefix, jobs.seen_keys, jobs.keys, jobs.seen_bytes, jobs.bytes) == (
        "rq:job:*",
        10,
        1000,
        10045,
        1_004_500,
    )
    assert (sessions.prefix, sessions.keys, sessions.bytes) == ("app:session:*", 3000, 300_000)
    assert jobs.share + sessions.share == pytest.approx(1)
    assert tally.biggest == [(1009, b"rq:job:9"), (1008, b"rq:job:8")]


def test_more_prefixes_than_anybody_reads_go_into_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PREFIXES", 2)
    tally = Tally(1, SESSIONS, biggest=0)
    for key in (b"a", b"b", b"c", b"d", b"a"):
        tally.add(key, 1)
    assert {group.prefix: group.seen_keys for group in tally.groups(5)} == {"a": 2, "b": 1, memory.OTHERS: 2}
    assert tally.biggest == []


def test_an_empty_database_has_no_groups() -> None:
    assert Tally(2, SESSIONS, biggest=5).groups(0) == ()
