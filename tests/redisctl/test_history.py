"""redisctl history: the records that deploys write on the host."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from redisctl import paths
from tests.redisctl.local_redis import LocalRedis

RUN = "0123456789abcdef"


@pytest.fixture
def records(redis: LocalRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of records, in a directory of this test."""
    monkeypatch.setattr(paths, "HISTORY_DIR", str(tmp_path))
    return Path(paths.history_file(redis.settings.redis_name))


def record(run: str, started: str, **values: Any) -> str:
    """Return a record as a deploy writes it."""
    defaults = {
        "verb": "deploy",
        "who": "ops@control",
        "ended": "",
        "changed": [],
        "failed": "",
        "settings": "5e77",
        "image": "i",
    }
    return json.dumps({"run": run, "started": started, **defaults, **values}) + "\n"


def test_history_shows_how_each_deploy_ended(redis: LocalRedis, records: Path) -> None:
    """Deployed, with a deploy that is killed: lifecycle/test_interrupted_deploy.py."""
    ended = "2026-11-24T13:00:09+00:00"
    records.write_text(
        record("a", "2026-11-24T13:00:00+00:00")
        + record("a", "2026-11-24T13:00:00+00:00", ended=ended, changed=["Files | Write \x1b[2J"])
        + record("b", "2026-11-24T14:00:00+00:00", ended=ended)
        + record("c", "2026-11-24T15:00:00+00:00", ended=ended, failed="Start")
        + record("d", "2026-11-24T16:00:00+00:00")
        + '{"run": "e", "sta'
    )
    report = redis.report("history")
    assert [deploy["result"] for deploy in report["deploys"]] == ["interrupted", "failed", "no change", "changed"]
    assert report["damaged"] == 1
    output = redis.redisctl("history")
    assert "failed: Start" in output.stdout
    assert "\x1b" not in output.stdout
    assert output.stderr == "1 damaged records are left out\n"


def test_history_shows_a_running_deploy(redis: LocalRedis, records: Path) -> None:
    records.write_text(record(RUN, "2026-11-24T13:00:00+00:00"))
    lock = Path(paths.lock_file(redis.settings.redis_name))
    try:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{RUN}\n1\n{{}}\n")
            file.flush()
            assert redis.report("history")["deploys"][0]["result"] == "running"
        assert redis.report("history")["deploys"][0]["result"] == "interrupted"
    finally:
        lock.unlink()


def test_history_without_deploys_is_empty(redis: LocalRedis, records: Path) -> None:
    assert not records.exists()
    assert redis.report("history") == {"instance": redis.settings.redis_name, "deploys": [], "damaged": 0}
