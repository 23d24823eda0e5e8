"""The service: what the engine says is read right, and every kind of drift has a reason in words."""

import json
from dataclasses import replace
from typing import Any

import pytest

from redoubt import redisconf, service
from redoubt.service import Container, Drift, ServiceState, drift, read
from redoubt.settings import load

SETTINGS = load({})
CONTAINER = Container("redis", "abc", "sha256:1", "running", "healthy", 1000.5)
RIGHT = ServiceState(
    hashes={"redis": "abc"},
    containers=(CONTAINER,),
    image_id="sha256:1",
    files={"config/redis.conf": 900.0},
    config=redisconf.runtime(SETTINGS),
)


def state(**container: Any) -> ServiceState:
    return replace(RIGHT, containers=(replace(CONTAINER, **container),))


def test_nothing_is_done_when_what_runs_is_what_is_wanted() -> None:
    assert drift(SETTINGS, RIGHT) == Drift((), ())


@pytest.mark.parametrize(
    ("current", "reason", "replaced"),
    [
        (replace(RIGHT, hashes={}, containers=()), "Compose does not accept compose.yml", ()),
        (replace(RIGHT, containers=()), "redis has no container", ()),
        (state(config_hash="other"), "was made from another definition", ()),
        (state(config_hash=""), "was made from another definition", ()),
        (state(status="exited"), "redis is exited", ()),
        (state(health="unhealthy"), "redis is unhealthy", ()),
        (state(health="starting"), "redis is starting", ()),
        (state(image_id="sha256:2"), "runs another image", ("redis",)),
        (replace(RIGHT, files={"config/redis.conf": 1001.0}), "started before config/redis.conf changed", ("redis",)),
        (replace(RIGHT, files={"secrets/health": 1001.0}), "started before secrets/health changed", ("redis",)),
        (
            replace(RIGHT, config={**RIGHT.config, "maxmemory": "5"}),
            "runs with maxmemory = '5', the settings say '1073741824'",
            ("redis",),
        ),
        (
            replace(RIGHT, containers=(CONTAINER, replace(CONTAINER, service="old"))),
            "old is no longer wanted",
            (),
        ),
    ],
)
def test_every_kind_of_drift_has_a_reason(current: ServiceState, reason: str, replaced: tuple[str, ...]) -> None:
    found = drift(SETTINGS, current)
    assert any(reason in text for text in found.reasons)
    assert found.replace == replaced


def test_an_application_is_replaced_for_its_own_secrets_only() -> None:
    web = replace(CONTAINER, service="web", health=None)
    both = replace(RIGHT, hashes={"redis": "abc", "web": "abc"}, containers=(CONTAINER, web))
    assert drift(SETTINGS, replace(both, files={"config/redis.conf": 1001.0})).replace == ("redis",)
    assert drift(SETTINGS, replace(both, files={"secrets/sessions": 1001.0})).replace == ("web",)


def test_a_redis_that_does_not_answer_is_not_called_drifted() -> None:
    """Its health says what is wrong; an empty answer is no configuration."""
    assert not drift(SETTINGS, replace(RIGHT, config={}))


def inspected(**changes: Any) -> dict[str, Any]:
    return {
        "Image": "sha256:1",
        "State": {"Status": "running", "StartedAt": "2026-01-02T03:04:05.678901234Z", "Health": {"Status": "healthy"}},
        "Config": {
            "Labels": {"com.docker.compose.service": "redis", "com.docker.compose.config-hash": "abc"},
        },
        **changes,
    }


def test_the_script_s_output_is_read() -> None:
    output = [
        "@@hashes",
        "redis abc",
        "@@containers",
        *json.dumps([inspected()], indent=1).splitlines(),
        "@@image",
        "sha256:1",
        "@@files",
        "900.000000 config/redis.conf",
        "@@config",
        "OK",
        "maxmemory",
        "1073741824",
        "save",
        "",
        "appendonly",
        "yes",
    ]
    assert read(output) == ServiceState(
        hashes={"redis": "abc"},
        containers=(replace(CONTAINER, started=1767323045.678901),),
        image_id="sha256:1",
        files={"config/redis.conf": 900.0},
        config={"maxmemory": "1073741824", "save": "", "appendonly": "yes"},
    )


@pytest.mark.parametrize("answer", [[], ["WRONGPASS invalid username-password pair", "NOAUTH", "x"]])
def test_a_refused_login_gives_no_configuration(answer: list[str]) -> None:
    assert read(["@@config", *answer]).config == {}


def test_a_host_without_an_engine_gives_an_empty_state() -> None:
    assert read([]) == ServiceState({}, (), "", {}, {})


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T00:00:01.123456789Z", 1.123456),
    ],
)
def test_the_engine_s_times_are_read_to_the_microsecond(stamp: str, seconds: float) -> None:
    container = inspected(State={"Status": "running", "StartedAt": stamp})
    assert read(["@@containers", json.dumps([container])]).containers[0].started == seconds


def test_a_deploy_waits_until_the_health_check_itself_has_given_up() -> None:
    assert service.wait_timeout(SETTINGS) >= 10 + 5 * (30 + 10)
