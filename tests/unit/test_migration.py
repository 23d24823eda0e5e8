"""redisctl import: blockers, advice on replica errors, and server differences."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as NotConnected

from redisctl.core import scratch_redis
from redisctl.core.errors import Failure
from redisctl.core.fingerprint import Fingerprint
from redisctl.migrate import migration, source
from redisctl.migrate.blockers import TargetFacts, blockers, describe_shortage
from redisctl.migrate.compare import SAMPLE_SIZE, TTL_TOLERANCE_MS, difference, is_between, share
from redisctl.migrate.replica import COPYING, DOWN, FOLLOWS, LOADING, progress, quoted, writes
from redisctl.migrate.source import SourceFacts, SourceServer, parse

GIB = 1024**3
OLD = SourceServer("old.example.com", 6379, "mover", "secret")
SOURCE = SourceFacts("7.2.4", "them", GIB, is_cluster=False, databases={"db0": {"keys": 9, "expires": 3}})
OWN = TargetFacts(
    run_id="us",
    keys=0,
    memory=10**6,
    maxmemory=2 * GIB,
    databases=16,
    free_memory=8 * GIB,
    free_import=9 * GIB,
    free_data=9 * GIB,
    one_disk=True,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("old:6379", ("old", 6379)), ("10.0.0.7:1", ("10.0.0.7", 1)), ("[fd00::7]:65535", ("fd00::7", 65535))],
)
def test_address_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text", ["old", "old:", ":6379", "fd00::7:6379", "redis://u:pw@old:6379/0", "a b:1", "old:x", "/root/dump.rdb"]
)
def test_invalid_address_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(Failure, match=r"^--from must be HOST:PORT and nothing else.* redisctl restore") as failure:
        parse(text)
    assert "pw" not in str(failure.value)


@pytest.mark.parametrize("text", ["old:0", "old:65536"])
def test_invalid_port_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="is not a port"):
        parse(text)


def test_source_does_not_show_its_password() -> None:
    assert "secret" not in repr(OLD)


@pytest.mark.parametrize(
    ("error", "cancelled"),
    [
        (scratch_redis.NotLoadable("the data does not load"), True),
        (scratch_redis.Ended("the container is gone"), True),
        (Failure("Docker does not answer"), False),
    ],
)
def test_copy_is_only_cancelled_if_it_has_ended(
    error: Failure, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short failure of Docker does not remove a copy of hours."""
    copy, cancel = Mock(), Mock()
    copy.read.side_effect = error
    monkeypatch.setattr(migration, "replica_of", lambda *_: copy)
    monkeypatch.setattr(migration, "cancel", cancel)
    with pytest.raises(Failure, match=str(error)):
        migration.wait_for_sync(Mock(), Mock(), Mock())
    assert cancel.called == cancelled


def test_data_that_fits_has_no_blockers() -> None:
    assert blockers(OWN, SOURCE, OLD, overwrite=False) == []


@pytest.mark.parametrize(
    ("target", "source_facts", "message"),
    [
        ({"run_id": "them"}, {}, "is this instance itself"),
        ({}, {"is_cluster": True}, "is part of a cluster"),
        ({}, {"databases": {"db16": {"keys": 1, "expires": 0}}}, "redis_databases = 17"),
        ({"maxmemory": GIB - 1}, {}, "redis_maxmemory is 1024.0 MiB"),
        # The copy needs disk space in addition to the instance.
        ({"free_import": 2 * GIB}, {}, "the disk has 2.0 GiB free"),
        ({"free_data": GIB, "one_disk": False}, {}, "the disk has 1.0 GiB free"),
        ({"keys": 3}, {}, "this instance has 3 keys already"),
    ],
)
def test_blocker_is_reported(target: dict[str, Any], source_facts: dict[str, Any], message: str) -> None:
    (blocker,) = blockers(replace(OWN, **target), replace(SOURCE, **source_facts), OLD, overwrite=False)
    assert message in blocker


def test_guess_of_the_memory_is_a_warning() -> None:
    """The copy may use what the host has, and a guess stops no import."""
    little = replace(OWN, free_memory=int(2.3 * GIB))
    assert blockers(little, SOURCE, OLD, overwrite=False) == []
    assert describe_shortage(OWN, SOURCE) == ""
    warning = describe_shortage(little, SOURCE)
    assert "may need 2.3 GiB more memory, and the host has 2.3 GiB" in warning
    assert "redisctl restore FILE" in warning


def test_all_blockers_are_reported_at_once() -> None:
    assert blockers(replace(OWN, keys=3), SOURCE, OLD, overwrite=True) == []
    assert len(blockers(replace(OWN, keys=3, maxmemory=1, free_data=1), SOURCE, OLD, overwrite=False)) == 3


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (AuthenticationError("WRONGPASS invalid username-password pair"), "refuses user mover"),
        (NoPermissionError("this user has no permissions to run the 'info' command"), "ACL SETUSER mover +psync"),
        (ResponseError("unknown command `REPLCONF`"), "redisctl restore FILE"),
        (NotConnected("Error 111 connecting to old.example.com:6379. Connection refused."), "a firewall in between"),
        (NotConnected("Connection closed by server."), "If it uses TLS"),
        (NotConnected("[SSL: CERTIFICATE_VERIFY_FAILED] Hostname mismatch"), "address that is in its certificate"),
        (NotConnected("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), "Is --ca the CA"),
    ],
)
def test_refusal_has_advice(error: Any, advice: str) -> None:
    assert advice in str(source.refusal(OLD, error))


def test_closed_tls_connection_may_need_a_client_certificate() -> None:
    error = NotConnected("Error 104 while writing to socket. Connection reset by peer.")
    assert "--cert and --key" in str(source.refusal(replace(OLD, tls=True, ca="/ca.pem"), error))


LOG = """\
1:S 24 Nov 2026 17:10:47.482 * Connecting to MASTER 127.0.0.1:6390
1:S 24 Nov 2026 17:10:47.482 * MASTER <-> REPLICA sync started
1:S 24 Nov 2026 17:10:47.483 * Full resync from master: 0c66:14
""".splitlines()
REFUSED = "1:S 24 Nov 2026 17:10:48.1 # Unexpected reply to PSYNC from master: -NOPERM no permissions"
DONE = "1:S 24 Nov 2026 17:10:49.1 * MASTER <-> REPLICA sync: Finished with success"


def test_error_is_reported_until_a_sync_succeeds() -> None:
    assert source.replication_errors(LOG) == ""
    error = source.replication_errors([*LOG, REFUSED, *LOG[:2]])
    assert error == "Unexpected reply to PSYNC from master: -NOPERM no permissions"
    assert source.is_final(error)
    assert source.next_step(OLD, error).startswith("On that Redis, as its administrator: ACL SETUSER mover")
    assert source.replication_errors([*LOG, REFUSED, *LOG]) == ""
    unreadable = "Failed trying to load the MASTER synchronization DB from disk"
    assert source.replication_errors([*LOG, f"1:S 24 Nov 2026 17:10:48.1 # {unreadable}", *LOG]) == unreadable
    assert source.replication_errors([*LOG, f"1:S 24 Nov 2026 17:10:48.1 # {unreadable}", *LOG, DONE]) == ""


@pytest.mark.parametrize(
    ("line", "final", "advice"),
    [
        ("1:S 1 Nov 2026 17:10:48.111 # Can't handle RDB format version 80", True, "deploy a newer redis_image"),
        ("1:S 1 Nov 2026 17:10:48.111 # Unable to AUTH to MASTER: -WRONGPASS", True, "start it with the new one"),
        ("1:S 1 Nov 2026 17:10:48.111 # Unexpected reply: -ERR unknown command 'PSYNC'", True, "redisctl restore"),
        ("1:S 1 Nov 2026 17:10:48.111 # Error condition on socket for SYNC: Connection refused", False, "keeps trying"),
    ],
)
def test_error_has_advice(line: str, final: bool, advice: str) -> None:
    error = source.replication_errors([line])
    assert error
    assert source.is_final(error) is final
    assert advice in source.next_step(OLD, error)


def info(**values: Any) -> dict[str, Any]:
    return {"slave_repl_offset": 70, "used_memory": 5, "master_link_status": "down", **values}


@pytest.mark.parametrize(
    ("values", "stage", "percent"),
    [
        ({"master_link_status": "up"}, FOLLOWS, 100.0),
        ({"master_sync_in_progress": 1, "master_sync_total_bytes": 8, "master_sync_read_bytes": 2}, COPYING, 25.0),
        ({"master_sync_in_progress": 1, "master_sync_total_bytes": -1, "master_sync_read_bytes": 2}, COPYING, 0.0),
        ({"master_sync_in_progress": 1, "trouble": "-NOPERM"}, DOWN, 0.0),
        ({"loading": 1, "loading_loaded_perc": 40.0}, LOADING, 40.0),
        ({}, DOWN, 0.0),
    ],
)
def test_progress_has_stage_and_percent(values: dict[str, Any], stage: str, percent: float) -> None:
    error = values.pop("trouble", "an error")
    current = progress(info(**values), error)
    assert (current.stage, current.percent, current.errors) == (stage, percent, "" if stage == FOLLOWS else error)


def test_expired_keys_do_not_count_as_writes() -> None:
    def after(**calls: int) -> Any:
        return progress(info(**{f"cmdstat_{name}": {"calls": count} for name, count in calls.items()}), "")

    before = after(set=5, ping=1, **{"del": 2})
    assert writes(before, before, 0) == {}
    assert writes(before, after(set=5, ping=9, info=40, **{"del": 7}), 5) == {}
    assert writes(before, after(set=6, **{"del": 9, "xgroup|create": 1, "xgroup|destroy": 1}), 3) == {
        "set": 1,
        "del": 4,
        "xgroup": 2,
    }


def test_password_with_special_characters_is_one_word() -> None:
    assert quoted('a"b\\c d\n#\u00e9') == '"a\\x22b\\x5cc\\x20d\\x0a\\x23\\xc3\\xa9"'


NOW = 1_800_000_000.0
KEY = Fingerprint("string", int(NOW * 1000) + 60_000, 5, "digest")
MISSING = Fingerprint("none", -2, 0, "")


@pytest.mark.parametrize(
    ("original", "copied", "expected"),
    [
        (KEY, KEY, ""),
        (KEY, replace(KEY, digest="another"), "value"),
        (KEY, replace(KEY, length=6), "value"),
        (KEY, replace(KEY, type="list"), "type"),
        (KEY, replace(KEY, expires_at=KEY.expires_at + 1), "expiry"),
        (KEY, replace(KEY, expires_at=-1), "expiry"),
        (KEY, MISSING, "missing"),
        (MISSING, KEY, "only here"),
        (MISSING, MISSING, ""),
        # Expired, and already removed on one side.
        (replace(KEY, expires_at=int(NOW * 1000)), MISSING, ""),
        (MISSING, replace(KEY, expires_at=int(NOW * 1000)), ""),
    ],
)
def test_difference_is_named(original: Fingerprint, copied: Fingerprint, expected: str) -> None:
    assert difference(original, copied, NOW, absolute_expiry=True) == expected


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (TTL_TOLERANCE_MS, ""),
        (-TTL_TOLERANCE_MS, ""),
        (-TTL_TOLERANCE_MS - 1, "expiry"),
        (600_000, ""),
        (600_001, "expiry"),
    ],
)
def test_computed_expiry_may_be_later_but_not_earlier(milliseconds: int, expected: str) -> None:
    assert (
        difference(KEY, replace(KEY, expires_at=KEY.expires_at + milliseconds), NOW, absolute_expiry=False) == expected
    )


def test_counts_may_lie_between_two_samples() -> None:
    assert [is_between(count, 5, 7) for count in (4, 5, 6, 7, 8)] == [False, True, True, True, False]
    assert is_between(6, 7, 5)
    assert (share(1, 10**6), share(10**6, 10**6)) == (1, SAMPLE_SIZE)
