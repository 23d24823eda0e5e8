"""redisctl slowlog, latency and memory: they show what clients really did."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.redisctl.local_redis import LocalRedis
from tests.redisctl.sample_data import ELEMENTS, JOBS, SESSIONS, fill

COPIES = 3


@pytest.fixture(scope="module", autouse=True)
def _data(redis: LocalRedis) -> None:
    """Sessions, jobs, a queue and a big set."""
    with redis.client() as admin:
        fill(admin)


def test_slow_commands_show_in_slowlog_and_latency(redis: LocalRedis) -> None:
    with redis.client(client_name="copier") as client, ThreadPoolExecutor(1) as pool:
        # Redis counts commands from here on.
        client.execute_command(redis.secrets.renamed_command("CONFIG"), "RESETSTAT")
        client.slowlog_reset()
        result = pool.submit(redis.report, "latency --seconds 2")
        done = 0
        while not result.done():
            client.sunionstore("shop:secret-name", ["shop:big:basket", "shop:nothing"])
            done += 1
            time.sleep(0.1)
        latency = result.result()
        client.unlink("shop:secret-name")
        text = redis.redisctl("slowlog").stdout
        # It prints a warning on standard error.
        log = json.loads(redis.redisctl("slowlog --last 1000 --arguments --json").stdout)
        removed = redis.report("slowlog --reset --yes")["removed"]
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
    # Redis counts in powers of two.
    longest = max(entry["seconds"] for entry in slow[: counted["calls"]])
    assert longest / 1.02 <= counted["max"] <= longest * 2.1
    pings = latency["pings"]
    assert 0 < pings["min"] <= pings["median"] <= pings["p99"] <= pings["max"]
    assert pings["count"] > 50
    # A PING that arrived during a slow command waited for it.
    assert pings["max"] > min(entry["seconds"] for entry in slow) / 2
    assert latency["doctor"]
    assert removed >= done


def test_memory_matches_what_was_written(redis: LocalRedis) -> None:
    with redis.client() as admin:
        big = admin.memory_usage("shop:big:basket", samples=5)
        job = admin.memory_usage(next(admin.scan_iter("rq:job:*", count=1000)), samples=5)
        key = next(admin.scan_iter("app:session:*", count=1000)).decode()
        start, idle = time.monotonic(), admin.object("idletime", key)
    assert big
    assert job

    whole = redis.report("memory --all")
    groups = {group["prefix"]: group for group in whole["groups"]}
    assert {prefix: group["keys"] for prefix, group in groups.items()} == {
        "app:session:*": SESSIONS,
        "rq:job:*": JOBS,
        "rq:queues": 1,
        "rq:queue:*": 1,
        "shop:big:*": 1,
    }
    assert groups["rq:job:*"]["bytes"] == pytest.approx(JOBS * job, rel=0.05)
    assert (whole["complete"], whole["seen_bytes"]) == (True, whole["bytes"])
    biggest = whole["biggest"][0]
    assert (biggest["name"], biggest["type"], biggest["elements"]) == ("shop:big:…", "set", ELEMENTS + 1)
    assert biggest["bytes"] == pytest.approx(big, rel=0.1)
    # Redis itself estimates the memory of sets.
    assert whole["bytes"] == pytest.approx(whole["used_memory"], rel=0.5)

    sample = redis.report("memory --sample 1000")
    assert (sample["complete"], sample["seen_keys"], sample["keys"]) == (False, 1000, SESSIONS + JOBS + 3)
    near = {group["prefix"]: group["keys"] for group in sample["groups"]}
    assert near["app:session:*"] == pytest.approx(SESSIONS, rel=0.1)
    assert near["rq:job:*"] == pytest.approx(JOBS, rel=0.4)

    text = redis.redisctl("memory --sample 1000 --biggest 1000").stdout
    assert "Extrapolated from 1,000 keys" in text
    assert key.removeprefix("app:session:") not in text
    assert "shop:big:basket" in redis.redisctl("memory --all --names").stdout
    with redis.client() as admin:
        # redisctl did not use this key, so the order of eviction is unchanged. Redis counts whole seconds.
        assert admin.object("idletime", key) >= idle + time.monotonic() - start - 2
