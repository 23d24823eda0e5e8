"""Several instances on one host: what would collide, or take too much together, is said of each."""

from typing import Any

import pytest

from redoubt.facts.host import Neighbour
from redoubt.instance_conflicts import Entry, problems
from redoubt.settings.load import load
from redoubt.sizes import GIB, MIB

SESSIONS: dict[str, Any] = {"redis_name": "sessions"}
QUEUES: dict[str, Any] = {"redis_name": "queues", "redis_port": 6380, "redis_maxmemory_policy": "noeviction"}
THERE = Neighbour("third", "/srv/third", 512 * MIB, frozenset({("127.0.0.1", 6400)}))


def entry(data: dict[str, Any], machine: str = "one", memory: int = 4 * GIB, *there: Neighbour) -> Entry:
    return Entry(load(data), machine, memory, there)


def test_separate_instances_have_no_conflicts() -> None:
    both = {"a": entry(SESSIONS, "one", 4 * GIB, THERE), "b": entry(QUEUES, "one", 4 * GIB, THERE)}
    assert problems(both) == {"a": [], "b": []}


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (
            {**QUEUES, "redis_name": "sessions"},
            "redis_name = 'sessions': b of this inventory, on the same machine, has",
        ),
        ({**QUEUES, "redis_root": "/srv/sessions/queues"}, "redis_root = '/srv/sessions': b of this inventory"),
        ({**QUEUES, "redis_port": 6379}, "127.0.0.1:6379: b of this inventory, on the same machine, publishes it"),
        (
            {**QUEUES, "redis_port": 6379, "redis_bind": ["0.0.0.0"], "redis_allow_from": ["10.0.0.0/8"]},
            "127.0.0.1:6379: b of this inventory",
        ),
    ],
)
def test_collision_is_reported_for_both_instances(second: dict[str, Any], words: str) -> None:
    found = problems({"a": entry(SESSIONS), "b": entry(second)})
    assert found["a"][0].startswith(words)
    assert "a of this inventory" in found["b"][0]
    elsewhere = problems({"a": entry(SESSIONS), "b": entry(second, "two")})
    assert elsewhere == {"a": [], "b": []}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({**SESSIONS, "redis_port": 6400}, "127.0.0.1:6400 belongs to third on this host, even if it does not run"),
        (
            {**SESSIONS, "redis_root": "/srv/third/x"},
            "redis_root = '/srv/third/x': third on this host has '/srv/third'",
        ),
    ],
)
def test_collision_with_a_present_instance_is_reported(data: dict[str, Any], words: str) -> None:
    assert problems({"a": entry(data, "one", 4 * GIB, THERE)})["a"][0].startswith(words)
    # The very one that is deployed anew is nobody else.
    assert problems({"a": entry({**data, "redis_name": "third"}, "one", 4 * GIB, THERE)})["a"] == []


def test_total_memory_is_compared_with_the_host() -> None:
    both = {"a": entry(SESSIONS, "one", 3 * GIB, THERE), "b": entry(QUEUES, "one", 3 * GIB, THERE)}
    why = (
        "the instances on this host may use 3584mb together (sessions 1536mb, queues 1536mb, third 512mb), but it has "
        "3072 MiB of RAM: lower redis_maxmemory of one, or move it to another host"
    )
    assert problems(both) == {"a": [why], "b": [why]}
    assert problems({"a": entry(SESSIONS, "one", 3 * GIB, THERE)}) == {"a": []}
