"""The check of a stop: what a Redis that exited may have lost.

It uses the exit code and the lines that Redis logged.
"""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from redisctl.core import service
from redisctl.core.instance import Instance

# From Redis 8.0.
CLEAN = """\
1:M 28 Nov 2026 12:00:00.000 * User requested shutdown...
1:M 28 Nov 2026 12:00:00.001 * Calling fsync() on the AOF file.
1:M 28 Nov 2026 12:00:00.002 # Redis is now ready to exit, bye bye...
"""
FULL_DISK = "1:M 28 Nov 2026 12:00:00.001 # Error writing to the AOF file: No space left on device\n"
NOT_SYNCED = "1:M 28 Nov 2026 12:00:00.001 # Fail to fsync the AOF file: Input/output error\n"
MISSING = "what changed since its last save may be missing"


@pytest.mark.parametrize(
    ("state", "log", "lost"),
    [
        ({"ExitCode": 0}, CLEAN, ""),
        ({"ExitCode": 137}, CLEAN, "it exited with 137: its last writes may be missing"),
        (
            {"ExitCode": 137, "OOMKilled": True},
            "",
            "the kernel killed it for lack of memory: its last writes may be missing",
        ),
        # Redis exits with 0 although its last write failed.
        ({"ExitCode": 0}, FULL_DISK + CLEAN, f"redis.log reports: {FULL_DISK.strip()}"),
        ({"ExitCode": 0}, NOT_SYNCED + CLEAN, f"redis.log reports: {NOT_SYNCED.strip()}"),
    ],
)
def test_unclean_exit_is_noticed(state: dict[str, Any], log: str, lost: str) -> None:
    assert service._lost_at_exit(state, log) == lost


@pytest.mark.parametrize(("age", "is_saved"), [(0, True), (1, True), (60, False), (None, False)])
def test_snapshot_must_be_of_the_stop(tmp_path: Path, age: float | None, is_saved: bool) -> None:
    """An older dump.rdb means that Redis did not save.

    Without the AOF the last write is dump.rdb.
    """
    instance = Instance(name="redis", root=tmp_path, session_keys="")
    instance.live.mkdir(parents=True)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/redis.conf").write_text("dbfilename dump.rdb\n")
    now = time.time()
    if age is not None:
        (instance.live / "dump.rdb").touch()
        os.utime(instance.live / "dump.rdb", (now - age, now - age))
    problem = service._unsaved(instance, now)
    assert problem == ("" if is_saved else f"it did not write {instance.live}/dump.rdb: {MISSING}")
