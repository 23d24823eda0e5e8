"""The commands after the damage of an AOF are counted."""

from pathlib import Path

from redisctl.data import aof_scan
from redisctl.data.aof_scan import Losses


def words(*parts: str) -> bytes:
    return f"*{len(parts)}\r\n".encode() + b"".join(f"${len(one)}\r\n{one}\r\n".encode() for one in parts)


def test_losses_after_the_damage_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    sound = b"#TS:1000\r\n" + words("SELECT", "0") + words("SET", "app:session:a", "1")
    cut = (
        b"GARBAGE*3\r\n$3\r\nSE"
        + b"\r\n#TS:2000\r\n"
        + words("SET", "app:session:b", "x\r\n*1\r\n$4\r\nPING\r\n")
        + words("DEL", "app:session:b", "rq:job:1", "rq:queue:mail")
        + b"#TS:3000\r\n"
        + words("MSET", "x", "app:session:no", "y", "2")
        + b"*2\r\n$3\r\nDEL\r\n$9\r\nto"
    )
    log.write_bytes(sound + cut)
    found = Losses()
    with log.open("rb") as file:
        aof_scan.count(found, file, len(sound), "app:session:*")
    assert (found.size, found.unseen, dict(found.commands)) == (len(cut), 0, {"SET": 1, "DEL": 1, "MSET": 1})
    assert {kind: len(keys) for kind, keys in found.keys.items()} == {"sessions": 1, "jobs": 1, "queues": 1, "other": 2}
    assert (found.first, found.last) == (2000.0, 3000.0)
    assert 0 < found.unclear < len(cut)
    told = found.as_dict(names=False)
    assert "app:session:b" not in str(told)
    assert "app:session:b" in found.as_dict(names=True)["names"]
    with log.open("rb") as file:
        assert aof_scan.last_timestamp(file, len(sound)) == 1000.0
        assert aof_scan.last_timestamp(file, len(sound) + len(cut)) == 3000.0
        aof_scan.count(found, file, len(sound + cut), "app:session:*")
    assert found.size == len(cut)
