"""Ctrl-C and SIGTERM at any moment of a verb: one line, and no traceback."""

import random
import signal

import pytest

import redisctl.__main__ as program
from tests.redisctl.hostile_host import FakeServer, HostileHost, Result
from tests.redisctl.local_redis import LocalRedis

# They read, write, wait, start other programs and threads, and show a live view.
# test_previous_data.py interrupts the stages of those that replace data.
VERBS = (
    "restore latest",
    "restore --undo",
    "repair",
    "health",
    "stats",
    "state",
    "sessions",
    "queues",
    "memory",
    "latency",
    "top",
    "backup",
    "backup verify",
)
# Moments of each verb. The verbs take 50 to 1000 ms.
MOMENTS = 20


def check(result: Result) -> None:
    lines = result.output.splitlines()
    assert "Traceback" not in result.output, result
    assert "KeyboardInterrupt" not in result.output, result
    assert [line for line in result.stderr.splitlines() if line] in ([], ["redisctl: cancelled"]) or (
        result.code == 3 and sum(line.startswith("redisctl: ") for line in lines) == 1
    ), result
    assert result.code in (0, 1, 2, 3), result


@pytest.fixture(scope="module")
def server(redis: LocalRedis, host: HostileHost) -> FakeServer:
    """Return the programs of a host that lead to a real Redis."""
    return host.real_server(redis.pid)


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_at_any_moment_prints_one_line(verb: str, server: FakeServer, host: HostileHost) -> None:
    """Some get a second signal, which arrives while the first one cleans up."""
    moments = random.Random(verb)
    signals: list[tuple[int, list[tuple[float, int]]]] = []
    for number in range(MOMENTS):
        sent: list[tuple[float, int]] = [
            (0.001 + moments.random() * 0.01 * number, moments.choice([signal.SIGINT, signal.SIGTERM])),
            (0.0005 + moments.random() * 0.01, signal.SIGINT),
        ]
        signals.append((moments.choice([signal.ITIMER_REAL, signal.ITIMER_PROF]), sent[: 1 + number % 2]))
    results = host.run([(verb, server)] * MOMENTS, signals)
    for result in results:
        check(result)
    assert any("redisctl: cancelled" in result.stderr for result in results), results


def test_ctrl_c_during_the_imports_prints_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "module_path", interrupted)
    with pytest.raises(SystemExit) as ended:
        program.run("/srv/redis/redisctl")
    assert ended.value.code == 3
    assert capfd.readouterr().err == "redisctl: cancelled\n"
