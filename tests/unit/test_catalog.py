"""What redisctl makes of backups before any of them is loaded: manifests, names, retention, digests, moments."""

import json
from pathlib import Path
from typing import Any

import pytest

from redisctl.backup import catalog, retention
from redisctl.backup.catalog import Metadata
from redisctl.core import aof_manifest
from redisctl.core.aof_manifest import ManifestError, Part
from redisctl.core.errors import Failure
from redisctl.core.files import checksum
from redisctl.core.fingerprint import digest
from redisctl.data.point_in_time import aof_start_time, parse_time

DAY = 86400.0
NOON = 1_795_521_600.0  # 2026-11-24 12:00 UTC, a Tuesday
KEEP = {"hourly": 24, "daily": 7, "weekly": 4, "monthly": 6}


def test_a_manifest_is_read_in_the_order_in_which_redis_loads_it() -> None:
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
    ],
)
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        aof_manifest.parse(text)


def test_a_snapshot_becomes_the_base_of_a_log() -> None:
    base, manifest = aof_manifest.from_rdb()
    assert aof_manifest.parse(manifest) == [base] == [Part("appendonly.aof.1.base.rdb", 1, "b")]


def kept(*ages: float, keep: dict[str, int] | None = None) -> list[float]:
    """The ages in days that stay, of backups of these ages."""
    stays = retention.backups_to_keep([NOON - age * DAY for age in ages], KEEP if keep is None else keep, NOON)
    return sorted(round((NOON - moment) / DAY, 4) for moment in stays)


def test_a_year_of_nightly_backups_leaves_days_weeks_and_months() -> None:
    stays = kept(*map(float, range(365)), keep={"daily": 7, "weekly": 4, "monthly": 6})
    # Seven days; the Sundays before; the last days of October, September and so on.
    assert stays == [0, 1, 2, 3, 4, 5, 6, 9, 16, 24, 55, 85, 116, 147]


def test_hours_that_have_no_backup_do_not_count() -> None:
    assert kept(1.0, 2.0, 3.0, keep={"hourly": 2}) == [1.0, 2.0]


def test_the_newest_of_an_hour_stays_for_it_and_all_of_the_last_hour() -> None:
    minutes = [10 / 1440, 20 / 1440, 59 / 1440, 75 / 1440, 80 / 1440, 119 / 1440]
    assert kept(*minutes, keep={"hourly": 2}) == [round(age, 4) for age in (*minutes[:3], minutes[3])]


def test_the_newest_stays_whatever_is_kept() -> None:
    assert kept(400.0, 500.0, keep={}) == [400.0]
    assert kept() == []


def test_a_digest_does_not_depend_on_the_order_of_hashes_and_sets_and_does_on_that_of_lists() -> None:
    assert digest("hash", {b"a": b"1", b"b": b"2"}) == digest("hash", {b"b": b"2", b"a": b"1"})
    assert digest("hash", {b"a": b"1"}) != digest("hash", {b"a": b"2"})
    assert digest("set", {b"a", b"b"}) == digest("set", [b"b", b"a"])
    assert digest("list", [b"a", b"b"]) != digest("list", [b"b", b"a"])
    # Where one part ends and the next begins is part of it.
    assert digest("list", [b"ab", b"c"]) != digest("list", [b"a", b"bc"])
    assert digest("zset", [b"a", b"1.1"]) == digest("zset", [b"a", b"1.1000000000000001"])
    assert digest("zset", [b"a", b"1.1"]) != digest("zset", [b"a", b"1.2"])
    assert digest("stream", [(b"1-1", {b"a": b"b"})]) != digest("stream", [(b"1-2", {b"a": b"b"})])
    assert digest("string", None) == ""


def backup(path: Path, **changes: Any) -> Path:
    """A backup's directory with a file of ten bytes."""
    path.mkdir()
    (path / "dump.rdb").write_bytes(b"REDIS00120")
    (path / "samples.json").write_text("[]")
    told = {
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
    (path / "backup.json").write_text(json.dumps({**told, **changes}))
    return path


def test_backups_are_listed_the_newest_first_and_halves_of_them_are_not(tmp_path: Path) -> None:
    old = backup(tmp_path / "20261123T030000Z")
    new = backup(tmp_path / "20261124T030000Z")
    backup(tmp_path / ".20261125T030000Z.partial")
    backup(tmp_path / "by-hand")
    other = backup(tmp_path / "20261122T030000Z", format=99)
    cut = backup(tmp_path / "20261121T030000Z")
    (cut / "backup.json").write_text("{")
    (tmp_path / "20261120T030000Z").mkdir()

    assert [one.path for one in catalog.list_backups(tmp_path)] == [new, old]
    told = catalog.list_unreadable(tmp_path)
    assert [any(path.name in words for words in told) for path in (other, cut)] == [True, True]
    assert "backup.json is missing" in told[-1]
    assert catalog.list_backups(tmp_path / "nowhere") == []


def test_a_backup_is_found_by_its_name_its_beginning_and_as_the_latest(tmp_path: Path) -> None:
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


def test_what_a_backup_is_in_numbers(tmp_path: Path) -> None:
    one: Metadata = catalog.open_backup(backup(tmp_path / "20261124T030000Z")).metadata
    assert (one.keys, one.size, one.has_aof) == (4, 10, False)
    assert catalog.backup_id(NOON) == "20261124T120000Z"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: (path / "dump.rdb").write_bytes(b"REDIS00121"), "its checksum differs"),
        (lambda path: (path / "dump.rdb").write_bytes(b"REDIS"), "dump.rdb has 5 bytes, not 10"),
        (lambda path: (path / "dump.rdb").unlink(), "No such file"),
        (lambda path: (path / "more").write_text(""), "more does not belong to it"),
    ],
)
def test_files_that_are_not_what_was_written_are_told(tmp_path: Path, harm: Any, words: str) -> None:
    path = backup(tmp_path / "20261124T030000Z")
    assert catalog.find_damage(catalog.open_backup(path)) == []
    harm(path)
    (found,) = catalog.find_damage(catalog.open_backup(path))
    assert words in found


def test_a_moment_is_read_as_people_write_it() -> None:
    assert parse_time("1795521600") == NOON
    assert parse_time("2026-11-24T12:00:00Z") == NOON
    assert parse_time("2026-11-24 13:00:00+01:00") == NOON


@pytest.mark.parametrize("text", ["yesterday", "16:20:05", "nan", "inf", "-1e30", "1795521600000", "0001-01-01"])
def test_what_is_no_moment_is_refused_in_words(text: str) -> None:
    with pytest.raises(Failure, match="is not a time"):
        parse_time(text)


def test_a_log_says_when_it_begins(tmp_path: Path) -> None:
    made = int(NOON).to_bytes(4, "little")
    header = b"REDIS0012\xfa\x09redis-ver\x058.0.2\xfa\x0aredis-bits\xc0@\xfa\x05ctime\xc2" + made + b"\xfa\x08used-mem"
    (tmp_path / "a.rdb").write_bytes(header)
    (tmp_path / aof_manifest.MANIFEST).write_text("file a.rdb seq 1 type b\n")
    assert aof_start_time(tmp_path) == NOON
    (tmp_path / "a.rdb").write_bytes(b"REDIS0012")
    with pytest.raises(Failure, match="does not say when it was created"):
        aof_start_time(tmp_path)
