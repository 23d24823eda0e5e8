"""Several instances on one host: collisions and too little memory.

Both are reported for each of the instances.
"""

from typing import Any

import pytest

from redoubt.facts.host import Neighbour
from redoubt.instance_conflicts import Entry, problems
from redoubt.settings.load import load
from redoubt.sizes import GIB, MIB

SESSIONS: dict[str, Any] = {"redis_name": "sessions"}
QUEUES: dict[str, Any] = {"redis_name": "queues", "redis_port": 6380, "redis_maxmemory_policy": "noeviction"}
PRESENT = Neighbour("third", "/srv/third", 512 * MIB, frozenset({("127.0.0.1", 6400)}), "198.18.3.0/24")


def entry(data: dict[str, Any], machine: str = "one", memory: int = 4 * GIB, *neighbours: Neighbour) -> Entry:
    """Return an instance of the inventory with these settings and neighbours."""
    return Entry(load(data), machine, memory, neighbours)


def test_separate_instances_have_no_conflicts() -> None:
    both = {"a": entry(SESSIONS, "one", 4 * GIB, PRESENT), "b": entry(QUEUES, "one", 4 * GIB, PRESENT)}
    assert problems(both) == {"a": [], "b": []}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            {**QUEUES, "redis_name": "sessions"},
            "redis_name = 'sessions': b of this inventory, on the same machine, has",
        ),
        ({**QUEUES, "redis_root": "/srv/sessions/queues"}, "redis_root = '/srv/sessions': b of this inventory"),
        (
            {**QUEUES, "redis_edge_subnet": str(load(SESSIONS).edge_subnet.supernet())},
            f"redis_edge_subnet = '{load(SESSIONS).edge_subnet}': b of this inventory, on the same machine, has",
        ),
        ({**QUEUES, "redis_port": 6379}, "127.0.0.1:6379: b of this inventory, on the same machine, publishes it"),
        (
            {**QUEUES, "redis_port": 6379, "redis_bind": ["0.0.0.0"], "redis_allow_from": ["10.0.0.0/8"]},
            "127.0.0.1:6379: b of this inventory",
        ),
    ],
)
def test_collision_is_reported_for_both_instances(second: dict[str, Any], message: str) -> None:
    blockers = problems({"a": entry(SESSIONS), "b": entry(second)})
    assert blockers["a"][0].startswith(message)
    assert "a of this inventory" in blockers["b"][0]
    elsewhere = problems({"a": entry(SESSIONS), "b": entry(second, "two")})
    assert elsewhere == {"a": [], "b": []}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({**SESSIONS, "redis_port": 6400}, "127.0.0.1:6400 belongs to third on this host, even if it does not run"),
        (
            {**SESSIONS, "redis_root": "/srv/third/x"},
            "redis_root = '/srv/third/x': third on this host has '/srv/third'",
        ),
        (
            # The address of third is not in it.
            {**SESSIONS, "redis_edge_subnet": "198.18.3.16/28"},
            "redis_edge_subnet = '198.18.3.16/28' overlaps 198.18.3.0/24 of third on this host, even if it does not",
        ),
    ],
)
def test_collision_with_a_present_instance_is_reported(data: dict[str, Any], message: str) -> None:
    assert problems({"a": entry(data, "one", 4 * GIB, PRESENT)})["a"][0].startswith(message)
    # The instance that is deployed again does not collide with itself.
    assert problems({"a": entry({**data, "redis_name": "third"}, "one", 4 * GIB, PRESENT)})["a"] == []


def test_total_memory_is_compared_with_the_host() -> None:
    both = {"a": entry(SESSIONS, "one", 3 * GIB, PRESENT), "b": entry(QUEUES, "one", 3 * GIB, PRESENT)}
    blocker = (
        "the instances on this host may use 3840mb together (sessions 1664mb, queues 1664mb, third 512mb), but it has "
        "3072 MiB of RAM: lower redis_maxmemory of one, or move it to another host"
    )
    assert problems(both) == {"a": [blocker], "b": [blocker]}
    assert problems({"a": entry(SESSIONS, "one", 3 * GIB, PRESENT)}) == {"a": []}
