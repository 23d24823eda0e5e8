"""A second deploy changes nothing, and costs little."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, DeployResult
from tests.lifecycle.deployed_redis import Instance

# What the deploy of one host that needs no change may cost. It took 11 when this was written.
MOST_SSH_COMMANDS = 30


@dataclass(frozen=True)
class Again:
    """A deploy to a host that has just been deployed, and what was seen on the host before and after."""

    result: DeployResult
    before: list[str]
    after: list[str]
    same_redis: bool


@pytest.fixture(scope="module")
def again(host: Host, deployer: Deployer, fingerprint: Callable[[Host], list[str]]) -> Again:
    first = deployer.deploy(host)
    assert first.returncode == 0, first.stderr
    instance = Instance(host, deployer.secrets(host))
    before, identity = fingerprint(host), instance.identity
    result = deployer.deploy(host)
    return Again(result, before, fingerprint(host), instance.identity == identity)


def test_a_second_deploy_reports_no_change(again: Again) -> None:
    assert again.result.returncode == 0, again.result.stderr
    assert again.result.operations
    assert again.result.changed == []


def test_a_second_deploy_touches_no_file_and_no_container(again: Again) -> None:
    """By the host's own word: an operation that reports no change may have made one."""
    assert again.after == again.before
    assert again.same_redis


def test_a_deploy_tells_its_cost_and_that_of_no_change_is_small(again: Again) -> None:
    """Seconds depend on the machine and on the way to the host; round trips do not."""
    assert 0 < again.result.ssh_commands <= MOST_SSH_COMMANDS


def test_only_the_plan_and_the_results_are_on_standard_output(again: Again) -> None:
    """What reads ``--json`` must not stumble over words meant for a person."""
    assert set(json.loads(again.result.stdout)) == {"plan", "results"}
