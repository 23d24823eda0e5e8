"""Backups without a server: manifests, names, retention, digests and times."""

import hashlib
import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redisctl.backup import attempt, catalog, create, offsite, retention, run, verify
from redisctl.backup.catalog import BackupSet, Metadata
from redisctl.core import aof_manifest, fingerprint, mounts, untrusted_files
from redisctl.core.aof_manifest import ManifestError, Part
from redisctl.core.client import MAX_ANSWERS, UnreadableAnswer
from redisctl.core.errors import Failure
from redisctl.core.fingerprint import digest
from redisctl.core.instance import Instance
from redisctl.core.resp import MAX_VALUES
from redisctl.data.point_in_time import aof_start_time, parse_time
from redisctl.data.swap import discard_previous
from redisctl.schema import BackupConfig

if TYPE_CHECKING:
    from redis import Redis

DAY = 86400.0
NOON = 1_795_521_600.0  # 2026-11-24 12:00 UTC, a Tuesday
KEEP = {"hourly": 24, "daily": 7, "weekly": 4, "monthly": 6}


def test_manifest_is_parsed_in_load_order() -> None:
    text = (
        "file appendonly.aof.5.incr.aof seq 5 type i\n"
        "file appendonly.aof.1.base.rdb seq 1 type h\n"
        "# a comment\n"
        "file appendonly.aof.2.base.rdb seq 2 type b startoffset 0\n"
        "file appendonly.aof.4.incr.aof seq 4 type i\n"
    )
    parts = aof_manifest.parse(text)
    assert [(part.seq, part.type) for part in parts] == [(2, "b"), (4, "i"), (5, "i")]
    assert aof_manifest.parse(aof_manifest.to_text(parts)) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello\n",
        "file ../../etc/passwd seq 1 type b\n",
        "file a.rdb seq one type b\n",
        "file a.rdb seq 1 type x\n",
        "file a.rdb seq 1 type b\nfile b.rdb seq 2 type b\n",
        "file a.rdb seq 1 type h\n",
        'file "a.rdb seq 1 type b\n',
        "file a.rdb seq ² type b\n",
        'file "a.rdb"x seq 1 type b\n',
        f"file a.rdb seq {'9' * 5000} type b\n",
    ],
)
def test_damaged_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        aof_manifest.parse(text)


def test_rdb_snapshot_becomes_the_base_of_an_aof() -> None:
    base, manifest = aof_manifest.from_rdb()
    assert aof_manifest.parse(manifest) == [base] == [Part("appendonly.aof.1.base.rdb", 1, "b")]


def kept(*ages: float, keep: dict[str, int] | None = None) -> list[float]:
    """Return the ages in days that are kept, of backups of these ages."""
    times = retention.backups_to_keep([NOON - age * DAY for age in ages], KEEP if keep is None else keep, NOON)
    return sorted(round((NOON - moment) / DAY, 4) for moment in times)


def test_nightly_backups_are_kept_by_day_week_and_month() -> None:
    ages = kept(*map(float, range(365)), keep={"daily": 7, "weekly": 4, "monthly": 6})
    # Seven days; the Sundays before; the last days of October, September and so on.
    assert ages == [0, 1, 2, 3, 4, 5, 6, 9, 16, 24, 55, 85, 116, 147]


def test_hours_without_a_backup_do_not_count() -> None:
    assert kept(1.0, 2.0, 3.0, keep={"hourly": 2}) == [1.0, 2.0]


def test_all_backups_of_the_last_hour_are_kept() -> None:
    minutes = [10 / 1440, 20 / 1440, 59 / 1440, 75 / 1440, 80 / 1440, 119 / 1440]
    assert kept(*minutes, keep={"hourly": 2}) == [round(age, 4) for age in (*minutes[:3], minutes[3])]


def test_newest_backup_is_always_kept() -> None:
    assert kept(400.0, 500.0, keep={}) == [400.0]
    assert kept() == []


def test_newest_good_backup_is_never_pruned(tmp_path: Path) -> None:
    """The newest good backup stays even if newer ones are bad or not verified.

    A bad backup does not take the place of a good one.
    """
    instance = Instance("redis", tmp_path, "app:session:*", backup=BackupConfig(keep={"daily": 1}))
    instance.backups.mkdir()
    verdicts = {"20261124": None, "20261123": "failed", "20261122": "ok", "20261121": "ok", "20261120": "failed"}
    for day, (name, verdict) in enumerate(verdicts.items()):
        path = backup(instance.backups / f"{name}T030000Z", taken_at=NOON - day * DAY)
        if verdict:
            (path / "verified.json").write_text(json.dumps({"verdict": verdict}))
    assert [prunable.id[:8] for prunable in retention.find_prunable(instance)] == ["20261121", "20261120"]
    assert retention.prune(instance) == ["20261121T030000Z", "20261120T030000Z"]
    assert [present.id[:8] for present in catalog.list_backups(instance.backups)] == [
        "20261124",
        "20261123",
        "20261122",
    ]
    assert retention.prune(instance) == []


def test_digest_depends_on_order_only_for_lists() -> None:
    assert digest("hash", {b"a": b"1", b"b": b"2"}) == digest("hash", {b"b": b"2", b"a": b"1"})
    assert digest("hash", {b"a": b"1"}) != digest("hash", {b"a": b"2"})
    assert digest("set", {b"a", b"b"}) == digest("set", [b"b", b"a"])
    assert digest("list", [b"a", b"b"]) != digest("list", [b"b", b"a"])
    # The digest includes the lengths of the parts.
    assert digest("list", [b"ab", b"c"]) != digest("list", [b"a", b"bc"])
    assert digest("zset", [b"a", b"1.1"]) == digest("zset", [b"a", b"1.1000000000000001"])
    assert digest("zset", [b"a", b"1.1"]) != digest("zset", [b"a", b"1.2"])
    assert digest("stream", [(b"1-1", {b"a": b"b"})]) != digest("stream", [(b"1-2", {b"a": b"b"})])
    assert digest("string", None) == ""


def backup(path: Path, **changes: Any) -> Path:
    """Create a backup's directory with an RDB snapshot of ten bytes."""
    path.mkdir()
    (path / "dump.rdb").write_bytes(b"REDIS00120")
    (path / "samples.json").write_text("[]")
    metadata = {
        "id": path.name,
        "instance": "redis",
        "host": "redis-1",
        "taken_at": NOON,
        "engine": "redis",
        "version": "8.0.2",
        "settings": "0" * 12,
        "databases": {"db0": {"keys": 3, "expires": 2}, "db1": {"keys": 1, "expires": 0}},
        "memory": 1000,
        "write_pause": 0.01,
        "files": {"dump.rdb": {"size": 10, "sha256": hashlib.sha256((path / "dump.rdb").read_bytes()).hexdigest()}},
        "format": catalog.FORMAT,
    }
    (path / "backup.json").write_text(json.dumps({**metadata, **changes}))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": {"dump.rdb": 7}},
        {"files": {"dump.rdb": {"size": "x", "sha256": ""}}},
        {"files": {"dump.rdb": {"size": 10}}},
        {"taken_at": "today"},
        {"taken_at": 1e300},
        {"taken_at": float("nan")},
        {"taken_at": -1},
        {"id": "../../../etc"},
        {"id": "20261123T030000Z"},
        {"id": 7},
        {"databases": {"db": {"keys": 1, "expires": 0}}},
        {"databases": {"db0": {"keys": 1}}},
        {"databases": {"db0": {"keys": "1", "expires": 0}}},
        {"databases": []},
        {"memory": "all"},
        {"format": 99},
        {"format": []},
    ],
)
def test_metadata_from_elsewhere_stops_no_pruning(tmp_path: Path, changes: dict[str, Any]) -> None:
    """It is reported, and everything else works."""
    instance = Instance("redis", tmp_path, "", backup=BackupConfig(keep={"daily": 1}))
    instance.backups.mkdir()
    backup(instance.backups / "20261124T030000Z", **changes)
    for day, name in enumerate(("20261122T030000Z", "20261121T030000Z")):
        backup(instance.backups / name, taken_at=NOON - day * DAY)
    (problem,) = catalog.list_unreadable(instance.backups)
    assert "20261124T030000Z" in problem
    assert retention.prune(instance) == ["20261121T030000Z"]
    assert catalog.find_backup(instance.backups, "latest").id == "20261122T030000Z"


@pytest.mark.parametrize(
    "verified",
    [
        [],
        "ok",
        {},
        {"verdict": ["ok"]},
        {"verdict": "ok", "at": "now"},
        {"verdict": "ok", "at": 1e300},
        {"verdict": "ok", "jobs": []},
    ],
)
def test_damaged_result_of_a_verification_counts_as_none(tmp_path: Path, verified: object) -> None:
    path = backup(tmp_path / "20261124T030000Z")
    (path / "verified.json").write_text(json.dumps(verified))
    assert catalog.open_backup(path).verified == {}


def test_only_complete_backups_are_listed_newest_first(tmp_path: Path) -> None:
    old = backup(tmp_path / "20261123T030000Z")
    new = backup(tmp_path / "20261124T030000Z")
    backup(tmp_path / ".20261125T030000Z.partial")
    backup(tmp_path / "by-hand")
    other = backup(tmp_path / "20261122T030000Z", format=99)
    cut = backup(tmp_path / "20261121T030000Z")
    (cut / "backup.json").write_text("{")
    (tmp_path / "20261120T030000Z").mkdir()

    assert [backup.path for backup in catalog.list_backups(tmp_path)] == [new, old]
    problems = catalog.list_unreadable(tmp_path)
    assert [any(path.name in problem for problem in problems) for path in (other, cut)] == [True, True]
    assert "backup.json is missing" in problems[-1]
    assert catalog.list_backups(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"taken_at": "now"},
        {"taken_at": 1e300},
        {"id": 7},
        {"databases": {"db0": {"keys": "x", "expires": 0}}},
        {"databases": {"db0": {}}},
        {"databases": 7},
        {"files": {"dump.rdb": {}}},
        {"files": {"dump.rdb": {"size": "10", "sha256": "x"}}},
    ],
)
def test_backup_with_malformed_metadata_is_reported(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Another host may have written it. It hides no other backup."""
    good = backup(tmp_path / "20261123T030000Z")
    backup(tmp_path / "20261124T030000Z", **changes)
    assert [found.path for found in catalog.list_backups(tmp_path)] == [good]
    (problem,) = catalog.list_unreadable(tmp_path)
    assert "20261124T030000Z/backup.json cannot be read" in problem


@pytest.mark.parametrize("text", ["[]", "7", "{}", '{"verdict": "ok", "at": "x"}', '{"verdict": "ok", "problems": 7}'])
def test_unreadable_verification_is_none(tmp_path: Path, text: str) -> None:
    path = backup(tmp_path / "20261123T030000Z")
    (path / catalog.VERIFIED).write_text(text)
    found = catalog.open_backup(path)
    assert (found.is_verified, found.is_bad, found.verified) == (False, False, {})


def test_backup_is_found_by_name_and_beginning_of_name(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="there is none yet"):
        catalog.find_backup(tmp_path, "latest")
    backup(tmp_path / "20261123T030000Z")
    backup(tmp_path / "20261124T030000Z")
    assert catalog.find_backup(tmp_path, "latest").id == "20261124T030000Z"
    assert catalog.find_backup(tmp_path, "20261123").id == "20261123T030000Z"
    with pytest.raises(Failure, match="2 backups begin with"):
        catalog.find_backup(tmp_path, "2026")
    with pytest.raises(Failure, match=r"no backup '2025'; there are 20261124T030000Z, 20261123T030000Z"):
        catalog.find_backup(tmp_path, "2025")


def test_metadata_counts_keys_and_bytes(tmp_path: Path) -> None:
    metadata: Metadata = catalog.open_backup(backup(tmp_path / "20261124T030000Z")).metadata
    assert (metadata.stored_keys, metadata.size, metadata.has_aof) == (4, 10, False)
    assert catalog.backup_id(NOON) == "20261124T120000Z"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: (path / "dump.rdb").write_bytes(b"REDIS00121"), "its checksum differs"),
        (lambda path: (path / "dump.rdb").write_bytes(b"REDIS"), "dump.rdb has 5 bytes, not 10"),
        (lambda path: (path / "dump.rdb").unlink(), "No such file"),
        (lambda path: (path / "more").write_text(""), "more does not belong to it"),
    ],
)
def test_changed_files_are_found(tmp_path: Path, damage: Any, problem: str) -> None:
    path = backup(tmp_path / "20261124T030000Z")
    assert catalog.find_damage(catalog.open_backup(path)) == []
    damage(path)
    (result,) = catalog.find_damage(catalog.open_backup(path))
    assert problem in result


def test_time_is_parsed_as_people_write_it() -> None:
    assert parse_time("1795521600") == NOON
    assert parse_time("2026-11-24T12:00:00Z") == NOON
    assert parse_time("2026-11-24 13:00:00+01:00") == NOON


@pytest.mark.parametrize("text", ["yesterday", "16:20:05", "nan", "inf", "-1e30", "1795521600000", "0001-01-01"])
def test_text_that_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="is not a time"):
        parse_time(text)


def test_aof_start_time_is_that_of_its_base(tmp_path: Path) -> None:
    created = int(NOON).to_bytes(4, "little")
    header = (
        b"REDIS0012\xfa\x09redis-ver\x058.0.2\xfa\x0aredis-bits\xc0@\xfa\x05ctime\xc2" + created + b"\xfa\x08used-mem"
    )
    (tmp_path / "a.rdb").write_bytes(header)
    (tmp_path / aof_manifest.MANIFEST).write_text("file a.rdb seq 1 type b\n")
    assert aof_start_time(tmp_path) == NOON
    (tmp_path / "a.rdb").write_bytes(b"REDIS0012")
    with pytest.raises(Failure, match="does not say when it was created"):
        aof_start_time(tmp_path)


@pytest.mark.parametrize("error", ["disk full", "é" * 3000, 'a "quoted"\n\\ \x1b[2J' * 500])
def test_long_error_of_a_backup_is_recorded(tmp_path: Path, error: str) -> None:
    """A long error is shortened to fit the record's fixed size.

    A cut record could not be read, and health would not report the error.
    """
    instance = Instance("redis", tmp_path, "")
    instance.backups.mkdir()
    attempt.record_start(instance)
    attempt.record_end(instance, error=error)
    assert (instance.backups / ".attempt.json").stat().st_size == 4096
    recorded = attempt.read_last_attempt(instance)
    assert recorded is not None
    assert recorded.error
    assert recorded.error[:9] == error[:9]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 4000, "{}", '{"started": Infinity}', '{"started": 1e400}', '{"started": 1e300}', '{"started": -1}']
    + [f'{{"started": 1, {value}}}' for value in ('"ended": "x"', '"ended": NaN', '"error": 1', '"error": ["x"]')],
)
def test_damaged_record_of_an_attempt_is_unknown(tmp_path: Path, text: str) -> None:
    """Redis's user can write it. Health still reports everything else."""
    instance = Instance("redis", tmp_path, "")
    instance.backups.mkdir()
    (instance.backups / ".attempt.json").write_text(text)
    with pytest.raises(ValueError, match=r"attempt\.json does not say"):
        attempt.read_last_attempt(instance)
    attempt.record_end(instance, backup="20260102T030405Z")
    recorded = attempt.read_last_attempt(instance)
    assert recorded is not None
    assert recorded.id == "20260102T030405Z"


@pytest.mark.parametrize(
    ("memory", "newest", "estimate"),
    [
        (286, None, 286),
        # Sessions of 20 MB were 286 MB in memory.
        (286, (286, 20), 40),
        (572, (286, 20), 80),
        # It had hardly any data.
        (573, (286, 20), 573),
        # It did not shrink, or has no size.
        (286, (286, 280), 286),
        (286, (286, None), 286),
    ],
)
def test_backup_expects_the_size_of_the_newest_one(
    tmp_path: Path, memory: int, newest: tuple[int, int | None] | None, estimate: int
) -> None:
    backups = []
    if newest:
        files = {} if newest[1] is None else {"dump.rdb": {"size": newest[1]}}
        metadata = Metadata("20261124T120000Z", "redis", "h", NOON, "redis", "8.0", "", {}, newest[0], 0.0, files)
        backups = [BackupSet(tmp_path, metadata)]
    assert create.estimate_rdb(memory, backups) == estimate


SAMPLE = '{"key": "a", "type": "string", "expires_at": "never", "length": 1, "digest": ""}'
DAMAGED_SAMPLES = [
    *(None, "", "{", "{}x", "{}", "[1]", '[{"key": "a"}]', '[{"type": "string"}]', "[" * 100_000),
    f"[{SAMPLE}]",
    f"[{SAMPLE}]".replace('"never"', "-1").replace('"a"', '"\u20ac"'),
]


@pytest.mark.parametrize("samples", DAMAGED_SAMPLES, ids=range(len(DAMAGED_SAMPLES)))
def test_damaged_samples_are_a_problem_of_the_backup(tmp_path: Path, samples: str | None) -> None:
    class Loaded:
        """A Redis that has loaded an empty backup."""

        def info(self, section: str) -> dict[str, Any]:
            return {section: 1}

    metadata = Metadata("20261124T120000Z", "redis", "host", NOON, "redis", "8.0", "", {}, 0, 0.0)
    if samples is not None:
        (tmp_path / "samples.json").write_text(samples)
    problems = verify.compare(cast("Redis", Loaded()), BackupSet(tmp_path, metadata))
    assert problems == ["samples.json cannot be read"]


@pytest.mark.parametrize(
    "error", [RedisTimeoutError("timed out"), RedisConnectionError("closed"), UnreadableAnswer("too large")]
)
def test_silence_of_a_scratch_redis_is_no_verdict(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good backup stays good if the server that loads it is slow or is killed."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(verify, "loaded_redis", fail)
    monkeypatch.setattr(catalog, "own_backup", lambda *_: None)
    metadata = Metadata("20261124T120000Z", "redis", "host", NOON, "redis", "8.0", "", {}, 0, 0.0)
    with pytest.raises(Failure, match=r"was not verified, because the second Redis .* did not answer"):
        verify.verify_backup(Instance("redis", tmp_path, ""), BackupSet(tmp_path, metadata))
    assert not (tmp_path / "verified.json").exists()


@pytest.mark.parametrize("kind", ["string", "hash", "stream"])
def test_values_read_at_once_stay_below_the_clients_bounds(kind: str) -> None:
    """Redis answers at most MAX_ANSWERS bytes and MAX_VALUES values at once."""
    cost = fingerprint.answer_cost(kind, fingerprint.MAX_ELEMENTS, fingerprint.MAX_BYTES)
    assert cost <= fingerprint.MAX_CONTENTS < MAX_ANSWERS
    groups = list(fingerprint.affordable(dict.fromkeys(range(100), cost), fingerprint.MAX_CONTENTS))
    assert sorted(place for group in groups for place in group) == list(range(100))
    assert max(map(len, groups)) * cost <= fingerprint.MAX_CONTENTS
    assert fingerprint.MAX_CONTENTS // fingerprint._PER_STRING < MAX_VALUES


@pytest.mark.parametrize(("verdict", "pushed"), [("", True), ("failed", False)])
def test_failed_verification_stops_no_pruning(
    verdict: str, pushed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk does not fill up. Only a bad backup is not copied off the host."""
    instance = Instance("redis", tmp_path, "", backup=BackupConfig(keep=KEEP, repository="sftp:nas:redis"))
    instance.backups.mkdir()
    taken = catalog.open_backup(backup(instance.backups / "20261124T120000Z"))
    steps = []

    def fail(*_: object) -> None:
        if verdict:
            (taken.path / "verified.json").write_text(json.dumps({"verdict": verdict}))
        raise Failure("the host has 1 GiB left")

    monkeypatch.setattr(mounts, "ensure_mounted", lambda _: None)
    monkeypatch.setattr(create, "create_backup", lambda _: taken)
    monkeypatch.setattr(run, "verify_backup", fail)
    monkeypatch.setattr(retention, "prune", lambda _: steps.append("pruned"))
    monkeypatch.setattr(offsite, "push", lambda *_: steps.append("pushed"))
    with pytest.raises(Failure, match="the host has 1 GiB left"):
        run.back_up(instance)
    assert steps == ["pruned", *(["pushed"] if pushed else [])]
    recorded = attempt.read_last_attempt(instance)
    assert recorded is not None
    assert recorded.error == "the host has 1 GiB left"


def test_previous_data_that_stays_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = Instance("redis", tmp_path, "")
    (instance.previous / "20261124T120000Z" / "appendonlydir").mkdir(parents=True)
    assert discard_previous(instance) == ["20261124T120000Z"]
    (instance.previous / "20261125T120000Z").mkdir()
    # rm reports what it could not remove, such as a file that is immutable.
    monkeypatch.setattr(
        untrusted_files, "_run", lambda *_: CompletedProcess([], 1, "", "rm: Operation not permitted\n")
    )
    with pytest.raises(Failure, match="20261125T120000Z cannot be removed: rm: Operation not permitted"):
        discard_previous(instance)
