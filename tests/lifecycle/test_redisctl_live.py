"""redisctl on a host says what clients really did there: how much, how slowly, with how much memory."""

import json
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from secrets import token_urlsafe
from threading import Event
from uuid import uuid4

import pytest
from redis import Redis

from sandbox import ssh
from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.deployed_redis import Instance, redisctl

COLUMNS, LINES = 80, 24
# Copying it takes Redis tens of milliseconds, and thrice what the slow log asks for.
ELEMENTS = 150_000
SESSIONS, JOBS, WAITING = 3000, 600, 17
COPIES = 3
# What a client does that top is to see: reads in a second, and which part of them find their key.
READS, FOUND = 400, 0.75


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Iterator[Instance]:
    """The shared host with sessions, jobs, a queue and a big set in place of whatever was there; empty afterwards."""
    result = deployer.deploy(host)
    assert result.returncode == 0, result.stderr
    instance = Instance(host, deployer.secrets(host))
    with instance.client("admin") as admin:
        _empty(admin)
        _fill(admin)
    yield instance
    with instance.client("admin") as admin:
        _empty(admin)


def _fill(admin: Redis) -> None:
    with admin.pipeline(transaction=False) as pipe:
        for _ in range(SESSIONS):
            pipe.set(f"app:session:{token_urlsafe(32)}", "s" * 300, ex=3600)
        for _ in range(JOBS):
            pipe.hset(f"rq:job:{uuid4()}", mapping={"data": "j" * 600, "status": "queued"})
        pipe.sadd("rq:queues", "rq:queue:mail")
        pipe.rpush("rq:queue:mail", *map(str, range(WAITING)))
        for start in range(0, ELEMENTS, 10_000):
            pipe.sadd("shop:big:basket", *range(start, start + 10_000), "word")
        pipe.execute()


def _empty(admin: Redis) -> None:
    keys = list(admin.scan_iter(count=1000))
    for start in range(0, len(keys), 1000):
        admin.unlink(*keys[start : start + 1000])


class Terminal:
    """A program on the host in a terminal of 80x24, as ``ssh -t`` gives it."""

    def __init__(self, ours: int, process: subprocess.Popen[bytes]) -> None:
        self._ours, self._process = ours, process
        self.text = ""

    def read_until(self, true: Callable[[], object], seconds: float = 15) -> None:
        """Read what it prints until something holds or it has ended."""
        until = time.monotonic() + seconds
        while not true():
            left = until - time.monotonic()
            assert left > 0, f"not within {seconds:.0f} s; but:\n{self.text[-3000:]}"
            if select.select([self._ours], [], [], left)[0]:
                try:
                    self.text += os.read(self._ours, 65536).decode()
                except OSError:  # it has ended
                    return

    @property
    def frames(self) -> list[list[str]]:
        """The whole frames so far, each as the lines that it drew from the upper left corner on."""
        drawn = self.text.split("\x1b[H")[1:]
        return [
            [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).split("\r\n")]
            for frame in drawn
            if "q ends it" in frame and "commands" in frame
        ]

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def end(self) -> int:
        """Its exit code, once it has ended."""
        self.read_until(lambda: False)
        return self._process.wait(10)


@contextmanager
def terminal_of(host: Host, command: str) -> Iterator[Terminal]:
    """Start a program in a terminal; where a test fails, the terminal goes and the program with it."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (LINES, COLUMNS))
    process = subprocess.Popen(
        # A connection of its own: a shared one would not end with this process.
        ssh.command(host.name, "-o", "ControlPath=none", "-tt", "--", command),
        env={**ssh.environment(), "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.terminate()
        process.wait(10)
        os.close(ours)


@contextmanager
def reading(redis: Instance) -> Iterator[Callable[[], float]]:
    """A client that reads at a steady pace meanwhile; gives its real rate so far, in reads a second."""
    over, start = Event(), time.monotonic()
    done = 0

    def read(client: Redis) -> None:
        nonlocal done
        found = round(READS / 20 * FOUND)
        while not over.is_set():
            with client.pipeline(transaction=False) as pipe:
                for number in range(READS // 20):
                    pipe.get("app:session:here" if number < found else "app:session:gone")
                pipe.execute()
            done += READS // 20
            over.wait(max(0.0, start + done / READS - time.monotonic()))

    with redis.client("admin") as client, ThreadPoolExecutor(1) as pool:
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


def test_top_shows_the_rate_at_which_a_client_really_reads_and_fits_into_80_by_24(redis: Instance) -> None:
    with redis.client("admin") as admin:
        admin.sunionstore("shop:secret-name", ["shop:big:basket", "shop:nothing"])
        admin.unlink("shop:secret-name")
    with reading(redis) as real:
        with terminal_of(redis.host, "redisctl top --interval 1 --count 3") as terminal:
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
    # The screen of before is back, and the cursor.
    assert terminal.text.rindex("\x1b[?1049l") > terminal.text.rindex("\x1b[?1049h")
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")


def test_top_of_an_idle_redis_shows_nothing_of_its_own_and_ends_at_q(redis: Instance) -> None:
    with terminal_of(redis.host, "redisctl top --interval 1") as terminal:
        terminal.read_until(lambda: len(terminal.frames) == 2)
        terminal.press(b"q")
        assert terminal.end() == 0
    assert "Traceback" not in terminal.text
    frames = terminal.frames
    rates = [number(frame, r"commands +([\d,.]+)/s") for frame in frames]
    # In one of them there may have been a health check.
    assert min(rates) == 0, rates
    assert max(rates) < 15
    assert "nothing asked for" in "\n".join(frames[rates.index(0)])


def test_top_ends_at_ctrl_c_without_a_word(redis: Instance) -> None:
    with terminal_of(redis.host, "redisctl top --interval 60") as terminal:
        terminal.read_until(lambda: "\x1b[?1049h" in terminal.text)
        terminal.press(b"\x03")
        assert terminal.end() == 0
    # The screen of before is back, even where the new one was not drawn yet.
    _, left, said = terminal.text.rpartition("\x1b[?1049l")
    assert left, terminal.text
    assert not re.search(r"[A-Za-z]{3}", said.replace("Connection to 127.0.0.1 closed.", "")), said


def test_top_without_a_terminal_names_what_goes_without_one_and_prints_frames_as_lines(redis: Instance) -> None:
    done = redis.host.run("redisctl top")
    assert (done.returncode, done.stdout) == (3, "")
    assert "needs a terminal" in done.stderr
    assert "redisctl stats" in done.stderr
    lines = redis.host.run("redisctl top --count 2 --interval 1 --json", check=True).stdout.splitlines()
    assert [json.loads(line)["queues"] for line in lines] == [{"mail": WAITING}] * 2
    assert "\x1b" not in redis.host.run("redisctl top --count 1 --interval 1", check=True).stdout


def test_a_slow_command_is_in_the_slow_log_the_histogram_and_the_time_of_a_ping(redis: Instance) -> None:
    with redis.client("admin", client_name="copier") as client, ThreadPoolExecutor(1) as pool:
        # Redis's counts of commands begin here.
        client.execute_command(redis.secrets.renamed_command("CONFIG"), "RESETSTAT")
        client.slowlog_reset()
        told = pool.submit(redisctl, redis, "latency --seconds 2")
        done = 0
        while not told.done():
            client.sunionstore("shop:secret-name", ["shop:big:basket", "shop:nothing"])
            done += 1
            time.sleep(0.1)
        latency = told.result()
        client.unlink("shop:secret-name")
        text = redis.host.run("redisctl slowlog", check=True).stdout
        # With a word of warning beside it.
        log = json.loads(redis.host.run("redisctl slowlog --last 1000 --arguments --json", check=True).stdout)
        removed = redisctl(redis, "slowlog --reset --yes")["removed"]
        assert client.slowlog_len() < removed

    assert "SUNIONSTORE" in text
    assert "secret-name" not in text
    slow = [entry for entry in log["shown"] if entry["command"] == "SUNIONSTORE"][::-1]
    assert len(slow) == done >= COPIES
    assert {(entry["argument_count"], entry["client"]) for entry in slow} == {(3, "copier")}
    assert slow[0]["arguments"] == ["shop:secret-name", "shop:big:basket", "shop:nothing"]
    assert all(log["slower_than"] <= entry["seconds"] for entry in slow)

    counted = next(command for command in latency["commands"] if command["name"] == "sunionstore")
    assert COPIES <= counted["calls"] <= done
    # It counts in steps of powers of two.
    longest = max(entry["seconds"] for entry in slow[: counted["calls"]])
    assert longest / 1.02 <= counted["most"] <= longest * 2.1
    trips = latency["trips"]
    assert 0 < trips["least"] <= trips["median"] <= trips["p99"] <= trips["most"]
    assert trips["count"] > 50
    # A PING that came in the middle of one waited for it.
    assert trips["most"] > min(entry["seconds"] for entry in slow) / 2
    assert latency["doctor"]
    assert removed >= done


def test_memory_counts_what_was_written_and_a_sample_comes_near_to_it(redis: Instance) -> None:
    with redis.client("admin") as admin:
        big = admin.memory_usage("shop:big:basket", samples=5)
        job = admin.memory_usage(next(admin.scan_iter("rq:job:*", count=1000)), samples=5)
        key = next(admin.scan_iter("app:session:*", count=1000)).decode()
        start, idle = time.monotonic(), admin.object("idletime", key)
    assert big
    assert job

    whole = redisctl(redis, "memory --all")
    groups = {group["prefix"]: group for group in whole["groups"]}
    assert {prefix: group["keys"] for prefix, group in groups.items()} == {
        "app:session:*": SESSIONS,
        "rq:job:*": JOBS,
        "rq:queues": 1,
        "rq:queue:*": 1,
        "shop:big:*": 1,
    }
    assert groups["rq:job:*"]["bytes"] == pytest.approx(JOBS * job, rel=0.05)
    assert (whole["whole"], whole["seen_bytes"]) == (True, whole["bytes"])
    biggest = whole["biggest"][0]
    assert (biggest["name"], biggest["type"], biggest["elements"]) == ("shop:big:…", "set", ELEMENTS + 1)
    assert biggest["bytes"] == pytest.approx(big, rel=0.1)
    # Of sets Redis itself only estimates what they take.
    assert whole["bytes"] == pytest.approx(whole["used_memory"], rel=0.5)

    sample = redisctl(redis, "memory --sample 1000")
    assert (sample["whole"], sample["seen_keys"], sample["keys"]) == (False, 1000, SESSIONS + JOBS + 3)
    near = {group["prefix"]: group["keys"] for group in sample["groups"]}
    assert near["app:session:*"] == pytest.approx(SESSIONS, rel=0.1)
    assert near["rq:job:*"] == pytest.approx(JOBS, rel=0.4)

    text = redis.host.run("redisctl memory --sample 1000 --biggest 1000", check=True).stdout
    assert "Extrapolated from 1,000 keys" in text
    assert key.removeprefix("app:session:") not in text
    assert "shop:big:basket" in redis.host.run("redisctl memory --all --names", check=True).stdout
    with redis.client("admin") as admin:
        # What is evicted first is as it was: nobody asked for this key. Redis counts in whole seconds.
        assert admin.object("idletime", key) >= idle + time.monotonic() - start - 2


def test_top_waits_for_a_redis_that_goes_away(redis: Instance) -> None:
    with terminal_of(redis.host, "redisctl top --interval 1") as terminal:
        terminal.read_until(lambda: terminal.frames)
        redis.host.run(f"docker stop {redis.name}", check=True)
        terminal.read_until(lambda: "Redis does not answer" in terminal.text)
        redis.host.run(f"docker start {redis.name}", check=True)
        # Its counters began anew.
        terminal.read_until(lambda: "commands   -" in terminal.frames[-1])
        terminal.read_until(lambda: re.search(r"commands +[\d.]+/s", "\n".join(terminal.frames[-1])))
        terminal.press(b"q")
        assert terminal.end() == 0
    assert number(terminal.frames[-1], r"queues +mail: (\d+)") == WAITING
