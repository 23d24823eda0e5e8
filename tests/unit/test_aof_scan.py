"""The commands after the damage of an AOF are counted."""

import os
from pathlib import Path

import pytest

from redisctl.data import aof_scan
from redisctl.data.aof_scan import Losses


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

    def truncate_first(data: bytes, start: int, end: int) -> object:
        os.truncate(aof, 0)
        return scan(data, start, end)

    monkeypatch.setattr(aof_scan, "commands", truncate_first)
    losses = Losses()
    with aof.open("rb") as file:
        aof_scan.count(losses, file, 0, "app:session:*")
    assert losses.commands["SET"] == 100_000
