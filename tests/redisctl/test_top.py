"""redisctl top in a terminal: it shows what clients really do."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest
from redis import Redis

from tests.redisctl.local_redis import LocalRedis
from tests.redisctl.sample_data import JOBS, SESSIONS, WAITING, fill

COLUMNS, LINES = 80, 24
# The client that top is to show: its reads per second, and the share of them that find their key.
READS, FOUND = 400, 0.75


@pytest.fixture(scope="module", autouse=True)
def _data(redis: LocalRedis) -> None:
    """Sessions, jobs, a queue and a big set."""
    with redis.client() as admin:
        fill(admin)


class Terminal:
    """A program in a terminal of 80x24, as ``ssh -t`` gives it."""

    def __init__(self, ours: int, process: subprocess.Popen[bytes]) -> None:
        self._ours, self._process = ours, process
        self.text = ""

    def read_until(self, true: Callable[[], object], seconds: float = 15) -> None:
        """Read output until a condition holds or the program has ended."""
        until = time.monotonic() + seconds
        while not true():
            left = until - time.monotonic()
            assert left > 0, f"not within {seconds:.0f} s; but:\n{self.text[-3000:]}"
            if select.select([self._ours], [], [], left)[0]:
                try:
                    self.text += os.read(self._ours, 65536).decode()
                except OSError:  # the program has ended
                    return

    @property
    def frames(self) -> list[list[str]]:
        """The complete frames so far, each as its lines from the upper left corner."""
        drawn = self.text.split("\x1b[H")[1:]
        return [
            [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).split("\r\n")]
            for frame in drawn
            if "q quits" in frame and "commands" in frame
        ]

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def end(self) -> int:
        """Wait for the end of the program and return its exit code."""
        self.read_until(lambda: False)
        return self._process.wait(10)


@contextmanager
def terminal_of(redis: LocalRedis, line: str) -> Iterator[Terminal]:
    """Start redisctl in a terminal.

    If a test fails, the terminal closes and ends the program.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (LINES, COLUMNS))
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "tests.redisctl.program", str(redis.root), *line.split()],
        env={**os.environ, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.terminate()
        process.wait(10)
        os.close(ours)


@contextmanager
def reading(redis: LocalRedis) -> Iterator[Callable[[], float]]:
    """Run a client that reads at a steady pace.

    Gives a function that returns the client's real rate so far, in reads a second.
    """
    over, start = Event(), time.monotonic()
    done = 0

    def read(client: Redis) -> None:
        nonlocal done
        hits = round(READS / 20 * FOUND)
        while not over.is_set():
            with client.pipeline(transaction=False) as pipe:
                for number in range(READS // 20):
                    pipe.get("app:session:here" if number < hits else "app:session:gone")
                pipe.execute()
            done += READS // 20
            over.wait(max(0.0, start + done / READS - time.monotonic()))

    with redis.client() as client, ThreadPoolExecutor(1) as pool:
        client.set("app:session:here", "x", ex=3600)
        start = time.monotonic()
        reader = pool.submit(read, client)
        try:
            yield lambda: done / (time.monotonic() - start)
        finally:
            over.set()
            reader.result(10)
            client.delete("app:session:here")


def number(frame: list[str], pattern: str) -> float:
    """The number that a frame shows."""
    match = re.search(pattern, "\n".join(frame))
    assert match, "\n".join(frame)
    return float(match[1].replace(",", ""))


def test_top_shows_real_rates_and_fits_into_80_by_24(redis: LocalRedis) -> None:
    with redis.client() as admin:
        admin.sunionstore("shop:secret-name", ["shop:big:basket", "shop:nothing"])
        admin.unlink("shop:secret-name")
    with reading(redis) as real:
        with terminal_of(redis, "top --interval 1 --count 3") as terminal:
            assert terminal.end() == 0, terminal.text
        rate = real()
    frames = terminal.frames
    assert len(frames) == 3, terminal.text
    for frame in frames:
        assert len(frame) <= LINES
        assert max(map(len, frame)) <= COLUMNS
        assert "…" not in "\n".join(frame), "something was cut to fit"
        assert rate / 1.5 < number(frame, r"commands +([\d,.]+)/s") < rate * 1.5
        assert number(frame, r"([\d.]+)% found") == pytest.approx(FOUND * 100, abs=3)
        assert number(frame, r"queues +mail: (\d+)") == WAITING
        assert number(frame, r"([\d.]+) ms  SUNIONSTORE, \d+ s ago") > 10
        assert number(frame, r"db0: ([\d,]+) ") == SESSIONS + JOBS + 4
    # The previous screen is back, and so is the cursor.
    assert terminal.text.rindex("\x1b[?1049l") > terminal.text.rindex("\x1b[?1049h")
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")


def test_top_does_not_count_its_own_commands_and_ends_at_q(redis: LocalRedis) -> None:
    with terminal_of(redis, "top --interval 1") as terminal:
        terminal.read_until(lambda: len(terminal.frames) == 2)
        terminal.press(b"q")
        assert terminal.end() == 0
    assert "Traceback" not in terminal.text
    frames = terminal.frames
    rates = [number(frame, r"commands +([\d,.]+)/s") for frame in frames]
    # Nothing else uses this server, and top leaves out its own commands.
    assert min(rates) == 0, rates
    assert max(rates) < 15
    assert "no reads" in "\n".join(frames[rates.index(0)])


def test_top_ends_silently_at_ctrl_c(redis: LocalRedis) -> None:
    with terminal_of(redis, "top --interval 60") as terminal:
        terminal.read_until(lambda: "\x1b[?1049h" in terminal.text)
        terminal.press(b"\x03")
        assert terminal.end() == 0
    # The previous screen is back, even if the new one was not drawn yet.
    _, left, output = terminal.text.rpartition("\x1b[?1049l")
    assert left, terminal.text
    assert not re.search(r"[A-Za-z]{3}", output.replace("Connection to 127.0.0.1 closed.", "")), output


def test_top_without_a_terminal_prints_frames_as_lines(redis: LocalRedis) -> None:
    refusal = redis.refusal("top")
    assert "needs a terminal" in refusal
    assert "redisctl stats" in refusal
    lines = redis.redisctl("top --count 2 --interval 1 --json").stdout.splitlines()
    assert [json.loads(line)["queues"] for line in lines] == [{"mail": WAITING}] * 2
    assert "\x1b" not in redis.redisctl("top --count 1 --interval 1").stdout


def test_top_waits_for_a_redis_that_stops(redis: LocalRedis) -> None:
    with terminal_of(redis, "top --interval 1") as terminal:
        terminal.read_until(lambda: terminal.frames)
        redis.stop()
        terminal.read_until(lambda: "Redis does not answer" in terminal.text)
        redis.start()
        # The counters of the new process started at zero.
        terminal.read_until(lambda: "commands   -" in terminal.frames[-1])
        terminal.read_until(lambda: re.search(r"commands +[\d.]+/s", "\n".join(terminal.frames[-1])))
        terminal.press(b"q")
        assert terminal.end() == 0
    assert number(terminal.frames[-1], r"queues +mail: (\d+)") == WAITING
