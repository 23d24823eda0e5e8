"""Backups without a server: manifests, names, retention, digests and times."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from redisctl.backup import attempt, catalog, retention, verify
from redisctl.backup.catalog import BackupSet, Metadata
from redisctl.core import aof_manifest
from redisctl.core.aof_manifest import ManifestError, Part
from redisctl.core.errors import Failure
from redisctl.core.files import checksum
from redisctl.core.fingerprint import digest
from redisctl.core.instance import Instance
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
        "files": {"dump.rdb": {"size": 10, "sha256": checksum(path / "dump.rdb")}},
        "format": catalog.FORMAT,
    }
    (path / "backup.json").write_text(json.dumps({**metadata, **changes}))
    return path


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
    assert (metadata.keys, metadata.size, metadata.has_aof) == (4, 10, False)
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
    attempt.record_end(instance, error)
    assert (instance.backups / ".attempt.json").stat().st_size == 4096
    recorded = attempt.read_last_attempt(instance)
    assert recorded["error"]
    assert recorded["error"][:9] == error[:9]


@pytest.mark.parametrize("samples", [None, "", "{", "{}x", "[1]", '[{"key": "a"}]', '[{"type": "string"}]'])
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


def test_previous_data_that_stays_is_reported(tmp_path: Path) -> None:
    instance = Instance("redis", tmp_path, "")
    (instance.previous / "20261124T120000Z" / "appendonlydir").mkdir(parents=True)
    assert discard_previous(instance) == ["20261124T120000Z"]
    # A file cannot be removed like a directory. As root, nothing else is that easy to refuse.
    (instance.previous / "file").touch()
    with pytest.raises(NotADirectoryError):
        discard_previous(instance)
