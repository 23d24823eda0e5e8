"""Redis is reached exactly where the settings say: at those addresses and that port, from those places."""

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandbox import images
from sandbox.hosts import Host
from tests.host.host_under_test import listens
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.deployed_redis import Instance, wait_until
from tests.lifecycle.port_probe import answers


@pytest.fixture(scope="module")
def neighbour(start_host: Callable[..., Host]) -> Host:
    """Another host on the same network."""
    return start_host("lifecycle-bare", image="bare")


# Where one that nobody named comes from, over IPv6.
STRANGER6 = "2001:db8::bad"


def address6(host: Host) -> str:
    """Where others reach a host over IPv6, once it has the address."""
    return str(ipaddress.IPv6Address(f"2001:db8::{host.address}"))


def give_ipv6(host: Host) -> None:
    """The loopback's IPv6 address and one on the fleet network, which have to be given again after each boot.

    The engine leaves a container without either. An IPv6 network of the engine's would have it forward for the whole
    machine, which then takes no more router advertisements.
    """
    host.run("sysctl -w net.ipv6.conf.lo.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0", check=True)
    host.run(f"ip address add {address6(host)}/64 dev eth0 nodad", check=True)


@pytest.fixture(scope="module", autouse=True)
def ipv6(host: Host, neighbour: Host) -> Iterator[None]:
    """IPv6 on both hosts; the neighbour can also come as a stranger."""
    give_ipv6(host)
    give_ipv6(neighbour)
    # No lifetime: not taken but on request.
    neighbour.run(f"ip address add {STRANGER6}/64 dev eth0 nodad preferred_lft 0", check=True)
    yield
    for one in (host, neighbour):
        one.run("sysctl -w net.ipv6.conf.lo.disable_ipv6=1 net.ipv6.conf.eth0.disable_ipv6=1", check=True)


def listening(host: Host, *ports: int) -> set[str]:
    """Where something listens on one of these ports, by the kernel's word."""
    lines = host.run("ss -Hltn", check=True).stdout.splitlines()
    sockets = {line.split()[3].replace("[", "").replace("]", "") for line in lines}
    return {socket for socket in sockets if int(socket.rpartition(":")[2]) in ports}


LOOPBACK, LOOPBACK6, OUTSIDE, OUTSIDE6 = "127.0.0.1", "::1", "OUTSIDE", "OUTSIDE6"
ALL, ALL6 = "0.0.0.0", "::"


@pytest.mark.parametrize(
    ("published", "reached"),
    [
        (((LOOPBACK, OUTSIDE, LOOPBACK6, OUTSIDE6), 6380), {LOOPBACK, OUTSIDE, LOOPBACK6, OUTSIDE6}),
        (((ALL,), 6379), {LOOPBACK, OUTSIDE}),
        (((), 6379), set()),
        (((LOOPBACK,), 6379), {LOOPBACK}),
    ],
    ids=["several", "all", "none", "loopback"],
)
def test_redis_is_reached_exactly_at_the_addresses_of_the_settings(
    host: Host, neighbour: Host, deployer: Deployer, published: tuple[tuple[str, ...], int], reached: set[str]
) -> None:
    bind, port = published
    outside = {OUTSIDE: str(host.address), OUTSIDE6: address6(host)}
    place = {LOOPBACK: LOOPBACK, LOOPBACK6: LOOPBACK6, **outside}
    settings: dict[str, Any] = {"redis_bind": [place.get(name, name) for name in bind], "redis_port": port}
    if ALL in bind:
        settings["redis_allow_from"] = ["0.0.0.0/0", "::/0"]

    result = deployer.deploy(host, **settings)

    assert result.returncode == 0, result.stderr
    assert listening(host, 6379, 6380) == {f"{address}:{port}" for address in settings["redis_bind"]}
    for where, places in ((host, place), (neighbour, outside)):
        wanted = {f"{places[name]} {port}": "redis" if name in reached else "closed" for name in places}
        assert answers(where, *wanted) == wanted
    # Containers on its network reach it in any case.
    assert Instance(host, deployer.secrets(host)).call("PING") == ["PONG"]
    again = deployer.deploy(host, **settings)
    assert (again.returncode, again.changed) == (0, []), again.stderr


# -- Networks that may come


@pytest.fixture(scope="module")
def filtered(host: Host, neighbour: Host, deployer: Deployer) -> Iterator[dict[str, Any]]:
    """Settings by which the neighbour may come, and nobody else from outside; deployed."""
    named = [f"{neighbour.address}/32", "192.0.2.0/24", address6(neighbour)]
    settings: dict[str, Any] = {"redis_bind": [ALL, ALL6], "redis_allow_from": named}
    result = deployer.deploy(host, **settings)
    assert result.returncode == 0, result.stderr
    yield settings
    assert deployer.deploy(host).returncode == 0


def assert_only_the_neighbour_comes(host: Host, neighbour: Host) -> None:
    address = str(host.address)
    wanted = {
        f"{address} 6379": "redis",
        f"{address6(host)} 6379": "redis",
        f"{address6(host)} 6379 {STRANGER6}": "closed",
        f"{address6(host)} 22 {STRANGER6}": "other",
    }
    assert answers(neighbour, *wanted) == wanted
    # This machine is on the same network, and not on the list.
    assert not listens(address, 6379, timeout=1)
    assert listens(address, 22)
    # Whoever is on the host is not from outside.
    own = {f"{here} 6379": "redis" for here in (LOOPBACK, LOOPBACK6, address, address6(host))}
    assert answers(host, *own) == own


def test_only_the_named_networks_come_from_outside(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    assert_only_the_neighbour_comes(host, neighbour)
    again = deployer.deploy(host, **filtered)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_containers_on_its_network_come_in_any_case(host: Host, deployer: Deployer, filtered: dict[str, Any]) -> None:
    assert filtered
    backend = Instance(host, deployer.secrets(host)).inspect()["NetworkSettings"]["Networks"]["redis_backend"]
    said = host.run(
        f"docker run --rm --network redis_backend --entrypoint redis-cli {images.redis_reference()} "
        f"-h {backend['IPAddress']} PING"
    )
    assert "NOAUTH" in said.stdout


@pytest.mark.parametrize(
    "harm",
    [
        # What an administrator does who starts anew; the engine then makes its own rules again.
        "nft flush ruleset && systemctl restart docker",
        "nft flush chain inet redoubt_redis outside && systemctl disable redis-network.service",
        "systemctl stop redis-network.service; echo >/srv/redis/network.nft",
    ],
)
def test_what_is_undone_by_hand_is_put_back(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any], harm: str
) -> None:
    host.run(harm, check=True)
    result = deployer.deploy(host, **filtered)
    assert result.returncode == 0, result.stderr
    assert_only_the_neighbour_comes(host, neighbour)
    again = deployer.deploy(host, **filtered)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_a_boot_brings_it_back_before_the_engine(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    assert filtered
    host.restart()
    give_ipv6(host)
    wait_until(lambda: Instance(host, deployer.secrets(host)).health == "healthy", "Redis is back", 60)
    assert_only_the_neighbour_comes(host, neighbour)
    started = {
        unit: int(host.run(f"systemctl show --property ActiveEnterTimestampMonotonic --value {unit}").stdout)
        for unit in ("redis-network.service", "docker.service")
    }
    assert started["redis-network.service"] < started["docker.service"]


def test_other_networks_are_let_in_and_out_without_a_restart(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    """Networks of one family let in nobody of the other. There is no moment without a filter."""
    redis = Instance(host, deployer.secrets(host))
    before = redis.identity
    v4, v6 = f"{host.address} 6379", f"{address6(host)} 6379"
    cases = [
        (["192.0.2.0/24"], {v4: "closed", v6: "closed"}),
        ([f"{STRANGER6}/128"], {v4: "closed", v6: "closed", f"{v6} {STRANGER6}": "redis"}),
        (["0.0.0.0/0"], {v4: "redis", v6: "closed"}),
    ]
    with changes_of_filters(host) as changes:
        for named, wanted in cases:
            assert deployer.deploy(host, **{**filtered, "redis_allow_from": named}).returncode == 0
            assert answers(neighbour, *wanted) == wanted
    assert listens(str(host.address), 6379)
    assert redis.identity == before
    # Each time with all its rules at once, and in the same step without the former ones.
    steps = [[line.split(maxsplit=1)[0] for line in one if " table inet redoubt_redis" in line] for one in changes]
    assert [step for step in steps if step] == [["delete", "add"]] * len(cases)


@contextmanager
def changes_of_filters(host: Host) -> Iterator[list[list[str]]]:
    """What becomes of the kernel's tables meanwhile, in the steps in which it does; filled at the end."""
    steps: list[list[str]] = []
    seen = "/run/lifecycle-changes"
    run = "systemd-run --quiet --service-type=exec --unit=lifecycle-changes"
    host.run(f"{run} --property=StandardOutput=file:{seen} nft monitor", check=True)
    yield steps
    text = host.run(f"systemctl stop lifecycle-changes && cat {seen} && rm {seen}", check=True).stdout
    steps += [one.splitlines() for one in text.split("# new generation")]


def test_the_filter_is_before_a_single_ipv6_address_too(
    host: Host, neighbour: Host, deployer: Deployer, filtered: dict[str, Any]
) -> None:
    published = {**filtered, "redis_bind": [address6(host)]}
    assert deployer.deploy(host, **published).returncode == 0
    v4, v6 = f"{host.address} 6379", f"{address6(host)} 6379"
    wanted = {v4: "closed", v6: "redis", f"{v6} {STRANGER6}": "closed"}
    assert answers(neighbour, *wanted) == wanted
    assert answers(host, v6) == {v6: "redis"}


def test_without_networks_nothing_of_it_is_left(host: Host, deployer: Deployer, filtered: dict[str, Any]) -> None:
    assert filtered
    address: dict[str, Any] = {"redis_bind": [str(host.address)]}
    assert deployer.deploy(host, **address).returncode == 0
    assert listens(str(host.address), 6379)
    left = host.run("nft list tables; ls /etc/systemd/system/*redis* /srv/redis/*.nft; systemctl list-units '*redis*'")
    assert "redoubt_redis" not in left.stdout
    assert "redis-network" not in left.stdout
    again = deployer.deploy(host, **address)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_redis_for_everybody_is_refused_unless_it_is_meant(deployed: Host, deployer: Deployer) -> None:
    result = deployer.deploy(deployed, redis_bind=[ALL])
    assert result.returncode == 1
    assert "redis_bind: 0.0.0.0 publishes Redis on every address of the host, past ufw" in result.stderr


def test_a_long_backlog_is_really_given(deployed: Host, deployer: Deployer) -> None:
    """Above the ceiling that a new network starts with, the kernel would cut it without a word."""
    result = deployer.deploy(deployed, redis_tcp_backlog=8192)
    assert result.returncode == 0, result.stderr
    pid = Instance(deployed, deployer.secrets(deployed)).inspect()["State"]["Pid"]
    listeners = deployed.run(f"nsenter --target {pid} --net ss -Hltn sport = :6379", check=True).stdout.splitlines()
    assert {line.split()[2] for line in listeners} == {"8192"}
    again = deployer.deploy(deployed, redis_tcp_backlog=8192)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_an_address_that_the_host_does_not_have_is_refused_before_redis_is_stopped(
    deployed: Host, deployer: Deployer
) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity
    result = deployer.deploy(deployed, redis_bind=["127.0.0.1", "192.0.2.7"])
    assert result.returncode == 1
    assert "redis_bind: 192.0.2.7 is not an address of this host" in result.stderr
    assert redis.identity == before
