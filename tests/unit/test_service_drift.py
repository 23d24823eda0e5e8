"""Service drift: every difference of the running service has a reason.

Only some differences recreate the container.
"""

from dataclasses import replace
from typing import Any

import pytest

from redisctl.schema import Container, InstanceState, InterruptedTransaction, Network
from redoubt import acl, compose, redis_conf, service_drift
from redoubt.service_drift import Drift, drift
from redoubt.settings.load import load
from redoubt.sizes import MIB

SETTINGS = load({})
LIMITS: dict[str, Any] = {
    "Memory": 1664 * MIB,
    "MemoryReservation": 512 * MIB,
    "NanoCpus": 10**9,
    "CpuShares": 512,
    "PidsLimit": 128,
    "RestartPolicy": "unless-stopped",
}
NETWORKS = frozenset({"redis_backend", "redis_edge"})
DEFINITION, CREATED_WITH = compose.config_fingerprint(SETTINGS), compose.live_settings(SETTINGS)
CONTAINER = Container(
    "redis", "redis", "abc", "sha256:1", "running", "healthy", 1000.5, NETWORKS, LIMITS, DEFINITION, CREATED_WITH, 51
)
UP_TO_DATE = InstanceState(
    hashes={"redis": "abc"},
    containers=(CONTAINER,),
    image={"Id": "sha256:1"},
    files={"config/redis.conf": 900.0},
    config=redis_conf.runtime(SETTINGS),
)


V1 = {
    "memory.limit_in_bytes": "1744830464",
    "memory.memsw.limit_in_bytes": "1744830464",
    "pids.max": "128",
    "cpu.cfs_quota_us": "100000",
    "cpu.cfs_period_us": "100000",
}
V2 = {"memory.max": "1744830464", "memory.swap.max": "0", "pids.max": "128", "cpu.max": "100000 100000"}

ACL = (
    *(f"user {user.name} on sanitize-payload # {user.rules(acl.table_of(SETTINGS))}" for user in acl.users(SETTINGS)),
    "user default off sanitize-payload ~* &* +@all",
)


def state(**container: Any) -> InstanceState:
    """Return an up-to-date instance whose container differs in this."""
    return replace(UP_TO_DATE, containers=(replace(CONTAINER, **container),))


def test_up_to_date_service_has_no_drift() -> None:
    assert drift(SETTINGS, UP_TO_DATE) == Drift((), ())
    assert drift(SETTINGS, replace(UP_TO_DATE, acl=ACL)) == Drift((), ())
    assert service_drift.users_drift(SETTINGS, replace(UP_TO_DATE, acl=ACL)) == ()


def test_paused_service_keeps_its_container() -> None:
    assert drift(SETTINGS, state(status="paused")) == Drift(("redis is paused",), (), ("redis",))


@pytest.mark.parametrize("kernel", [V1, V2, {"memory.max": "1744830464"}])
def test_enforced_limits_are_no_drift(kernel: dict[str, str]) -> None:
    assert not drift(SETTINGS, replace(UP_TO_DATE, cgroup=kernel))


@pytest.mark.parametrize(
    ("kernel", "limit"),
    [
        ({**V2, "memory.swap.max": "max"}, "swap = no limit, the settings say 0"),
        ({**V2, "memory.max": "max"}, "memory = no limit, the settings say 1744830464"),
        ({**V2, "cpu.max": "max 100000"}, "cpus = no limit, the settings say 1"),
        ({**V2, "cpu.max": "50000 100000"}, "cpus = 0.5, the settings say 1"),
        ({**V2, "pids.max": "max"}, "pids = no limit, the settings say 128"),
        ({**V1, "memory.memsw.limit_in_bytes": "3489660928"}, "swap = 1744830464, the settings say 0"),
        ({**V1, "memory.memsw.limit_in_bytes": "9223372036854771712"}, "swap = no limit, the settings say 0"),
        ({**V1, "cpu.cfs_quota_us": "-1"}, "cpus = no limit, the settings say 1"),
    ],
)
def test_limit_that_the_kernel_lifted_is_reported(kernel: dict[str, str], limit: str) -> None:
    """A limit that only the kernel shows as changed is reported.

    Docker still shows the up_to_date one: systemd or a person changed it in the kernel.
    """
    current = replace(UP_TO_DATE, cgroup=kernel)
    change = service_drift.live_change(SETTINGS, current)
    assert (change.reasons, change.limits, change.config) == ((f"redis is limited by the kernel to {limit}",), True, {})
    assert not drift(SETTINGS, current)
    restarting = replace(current, containers=(replace(CONTAINER, definition="other"),))
    assert not service_drift.live_change(SETTINGS, restarting)


@pytest.mark.parametrize(
    ("queues", "somaxconn", "short"),
    [
        ({"127.0.0.1:6379": 128, "[::1]:6379": 4096}, 65535, ("127.0.0.1:6379",)),
        ({"127.0.0.1:6379": 511, "[::1]:6379": 510}, 65535, ("[::1]:6379",)),
        # Long enough; as long as the kernel allows; other ports; Docker does not listen.
        ({"127.0.0.1:6379": 4096, "[::1]:6379": 4096}, 65535, ()),
        ({"127.0.0.1:6379": 128, "[::1]:6379": 128}, 128, ()),
        ({"127.0.0.1:6380": 5, "10.0.0.5:6379": 5}, 65535, ()),
        ({}, 65535, ()),
    ],
)
def test_short_backlog_is_reported(queues: dict[str, int], somaxconn: int, short: tuple[str, ...]) -> None:
    settings = load({"redis_bind": ["127.0.0.1", "::1"]})
    up_to_date = state(definition=compose.config_fingerprint(settings))
    difference = drift(settings, replace(up_to_date, backlogs=queues, somaxconn=somaxconn))
    assert difference.reasons == tuple(
        f"redis has a backlog of {queues[address]} at {address}, the settings say 511" for address in short
    )
    assert difference.replace == (("redis",) if short else ())


@pytest.mark.parametrize("value", [0, None])
def test_limit_without_kernel_support_is_no_drift(value: int | None) -> None:
    assert not drift(SETTINGS, state(limits={**LIMITS, "MemoryReservation": value}))
    without = state(limits={**LIMITS, "PidsLimit": value})
    assert not drift(SETTINGS, replace(without, cgroup={**V2, "pids.max": "max"}))


@pytest.mark.parametrize(
    ("current", "reason", "replaced"),
    [
        (replace(UP_TO_DATE, hashes={}, containers=()), "compose.yml is missing, or Compose does not accept it", ()),
        (replace(UP_TO_DATE, containers=()), "redis has no container", ()),
        (state(config_hash="other"), "was created from another definition", ()),
        (state(config_hash=""), "was created from another definition", ()),
        (state(status="exited"), "redis is exited", ()),
        (state(status="restarting"), "redis exits whenever Docker starts it", ("redis",)),
        (state(health="unhealthy"), "redis is unhealthy", ()),
        (state(health="starting"), "redis is starting", ()),
        (state(image_id="sha256:2"), "runs another image", ("redis",)),
        (
            replace(UP_TO_DATE, files={"config/users.acl": 1001.0}),
            "started before config/users.acl changed",
            ("redis",),
        ),
        (
            replace(UP_TO_DATE, files={"secrets/server/commands.conf": 1001.0}),
            "started before secrets/server/commands.conf changed",
            ("redis",),
        ),
        (
            replace(UP_TO_DATE, config={**UP_TO_DATE.config, "databases": "5"}),
            "runs with databases = '5', the settings say '16'",
            ("redis",),
        ),
        (state(definition="other"), "was created from another definition", ("redis",)),
        (
            replace(UP_TO_DATE, config={}, files={"config/redis.conf": 1001.0}),
            "started before config/redis.conf changed",
            ("redis",),
        ),
        (
            state(status="paused", limits={**LIMITS, "Memory": 5}),
            "the limit Memory = 5, the settings say 1744830464",
            ("redis",),
        ),
        (
            replace(UP_TO_DATE, containers=(CONTAINER, replace(CONTAINER, service="old"))),
            "old is not in the settings",
            (),
        ),
        (replace(UP_TO_DATE, containers=(CONTAINER, CONTAINER)), "more than one container", ()),
        (replace(UP_TO_DATE, config_saved=True), "the previous configuration is still saved", ()),
        (
            replace(UP_TO_DATE, interrupted=InterruptedTransaction("start of redis", "starting")),
            "start of redis was interrupted",
            (),
        ),
        (state(name="elsewhere"), "has a container with the name elsewhere", ("redis",)),
        (state(networks=NETWORKS | {"bridge"}), "is also connected to bridge", ("redis",)),
        (state(networks=frozenset({"redis_edge"})), "is not connected to redis_backend", ("redis",)),
        (
            replace(UP_TO_DATE, refusal="refuses the password of admin", config={}),
            "refuses the password of",
            ("redis",),
        ),
    ],
)
def test_every_kind_of_drift_has_a_reason(current: InstanceState, reason: str, replaced: tuple[str, ...]) -> None:
    difference = drift(SETTINGS, current)
    assert any(reason in text for text in difference.reasons)
    assert difference.replace == replaced


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"acl": ("user default off ~* &* +@all",)}, "redis lacks the user sessions"),
        ({"acl": ACL, "passwords": ("sessions",)}, "redis has other passwords for sessions"),
    ],
)
def test_users_change_without_a_new_container(changes: dict[str, Any], reason: str) -> None:
    current = replace(UP_TO_DATE, **changes)
    assert reason in service_drift.users_drift(SETTINGS, current)
    assert not drift(SETTINGS, current)
    assert not service_drift.will_be_recreated(SETTINGS, current)


@pytest.mark.parametrize(
    "current",
    [
        replace(UP_TO_DATE, containers=()),
        state(status="exited"),
        state(image_id="sha256:2"),
        state(definition="other"),
        replace(UP_TO_DATE, files={"secrets/server/commands.conf": 1001.0}),
    ],
)
def test_outdated_container_will_be_recreated(current: InstanceState) -> None:
    assert service_drift.will_be_recreated(SETTINGS, current)
    assert not service_drift.live_change(SETTINGS, replace(current, config={**UP_TO_DATE.config, "timeout": "5"}))


@pytest.mark.parametrize("hashes", [{"redis": "edited"}, {}])
def test_edited_compose_file_does_not_defer_live_changes(hashes: dict[str, str]) -> None:
    """Live changes are applied although the Compose file was edited.

    The deploy writes the file again before the start, and then nothing restarts Redis.
    """
    current = replace(UP_TO_DATE, hashes=hashes, config={**UP_TO_DATE.config, "timeout": "5"})
    assert not service_drift.will_be_recreated(SETTINGS, current)
    assert service_drift.live_change(SETTINGS, current).config == {"timeout": "300"}
    assert service_drift.will_restart(SETTINGS, current)


@pytest.mark.parametrize("name", ["config/users.acl", "secrets/server/health", "secrets/sessions"])
def test_changed_passwords_do_not_restart_redis(name: str) -> None:
    """Changed passwords do not restart Redis.

    The deploy compares the users of the running Redis, and the health check reads its password each time.
    """
    assert not drift(SETTINGS, replace(UP_TO_DATE, acl=ACL, files={name: 1001.0}))


@pytest.mark.parametrize(
    ("current", "message", "change"),
    [
        (
            replace(UP_TO_DATE, config={**UP_TO_DATE.config, "maxmemory": "5"}),
            "redis runs with maxmemory = '5', the settings say '1073741824'",
            service_drift.LiveChange(config={"maxmemory": "1073741824"}),
        ),
        (
            replace(UP_TO_DATE, config={**UP_TO_DATE.config, "activedefrag": "no"}, activedefrag="activedefrag yes"),
            "redis runs with activedefrag = 'no', the settings say 'yes'",
            service_drift.LiveChange(config={"activedefrag": "yes"}),
        ),
        (
            state(limits={**LIMITS, "Memory": 5}),
            "redis has the limit Memory = 5, the settings say 1744830464",
            service_drift.LiveChange(limits=True, raises_limits=True),
        ),
        (
            state(limits={**LIMITS, "Memory": 2**40}),
            "redis has the limit Memory = 1099511627776, the settings say 1744830464",
            service_drift.LiveChange(limits=True),
        ),
        (state(limits={**LIMITS, "PidsLimit": -1}), "the limit PidsLimit = -1", service_drift.LiveChange(limits=True)),
        (
            state(limits={**LIMITS, "RestartPolicy": "no"}),
            "the limit RestartPolicy = 'no'",
            service_drift.LiveChange(limits=True),
        ),
        (
            state(created_with="{}"),
            "redis keeps its container, which was created with other limits",
            service_drift.LiveChange(),
        ),
    ],
)
def test_live_change_is_no_reason_to_restart(
    current: InstanceState, message: str, change: service_drift.LiveChange
) -> None:
    difference = service_drift.live_change(SETTINGS, current)
    (reason,) = difference.reasons
    assert message in reason
    assert replace(difference, reasons=(), created_with="") == change
    assert not drift(SETTINGS, current)
    # A Redis that restarts reads its files, and one that is down cannot change.
    assert not service_drift.live_change(SETTINGS, replace(current, image={"Id": "sha256:2"}))
    assert not service_drift.live_change(SETTINGS, replace(current, containers=(replace(CONTAINER, status="exited"),)))
    assert not service_drift.live_change(SETTINGS, replace(current, config={}))


def test_live_changed_container_is_reported_once() -> None:
    """Afterwards the override makes Compose's hashes those of the created container."""
    changed = replace(state(created_with="{}"), has_override=True)
    assert not service_drift.live_change(SETTINGS, changed)
    assert not drift(SETTINGS, changed)


def test_stop_timeout_must_suffice_without_aof() -> None:
    settings = load({"redis_appendonly": False, "redis_maxmemory": "2gb"})
    up_to_date = state(definition=compose.config_fingerprint(settings))
    reason = "redis has 51 s to stop, the settings say 71"
    assert reason in drift(settings, up_to_date).reasons
    assert reason not in drift(load({"redis_maxmemory": "2gb"}), up_to_date).reasons


def test_application_restarts_for_its_own_secrets_only() -> None:
    web = replace(CONTAINER, service="web", health=None)
    both = replace(UP_TO_DATE, hashes={"redis": "abc", "web": "abc"}, containers=(CONTAINER, web))
    assert drift(SETTINGS, replace(both, files={"secrets/server/commands.conf": 1001.0})).replace == ("redis",)
    assert drift(SETTINGS, replace(both, files={"secrets/sessions": 1001.0})).replace == ("web",)


def test_silent_redis_has_no_drift() -> None:
    """Its health reports what is wrong; an empty answer is not a configuration."""
    assert not drift(SETTINGS, replace(UP_TO_DATE, config={}))


def test_replaced_live_directory_means_data_loss() -> None:
    assert drift(SETTINGS, replace(UP_TO_DATE, stale_mounts=("data/live",))).data_lost
    assert not drift(SETTINGS, replace(UP_TO_DATE, stale_mounts=("logs",))).data_lost


def backend(**changes: Any) -> Network:
    member = frozenset({"redis"})
    return replace(Network(internal=True, masquerade=False, members=member, bridge="redis-back"), **changes)


def edge(**changes: Any) -> Network:
    return backend(**{"internal": False, "bridge": "redis-edge", "subnet": str(SETTINGS.edge_subnet), **changes})


@pytest.mark.parametrize(
    ("networks", "reasons"),
    [
        ({"redis_backend": backend(), "redis_edge": edge(), "redis_default": edge(masquerade=True)}, {}),
        (
            {"redis_backend": backend(internal=False), "redis_edge": edge()},
            {"redis_backend": "has a way out of the host"},
        ),
        (
            {"redis_backend": backend(), "redis_edge": edge(masquerade=True)},
            {"redis_edge": "has a way out of the host"},
        ),
        (
            {"redis_backend": backend(bridge=""), "redis_edge": edge(bridge="br-1")},
            {
                "redis_backend": "has the bridge that Docker named, not redis-back",
                "redis_edge": "has the bridge br-1, not redis-edge",
            },
        ),
        (
            {"redis_backend": backend(), "redis_edge": edge(subnet="172.19.0.0/16")},
            {"redis_edge": f"has the addresses 172.19.0.0/16, not {SETTINGS.edge_subnet}"},
        ),
    ],
)
def test_differing_networks_are_recreated(networks: dict[str, Network], reasons: dict[str, str]) -> None:
    difference = drift(SETTINGS, replace(UP_TO_DATE, networks=networks))
    assert difference.networks == tuple(reasons)
    assert difference.reasons == tuple(f"the network {name} {reason}" for name, reason in reasons.items())
    assert difference.foreign_containers == ()


def test_foreign_containers_on_a_network_are_named() -> None:
    with_foreign_container = backend(internal=False, members=frozenset({"redis", "web-1"}))
    assert drift(
        SETTINGS, replace(UP_TO_DATE, networks={"redis_backend": with_foreign_container})
    ).foreign_containers == ("web-1",)
    internal = replace(with_foreign_container, internal=True)
    assert drift(SETTINGS, replace(UP_TO_DATE, networks={"redis_backend": internal})).foreign_containers == ()


def test_health_is_stale_if_the_container_stays() -> None:
    assert drift(SETTINGS, state(health="unhealthy")).stale
    assert not drift(SETTINGS, state(health="starting")).stale
    assert not drift(SETTINGS, state(health="unhealthy", status="exited")).stale
    assert not drift(SETTINGS, state(health="unhealthy", image_id="sha256:2")).stale


def test_deploy_waits_until_the_health_check_gives_up() -> None:
    assert SETTINGS.start_timeout >= 10 + 5 * (30 + 10)


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        (replace(UP_TO_DATE, running_version="8.0.2"), True),
        (replace(state(health="unhealthy"), running_version="8.0.2"), True),
        (state(health="unhealthy"), False),
        (UP_TO_DATE, True),
        (state(status="exited"), False),
        (state(name="old-redis"), False),
        (InstanceState(), False),
    ],
    ids=["healthy", "answers", "neither", "refuses the admin", "exited", "renamed", "not deployed"],
)
def test_redis_serves_if_it_answers_or_is_healthy(current: InstanceState, expected: bool) -> None:
    assert service_drift.serves(SETTINGS, current) == expected
