"""Limits of clients: derived from the settings, and safe for the version."""

from typing import Any

import pytest

from redoubt.redis_conf import client_eviction_is_safe, directives
from redoubt.settings.load import SettingsError, load
from redoubt.sizes import MIB


@pytest.mark.parametrize(
    ("data", "client_memory", "max_value"),
    [
        ({}, 128, 32),
        ({"redis_maxmemory": "64mb"}, 16, 4),
        ({"redis_maxmemory": "16mb"}, 16, 4),
        ({"redis_maxmemory": "64gb"}, 8192, 512),
        ({"redis_client_memory": "400mb"}, 400, 100),
        ({"redis_max_value": "100mb"}, 400, 100),
        ({"redis_client_memory": "400mb", "redis_max_value": "5mb"}, 400, 5),
    ],
)
def test_limits_derive_from_the_settings(data: dict[str, Any], client_memory: int, max_value: int) -> None:
    settings = load(data)
    assert (settings.client_memory, settings.max_value) == (client_memory * MIB, max_value * MIB)
    # A reply can have the largest value, and a transaction two of them.
    assert settings.max_value < settings.max_reply <= settings.client_memory / 2
    assert settings.max_value < settings.max_request <= settings.client_memory / 2


def test_client_memory_is_part_of_the_container_limit() -> None:
    small, large = load({"redis_client_memory": "64mb"}), load({"redis_client_memory": "264mb"})
    assert large.memory_limit - small.memory_limit == 200 * MIB
    assert large.smallest_memory_limit - small.smallest_memory_limit == 200 * MIB
    with pytest.raises(SettingsError, match=r"264mb for clients \(redis_client_memory\).*Use at least 1672mb"):
        load({"redis_client_memory": "264mb", "redis_container_memory": "1600M"})


def test_value_larger_than_the_clients_memory_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"Use at most 32mb, or raise redis_client_memory to 160mb"):
        load({"redis_client_memory": "128mb", "redis_max_value": "40mb"})


ALLOWED = {"redis_allow_vulnerable_version": True}


@pytest.mark.parametrize(
    ("data", "is_safe"),
    [
        ({}, True),
        # A deploy refuses every other build that lacks the fix. Debian's packages keep an old number.
        ({"redis_image": "redoubt/redis:8.0.2"}, True),
        ({"redis_image": "redoubt/redis:8.6.3", **ALLOWED}, False),
        ({"redis_image": "redoubt/redis:8.6.6", **ALLOWED}, True),
        ({"redis_image": "redis@sha256:" + "0" * 64, **ALLOWED}, False),
        # It does not have the defect.
        ({"redis_image": "redoubt/redis:7.0.15", **ALLOWED}, True),
        ({"redis_engine": "valkey"}, True),
        ({"redis_engine": "valkey", "redis_image": "valkey:8.1.12"}, True),
        # Debian's newest package lacks the fix and is accepted.
        ({"redis_engine": "valkey", "redis_image": "redoubt/valkey:8.1.1"}, False),
        ({"redis_engine": "valkey", "redis_image": "valkey@sha256:" + "0" * 64}, False),
    ],
)
def test_clients_are_evicted_only_by_safe_versions(data: dict[str, Any], is_safe: bool) -> None:
    settings = load(data)
    assert client_eviction_is_safe(settings) == is_safe
    limit = directives(settings)["Limits of clients"]["maxmemory-clients"]
    assert limit == (str(settings.client_memory) if is_safe else "0")
