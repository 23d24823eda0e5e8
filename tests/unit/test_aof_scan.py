"""The commands after the damage of an AOF are counted."""

import os
from pathlib import Path

import pytest

from redisctl.data import aof_scan
from redisctl.data.aof_scan import Budget, Losses


def command(*arguments: str) -> bytes:
    return f"*{len(arguments)}\r\n".encode() + b"".join(
        f"${len(argument)}\r\n{argument}\r\n".encode() for argument in arguments
    )


def test_losses_after_the_damage_are_counted(tmp_path: Path) -> None:
    aof = tmp_path / "aof"
    sound = b"#TS:1000\r\n" + command("SELECT", "0") + command("SET", "app:session:a", "1")
    cut = (
        b"GARBAGE*3\r\n$3\r\nSE"
        + b"\r\n#TS:2000\r\n"
        + command("SET", "app:session:b", "x\r\n*1\r\n$4\r\nPING\r\n")
        + command("DEL", "app:session:b", "rq:job:1", "rq:queue:mail")
        + b"#TS:3000\r\n"
        + command("MSET", "x", "app:session:no", "y", "2")
        + b"*2\r\n$3\r\nDEL\r\n$9\r\nto"
    )
    aof.write_bytes(sound + cut)
    losses = Losses()
    with aof.open("rb") as file:
        aof_scan.count(losses, file, len(sound), "app:session:*")
    assert (losses.size, losses.unseen, dict(losses.commands)) == (len(cut), 0, {"SET": 1, "DEL": 1, "MSET": 1})
    assert {kind: len(keys) for kind, keys in losses.keys.items()} == {
        "sessions": 1,
        "jobs": 1,
        "queues": 1,
        "other": 2,
    }
    assert (losses.first, losses.last) == (2000.0, 3000.0)
    assert 0 < losses.unclear < len(cut)
    report = losses.as_dict(names=False)
    assert "app:session:b" not in str(report)
    assert "app:session:b" in losses.as_dict(names=True)["names"]
    with aof.open("rb") as file:
        assert aof_scan.last_timestamp(file, len(sound)) == 1000.0
        assert aof_scan.last_timestamp(file, len(sound) + len(cut)) == 3000.0
        aof_scan.count(losses, file, len(sound + cut), "app:session:*")
    assert losses.size == len(cut)


def nested_headers(number: int) -> bytes:
    """Return headers of commands, each an argument of all that begin before it."""
    return b"*1000000\r\n" + b"$8\r\n*1000000\r\n" * number


def test_nested_commands_do_not_keep_the_scan_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget is for all files. The time would grow with the square of the size."""
    monkeypatch.setattr(aof_scan, "PARSE_LIMIT", 100_000)
    aof, losses = tmp_path / "aof", Losses()
    whole = command("SET", "a", "1")
    aof.write_bytes(whole + nested_headers(2000))
    with aof.open("rb") as file:
        aof_scan.count(losses, file, 0, "app:session:*")
        assert (losses.commands["SET"], losses.unseen) == (1, len(nested_headers(2000)))
        aof_scan.count(losses, file, 0, "app:session:*")
        assert (losses.commands["SET"], losses.size) == (1, 2 * (len(whole) + len(nested_headers(2000))))
        assert losses.unseen == len(nested_headers(2000)) + len(whole) + len(nested_headers(2000))
        assert not aof_scan.is_torn(file, 0)


def test_bytes_to_scan_are_those_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aof_scan, "SCAN_LIMIT", 1000)
    aof, losses = tmp_path / "aof", Losses()
    aof.write_bytes(command("SET", "a", "x" * 700))
    for _ in range(3):
        with aof.open("rb") as file:
            aof_scan.count(losses, file, 0, "app:session:*")
    assert losses.commands["SET"] == 1
    assert losses.size - losses.unseen == 1000


@pytest.mark.parametrize("filler", [0, 10, 100])
def test_last_timestamp_is_found_across_blocks(tmp_path: Path, filler: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aof_scan, "_BLOCK", 16)
    aof = tmp_path / "aof"
    text = b"#TS:1000\r\n" + command("SET", "a", "#TS:9999\r\n") + command("SET", "b", "x" * filler)
    aof.write_bytes(text)
    with aof.open("rb") as file:
        assert {aof_scan.last_timestamp(file, end) for end in range(10, 30)} == {1000.0}
        assert aof_scan.last_timestamp(file, 9) is None
        assert aof_scan.last_timestamp(file, 0) is None


def test_scan_survives_a_file_that_redis_truncates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan finishes although Redis truncates the file.

    A mapped file would kill the process: the kernel sends SIGBUS for pages behind the end of the file.
    """
    aof = tmp_path / "aof"
    aof.write_bytes(command("SET", "a", "1") * 100_000)
    scan = aof_scan.commands

    def truncate_first(data: bytes, budget: Budget) -> object:
        os.truncate(aof, 0)
        return scan(data, budget)

    monkeypatch.setattr(aof_scan, "commands", truncate_first)
    losses = Losses()
    with aof.open("rb") as file:
        aof_scan.count(losses, file, 0, "app:session:*")
    assert losses.commands["SET"] == 100_000


SET, MULTI, EXEC = command("SET", "a", "1"), command("MULTI"), command("EXEC")


@pytest.mark.parametrize(
    ("end", "torn"),
    [
        (b"*3\r\n$3\r\nSE", True),
        (SET[:-1], True),
        (MULTI, True),
        (MULTI + SET + SET[:-3], True),
        (MULTI + SET + EXEC[:-2], True),
        # Something is damaged: commands follow.
        (b"garbage\n" + SET, False),
        (SET.replace(b"$1\r\n", b"$999\r\n") + SET, False),
        (MULTI + SET + b"garbage\n" + EXEC, False),
        (MULTI + SET + EXEC, False),
    ],
)
def test_incomplete_end_is_no_damage(tmp_path: Path, end: bytes, torn: bool) -> None:
    aof = tmp_path / "aof"
    aof.write_bytes(SET + end)
    with aof.open("rb") as file:
        assert aof_scan.is_torn(file, len(SET)) is torn
