"""Ports that Docker cannot publish: refused stops, and restarts of Docker."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from redisctl.core import docker, process, publishing
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance

# Of Docker 26; those before and after it have the same words.
NO_CHAIN = (
    "docker: Error response from daemon: driver failed programming external connectivity on endpoint x (a254):  "
    "(iptables failed: iptables --wait -t nat -A DOCKER -p tcp: iptables: No chain/target/match by that name.\n "
    "(exit status 1))."
)
NO_ADDRESS = NO_CHAIN.partition("(iptables")[0] + "listen tcp4 10.0.0.5:32787: bind: cannot assign requested address."
# Docker fails for another reason: no reason to keep Redis from a restart.
NO_ROOM = "docker: Error response from daemon: no available IPv4 addresses on this network's address pools"


@dataclass
class FakeHost:
    """A host whose Docker cannot publish ports until it restarts.

    ``others`` are other containers with their restart policies.
    """

    error: str = NO_CHAIN
    running: bool = True
    others: dict[str, str] = field(default_factory=dict)
    live_restore: bool = False
    trials: list[list[str]] = field(default_factory=list)
    restarts: int = 0

    def run(self, command: Sequence[str], **_: Any) -> CompletedProcess[str]:
        """Answer a command."""
        arguments, output, error = list(command), "", ""
        if arguments[:2] == ["docker", "run"]:
            self.trials.append(arguments)
            error = self.error
        elif arguments[:2] == ["docker", "info"]:
            output = str(self.live_restore).lower()
        elif arguments[:2] == ["docker", "ps"]:
            own = ["redis"] if self.running else []
            output = " ".join(own if "--filter" in arguments else [*own, *self.others])
        elif arguments[:3] == ["docker", "container", "inspect"]:
            output = json.dumps([self._inspect(name) for name in arguments[3:]])
        elif arguments[:3] == ["systemctl", "restart", "docker"]:
            self.restarts, self.error = self.restarts + 1, ""
        return CompletedProcess(command, 125 if error else 0, output, error)

    def _inspect(self, name: str) -> dict[str, Any]:
        bindings = {"6379/tcp": [{"HostIp": address, "HostPort": "6379"} for address in ("127.0.0.1", "::1")]}
        return {
            "Name": f"/{name}",
            "Image": "sha256:1",
            "State": {"Running": self.running or name != "redis"},
            "HostConfig": {"PortBindings": bindings, "RestartPolicy": {"Name": self.others.get(name, "always")}},
            "NetworkSettings": {"Networks": {"redis_edge": {}}},
        }

    def start(self) -> str:
        """Start Redis as Compose does, which fails while Docker cannot publish its port."""
        if self.error:
            raise Failure(self.error)
        return "started"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    fake = FakeHost()
    monkeypatch.setattr(process, "run", fake.run)
    monkeypatch.setattr(docker, "RESTART_TIMEOUT", 0)
    return fake


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance("redis", tmp_path, "")


def refusal(instance: Instance) -> str:
    """Return why Redis must not be stopped."""
    with pytest.raises(Failure, match="The running Redis was left alone") as error:
        publishing.ensure_restartable(instance)
    return str(error.value)


def test_unused_ports_of_the_same_addresses_are_published(host: FakeHost, instance: Instance) -> None:
    host.error = ""
    publishing.ensure_restartable(instance, {"10.0.0.5"})
    (trial,) = host.trials
    published = [word for before, word in itertools.pairwise(trial) if before == "--publish"]
    assert published == ["10.0.0.5::6379", "127.0.0.1::6379", "[::1]::6379"]
    assert trial[trial.index("--network") + 1] == "redis_edge"


def test_stop_is_refused_where_others_run(host: FakeHost, instance: Instance) -> None:
    host.others = {"web": "always", "db": "no"}
    message = refusal(instance)
    assert "No chain/target/match by that name. Its firewall rules were removed" in message
    assert "which stops db, web and starts those that have a restart policy" in message
    host.live_restore = True
    assert "which stops no container here (live-restore)" in refusal(instance)
    assert host.restarts == 0


def test_address_that_is_gone_needs_no_restart_of_docker(host: FakeHost, instance: Instance) -> None:
    host.error = NO_ADDRESS
    message = refusal(instance)
    assert "bind: cannot assign requested address" in message
    assert "Give the host the address, or deploy with another redis_bind" in message
    assert "systemctl" not in message


@pytest.mark.parametrize(
    "change",
    [{}, {"error": NO_ROOM, "others": {"web": "no"}}, {"running": False, "others": {"web": "no"}}],
    ids=["alone", "another error", "Redis is down"],
)
def test_stop_is_allowed_if_the_start_can_repair_docker(
    change: dict[str, Any], host: FakeHost, instance: Instance
) -> None:
    for name, value in change.items():
        setattr(host, name, value)
    publishing.ensure_restartable(instance)


def test_start_repairs_docker_if_nothing_else_runs(host: FakeHost, instance: Instance) -> None:
    host.running = False
    assert publishing.repairing(instance, host.start) == "started"
    assert host.restarts == 1


@pytest.mark.parametrize(
    ("running", "others", "at_boot", "restarts"),
    [
        (False, {"web": "always"}, False, 0),
        (False, {"web": "always"}, True, 1),
        (False, {"web": "no"}, True, 0),
        # A service of the application could not start. Docker would stop Redis without a check.
        (True, {}, False, 0),
    ],
)
def test_start_does_not_disturb_other_containers(
    running: bool, others: dict[str, str], at_boot: bool, restarts: int, *, host: FakeHost, instance: Instance
) -> None:
    host.running, host.others = running, others
    if restarts:
        publishing.repairing(instance, host.start, at_boot=at_boot)
    else:
        with pytest.raises(Failure, match="Run 'systemctl restart docker' on the host, which stops"):
            publishing.repairing(instance, host.start, at_boot=at_boot)
    assert host.restarts == restarts


def test_other_errors_of_a_start_are_reported(host: FakeHost, instance: Instance) -> None:
    host.running, host.error = False, NO_ADDRESS
    with pytest.raises(Failure, match="cannot assign requested address"):
        publishing.repairing(instance, host.start)
    assert host.restarts == 0
