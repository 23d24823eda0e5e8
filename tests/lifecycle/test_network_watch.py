"""The watch over the network filter puts back what something removes.

Health and drift report what is missing. The host is this module's own, because other firewalls are installed on it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.host.host_under_test import listens
from tests.lifecycle.network_filter import (
    TABLE,
    WATCH,
    docker_rules_removed,
    health,
    inside,
    is_limited,
    is_loaded,
    rules_restored,
    unfiltered,
    unlimited,
)
from tests.lifecycle.port_probe import answers

pytestmark = pytest.mark.security("network")

# Seconds that the documentation promises.
WINDOW = 30
LOCAL = "127.0.0.1 6379"
LIMITS = "nsenter --net --target $(docker inspect --format '{{.State.Pid}}' redis)"


@pytest.fixture(scope="module")
def instance(start_host: Callable[..., Host], deployer: Deployer) -> Instance:
    """The default instance: published on 127.0.0.1."""
    return deployer.instance(start_host("lifecycle-watch"))


@pytest.fixture(scope="module")
def firewalls(instance: Instance) -> Host:
    """Install firewalld and ufw from Debian's archive, without starting them."""
    host = instance.host
    install = "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends"
    host.run(f"systemctl mask firewalld && {install} firewalld ufw && systemctl unmask firewalld", check=True)
    return host


@pytest.fixture
def firewalld(firewalls: Host) -> Iterator[None]:
    """Run firewalld with its default zone, which accepts SSH."""
    with _running(firewalls, "systemctl start firewalld && firewall-cmd --state", "systemctl stop firewalld"):
        yield


@pytest.fixture
def ufw(firewalls: Host) -> Iterator[None]:
    """Have ufw accept SSH once it is enabled."""
    with _running(firewalls, "ufw allow 22/tcp", "ufw disable"):
        yield


@contextmanager
def _running(host: Host, start: str, stop: str) -> Iterator[None]:
    with rules_restored(host):
        host.run(start, check=True)
        try:
            yield
        finally:
            host.run(stop, check=True)


def assert_filter_returns(instance: Instance, harm: str) -> None:
    """Do harm, and wait until both tables are as in their files.

    Until then, the published port is open on the addresses of redis_bind alone.
    """
    host = instance.host
    address, since = str(host.address), host.run("date +%s", check=True).stdout.strip()
    probes: list[bool] = []

    def is_back() -> bool:
        probes.append(listens(address, 6379, timeout=0.5))
        return is_loaded(host) and is_limited(instance)

    with rules_restored(host):
        host.run(harm, check=True)
        began = time.monotonic()
        try:
            wait_until(is_back, f"the tables are back after: {harm}", WINDOW)
            assert time.monotonic() - began < WINDOW
        except AssertionError:
            raise AssertionError(host.run(f"systemctl status {WATCH}; journalctl --since @{since}").stdout) from None
        assert not any(probes)
        assert listens(address, 22)
        wait_until(lambda: answers(host, LOCAL)[LOCAL] == "redis", f"clients reach Redis after: {harm}", WINDOW)
    log = host.run(f"journalctl --unit redis-network-watch.service --output cat --since @{since}", check=True).stdout
    # The journal has a line for each repair of the table, and none for a look without one.
    assert set(log.splitlines()) <= {"the nftables table redoubt_redis was removed or changed: loading it again"}


@pytest.mark.parametrize(
    "harm",
    [
        "nft flush ruleset",
        "systemctl restart nftables",
        f"nft flush chain {TABLE} entering; {LIMITS} nft flush ruleset",
        "systemctl stop nftables redis-network",
        "systemctl restart docker",
    ],
)
def test_watch_puts_the_table_back(instance: Instance, harm: str) -> None:
    """It loads the tables of host and container within the documented time."""
    assert_filter_returns(instance, harm)


@pytest.mark.usefixtures("firewalld")
@pytest.mark.parametrize(
    "harm",
    [
        "systemctl restart firewalld",
        "firewall-cmd --reload",
        "firewall-cmd --complete-reload",
    ],
)
def test_table_survives_firewalld(instance: Instance, harm: str) -> None:
    assert_filter_returns(instance, harm)


@pytest.mark.usefixtures("ufw")
@pytest.mark.parametrize("harm", ["ufw --force enable", "nft flush ruleset; ufw --force enable; ufw reload"])
def test_table_survives_ufw(instance: Instance, harm: str) -> None:
    assert_filter_returns(instance, harm)


def test_host_resolves_names_afterwards(instance: Instance) -> None:
    """A flush removes the rules by which such a host resolves names."""
    host = instance.host
    with rules_restored(host):
        host.run(f"systemctl stop {WATCH} && nft flush ruleset && systemctl start {WATCH}", check=True)
        assert host.run(f"getent ahostsv4 {host.name}.").returncode != 0
    assert str(host.address) in host.run(f"getent ahostsv4 {host.name}.", check=True).stdout


# -- The connection limits in the container


def test_limits_are_loaded_as_soon_as_docker_restarts_redis(instance: Instance) -> None:
    """A new container has a new network namespace.

    The timer would look up to 15 s later.
    """
    host, before = instance.host, instance.identity
    host.run("systemctl stop redis-network-watch.timer", check=True)
    try:
        for harm in ("kill -9 $(docker inspect --format '{{.State.Pid}}' redis)", "systemctl restart docker"):
            host.run(harm, check=True)
            wait_until(lambda: instance.inspect()["State"]["Running"], f"Redis runs again after: {harm}", WINDOW)
            wait_until(lambda: is_limited(instance), f"the limits are loaded after: {harm}", 10)
    finally:
        host.run(f"systemctl start {WATCH}", check=True)
    assert instance.identity != before


def test_watch_waits_while_a_deploy_loads_the_table(instance: Instance) -> None:
    """It would load the table once more, and report a change that there was not."""
    host, unit = instance.host, "redis-network.service"
    drop_in = f"/run/systemd/system/{unit}.d"
    slow = "[Service]\nExecReload=\nExecReload=sleep 3\nExecReload=nft -f /srv/redis/network.nft\n"
    with unfiltered(host):
        host.run(f"mkdir -p {drop_in} && cat >{drop_in}/slow.conf && systemctl daemon-reload", input=slow, check=True)
        try:
            host.run(f"systemctl --no-block reload {unit}", check=True)
            wait_until(lambda: host.run(f"systemctl is-active {unit}").stdout == "reloading\n", "it is loaded", 2)
            look = host.run("sh /srv/redis/network-watch.sh", check=True)
            assert (look.stdout, is_loaded(host)) == ("", True)
        finally:
            host.run(f"rm -r {drop_in} && systemctl daemon-reload", check=True)


def test_look_without_a_change_asks_docker_once(instance: Instance) -> None:
    trace = instance.host.run("sh -x /srv/redis/network-watch.sh 2>&1", check=True).stdout
    assert trace.count("+ timeout 5 docker inspect ") == 1, trace


# -- Health and drift


def test_health_reports_a_missing_filter(instance: Instance, deployer: Deployer) -> None:
    """It also reports a watch that does not run, and Docker's missing rules.

    So does a plan of a deploy, which does not restore them.
    """
    host = instance.host
    with unfiltered(host):
        assert health(host)["network filter"] == ("critical", "the nftables table redoubt_redis is not loaded")
    with docker_rules_removed(host, "systemctl stop redis-network-watch.path; iptables --table nat --flush DOCKER"):
        checks = health(host)
        planned = deployer.deploy(host, arguments=("--dry",))
    assert checks["network filter"] == ("warning", "loaded, but the units that watch it do not run")
    assert checks["published port"][0] == "warning"
    assert "Docker's rules for the port of redis are missing" in planned.stderr
    # Those for forwarding alone: a restart of Redis would fail all the same.
    for harm in ("iptables --flush && iptables --delete-chain", "iptables --flush FORWARD"):
        with docker_rules_removed(host, harm):
            assert health(host)["published port"][0] == "warning", harm
    checks = health(host)
    assert checks["network filter"] == ("ok", "loaded and watched")
    assert "published port" not in checks


LOAD = "Network | Load the network filter"


def test_health_and_drift_report_missing_limits(instance: Instance, deployer: Deployer) -> None:
    """A deploy loads them again, also if they were changed by hand."""
    host, table = instance.host, "the nftables table redoubt_redis in the container's network namespace"
    assert health(host)["connection limits"] == ("ok", "loaded")
    with unlimited(instance):
        assert health(host)["connection limits"] == ("warning", f"{table} is not loaded")
        planned = deployer.deploy(host, arguments=("--dry",))
        assert f"redis's network: {table} is not loaded" in planned.stderr
        host.run(f"{inside(instance)} nft -f /srv/redis/clients.nft", check=True)
        assert health(host)["connection limits"] == ("ok", "loaded")

        host.run(f"{inside(instance)} nft flush chain {TABLE} clients", check=True)
        changed = f"{table} has other rules than /srv/redis/clients.nft"
        assert health(host)["connection limits"] == ("warning", changed)
        result = deployer.deploy(host)
        assert (result.returncode, result.changed) == (0, [LOAD]), result.stderr
        assert any(changed in reason for reason in result.reasons), result.stderr
        assert is_limited(instance)
