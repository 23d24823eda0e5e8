"""The first bytes of data files, and what Redis's checkers report."""

from pathlib import Path

import pytest

from redisctl.core.data_file import Head, Kind, parse_head
from redisctl.data.file_check import describe_unreadable, parse_rdb_check

AUX = b"\xfa\x09redis-ver\x058.0.2\xfa\x0aredis-bits\xc0\x40\xfa\x05ctime\xc2\xbd\xf2\x0a\x6b"
HEAD = Head(Kind.RDB, "REDIS", 12, "Redis 8.0.2", 1105792, 1795879613.0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"REDIS0012" + AUX + b"\xfa\x08used-mem\xc2\x80\xdf\x10\x00", HEAD),
        # More memory than four bytes can count.
        (
            b"REDIS0012" + AUX + b"\xfa\x08used-mem\x0b68719476736",
            Head(Kind.RDB, "REDIS", 12, "Redis 8.0.2", 68719476736, 1795879613.0),
        ),
        (
            b"VALKEY080\xfa\x0avalkey-ver\x059.0.0\xfa\x08used-mem\xc1\x00\x10",
            Head(Kind.RDB, "VALKEY", 80, "Valkey 9.0.0", 4096),
        ),
        # A hostile version does not reach the terminal.
        (b"REDIS0012\xfa\x09redis-ver\x05\x1b[31m", Head(Kind.RDB, "REDIS", 12, "Redis ??31m")),
        (b"*2\r\n$6\r\nSELECT\r\n", Head(Kind.AOF)),
        (b"#TS:1700000000\r\n", Head(Kind.AOF)),
        (b"\x1f\x8b\x08", Head(Kind.PACKED, tool="gunzip")),
        (b"dump.rdb".ljust(257, b"\0") + b"ustar", Head(Kind.PACKED, tool="tar -xf")),
        # A file that ends inside its first command or time.
        *((data[:end], Head(Kind.AOF)) for data in (b"*2\r\n$", b"#TS:") for end in range(1, len(data))),
        (b"*7\x00\x01", Head(Kind.UNKNOWN)),
        (b"*0\r\n$", Head(Kind.UNKNOWN)),
        (b"*12345678901\r\n$", Head(Kind.UNKNOWN)),
        (b"*2\r\n:1\r\n", Head(Kind.UNKNOWN)),
        (b"#\xff\x00garbage", Head(Kind.UNKNOWN)),
        (b"REDIS", Head(Kind.UNKNOWN)),
        (b"", Head(Kind.UNKNOWN)),
    ],
)
def test_first_bytes_identify_a_file(data: bytes, expected: Head) -> None:
    assert parse_head(data) == expected


INTACT = """[offset 0] Checking RDB file dump.rdb
[offset 26] AUX FIELD redis-ver = '8.0.2'
[offset 81] Selecting DB ID 0
[offset 91] Selecting DB ID 20
[offset 108] Checksum OK
[offset 108] \\o/ RDB looks OK! \\o/
[info] 2 keys read
"""
TRUNCATED = """[offset 0] Checking RDB file dump.rdb
--- RDB ERROR DETECTED ---
[offset 881] Unexpected EOF reading RDB file
[additional info] Reading key '[offset 1] \\o/ RDB looks OK! \\o/'
[info] 30 keys read
"""


def test_report_of_the_checker_is_read() -> None:
    path = Path("dump.rdb")
    intact = parse_rdb_check(path, 0, INTACT, HEAD)
    assert (intact.problem, intact.keys, intact.end, intact.databases) == ("", 2, 108, 21)
    assert parse_rdb_check(path, 0, f"{INTACT}[info] 2 expires\n[info] 1 already expired\n", HEAD).keys == 1
    truncated = parse_rdb_check(path, 1, TRUNCATED, HEAD)
    assert truncated.problem == "at byte 881: it is truncated (Unexpected EOF reading RDB file)"
    damaged = parse_rdb_check(path, 1, TRUNCATED.replace("Unexpected EOF reading RDB file", "RDB CRC error"), HEAD)
    assert damaged.problem == "at byte 881: it is damaged (RDB CRC error)"
    future = parse_rdb_check(path, 1, TRUNCATED.replace("Unexpected EOF", "Can't handle RDB format version 99"), HEAD)
    assert (future.is_readable, truncated.is_readable, damaged.is_readable) == (False, True, True)
    assert parse_rdb_check(path, 0, "", HEAD).problem == "redis-check-rdb says nothing about it"


# What redis-check-rdb 8.0.2 printed of files with line breaks in a value of the header, and in a key.
IN_HEADER = """\
[offset 0] Checking RDB file /tmp/ok.rdb
[offset 176] AUX FIELD a = 'x'
{forged}
'
[offset 178] Selecting DB ID 0
[offset 192] RDB file was saved with checksum disabled: no check performed.
[offset 192] \\o/ RDB looks OK! \\o/
[info] 1 keys read
[info] 0 expires
"""
IN_KEY = """\
[offset 0] Checking RDB file /tmp/bad.rdb
[offset 16] Selecting DB ID 0
--- RDB ERROR DETECTED ---
[offset 97] Unexpected EOF reading RDB file
[additional info] While doing: read-object-value
[additional info] Reading key 'k'
{forged}'
[additional info] Reading type 0 (string)
[info] 1 keys read
[info] 0 expires
"""


@pytest.mark.parametrize(
    ("report", "code", "forged"),
    [
        (IN_HEADER, 0, "[offset 5] Selecting DB ID 77"),
        (IN_HEADER, 0, "[offset 177] \\o/ RDB looks OK! \\o/"),
        (IN_HEADER, 0, "[info] 12345 keys read"),
        (IN_HEADER, 0, f"[info] {'9' * 5000} keys read"),
        (IN_KEY, 1, "--- RDB ERROR DETECTED ---\n[offset 999] Can't handle RDB format version 99"),
        (IN_KEY, 1, "[offset 1] Unexpected EOF"),
        (IN_KEY.replace("[info] 1 keys read", ""), -9, f"[info] {'9' * 5000} keys read"),
    ],
)
def test_values_cannot_forge_the_report_of_the_checker(report: str, code: int, forged: str) -> None:
    check = parse_rdb_check(Path("dump.rdb"), code, report.format(forged=forged), HEAD)
    assert "imitates the report" in check.problem
    assert (check.keys, check.end, check.databases) == (0, 0, 1)
    harmless = parse_rdb_check(Path("dump.rdb"), code, report.format(forged="a line\n[offset x]"), HEAD)
    assert "imitates" not in harmless.problem


def test_advice_for_another_engine_names_it() -> None:
    advice = describe_unreadable(Head(Kind.RDB, "VALKEY", 80), "Redis 8.0.2")
    assert "Redis 8.0.2 does not read that" in advice
    assert "deploy Valkey 9 or newer" in advice
    advice = describe_unreadable(Head(Kind.RDB, "REDIS", 13, "Redis 9.0"), "Redis 8.0.2")
    assert advice.startswith("Redis 9.0 wrote it, in RDB format 13, and Redis 8.0.2 does not read that.")
