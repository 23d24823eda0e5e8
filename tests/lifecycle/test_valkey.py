"""Valkey in the place of Redis: the same settings, the same deploy, and the same acceptance suite."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import building, engine, images
from sandbox.common import lock
from sandbox.hosts import Host
from tests.lifecycle.conftest import ROOT, Deployer, Result, remove_instance
from tests.lifecycle.instance import Instance, wait_until

OPEN = "lacks GHSA-f4q9-j22m-xqq9 (in a cluster only) and CVE-2026-130822 (with maxmemory-clients only)"


@pytest.fixture(scope="module")
def valkey() -> dict[str, Any]:
    """Settings that deploy Debian's Valkey; everything else stays as it is."""
    return settings_for("valkey")


def settings_for(build: str) -> dict[str, Any]:
    with lock():
        archive = building.ensure_redis(engine.ensure(), build)
    return {"redis_engine": "valkey", "redis_image": archive.reference, "redis_image_archive": str(archive.path)}


@pytest.fixture(scope="module")
def own(start_host: Callable[..., Host]) -> Iterator[Host]:
    """A host that has never seen Redis. Removed at once: Valkey's data is of no use to another test."""
    host = start_host("lifecycle-valkey")
    yield host
    host.down()


@pytest.fixture(scope="module")
def result(own: Host, deployer: Deployer, valkey: dict[str, Any]) -> Result:
    """The first deploy."""
    result = deployer.deploy(own, **valkey)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture
def server(own: Host, deployer: Deployer, result: Result) -> Instance:
    """Valkey, deployed."""
    return Instance(own, deployer.secrets(own))


def test_valkey_is_deployed_and_what_its_distribution_has_not_fixed_is_said_once(
    server: Instance, result: Result
) -> None:
    assert [OPEN in line for line in result.stderr.splitlines() if "GHSA" in line] == [True]
    assert server.health == "healthy"
    said = [line.strip() for line in server.call("INFO server")]
    assert any(line.startswith("valkey_version:") for line in said)
    assert "redis_version:7.2.4" in said


def test_a_second_deploy_changes_nothing(server: Instance, deployer: Deployer, valkey: dict[str, Any]) -> None:
    again = deployer.deploy(server.host, **valkey)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_the_acceptance_suite_passes_on_it(server: Instance, deployer: Deployer, valkey: dict[str, Any]) -> None:
    """All of it, as an operator runs it: what writes and what disrupts as well."""
    inventory = deployer.inventory(server.host, **valkey)
    command = [sys.executable, "-m", "pytest", "tests/host", "--inventory", str(inventory), "--writes", "--disrupts"]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"^=+ (\d+) passed, (\d+) deselected in", done.stdout, re.MULTILINE)
    assert counted, done.stdout[-2000:]
    # Left out is only what a container's kernel and its loopback address cannot prove.
    assert int(counted[1]) > 10 * int(counted[2])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"redis_engine": "redis"}, "holds Valkey, and redis_engine = 'redis': set redis_engine = 'valkey'"),
        (
            {"redis_image": images.redis_reference, "redis_image_archive": images.redis_archive},
            "holds Redis, and redis_engine = 'valkey': set redis_engine = 'redis'",
        ),
        (
            {
                "redis_image": "docker.io/library/redis:8",
                "redis_image_source": "registry",
                "redis_image_archive": None,
            },
            "redis_image = 'docker.io/library/redis:8' holds Redis",
        ),
    ],
    ids=["Valkey for redis", "Redis for valkey", "Redis by its name"],
)
def test_an_image_with_the_other_engine_is_refused(
    server: Instance, deployer: Deployer, valkey: dict[str, Any], data: dict[str, Any], words: str
) -> None:
    before = server.identity
    given = {key: str(value()) if callable(value) else value for key, value in data.items()}
    refused = deployer.deploy(server.host, **{**valkey, **given})
    assert refused.returncode == 1
    assert "nothing was changed on any host; mend this first:" in refused.stderr
    assert words in refused.stderr
    assert server.identity == before


def test_an_unnamed_image_with_the_other_engine_is_refused_before_the_server_is_touched(
    server: Instance, deployer: Deployer, valkey: dict[str, Any]
) -> None:
    """Only the image itself can say so, and only on the host."""
    before = server.identity
    name = "registry.example.com/cache:blue"
    server.host.run(f"docker tag {valkey['redis_image']} {name}", check=True)
    unnamed: dict[str, Any] = {"redis_image": name, "redis_image_source": "registry", "redis_image_archive": None}
    refused = deployer.deploy(server.host, **unnamed)
    assert refused.returncode == 1
    assert f"redis_image = '{name}' holds Valkey, and redis_engine = 'redis'" in refused.stderr
    assert server.identity == before
    accepted = deployer.deploy(server.host, **unnamed, redis_engine="valkey")
    assert accepted.returncode == 0, accepted.stderr


def test_data_that_valkey_does_not_read_is_not_given_to_it(
    deployed: Host, deployer: Deployer, valkey: dict[str, Any]
) -> None:
    """It would not start, and Redis would be gone."""
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity
    refused = deployer.deploy(deployed, **valkey)
    assert refused.returncode == 1
    assert "nothing was changed on any host; mend this first:" in refused.stderr
    assert "was written by Redis 7.4 or newer (REDIS0012), and Valkey does not read it" in refused.stderr
    assert redis.identity == before
    assert redis.health == "healthy"


def test_valkey_9_on_a_host_without_data_keeps_what_a_user_of_the_settings_writes(
    own: Host, deployer: Deployer
) -> None:
    """The next Debian's, whose version may lack fixes. Last on this host: it has nothing of the former one left."""
    remove_instance(own)
    nine = {**settings_for("valkey-testing"), "redis_allow_vulnerable_version": True}
    first = deployer.deploy(own, **nine)
    assert first.returncode == 0, first.stderr
    server = Instance(own, deployer.secrets(own))
    assert server.health == "healthy"
    version = nine["redis_image"].rpartition(":")[2]
    assert int(version.partition(".")[0]) >= 9
    assert f"valkey_version:{version}" in [line.strip() for line in server.call("INFO server")]

    before = server.identity
    shop: dict[str, Any] = {"redis_users": {"shop": {"role": "session", "keys": ["shop:*"]}}}
    applied = deployer.deploy(own, **nine, **shop)
    assert applied.returncode == 0, applied.stderr
    assert server.identity == before
    server = Instance(own, deployer.secrets(own, **shop))
    assert server.call("SET shop:1 kept EX 7200", user="shop") == ["OK"]
    assert server.call("GET elsewhere", user="shop")[0].startswith("NOPERM")
    again = deployer.deploy(own, **nine, **shop)
    assert (again.returncode, again.changed) == (0, []), again.stderr

    own.run("docker restart redis", check=True)
    wait_until(lambda: server.health == "healthy", "Valkey is back", 60)
    assert server.call("GET shop:1", user="shop") == ["kept"]
