"""The container as it runs: limits, privileges and mounts, as the kernel enforces them."""

import json
from typing import Any

import pytest
from testinfra.host import Host

from redoubt.settings.model import Settings
from tests.host.conftest import kernel_of
from tests.host.host_under_test import Target, quoted
from tests.host.proc import Kernel, weights

PAGE = 4096


@pytest.fixture(scope="module")
def project(host: Host, settings: Settings) -> dict[str, dict[str, Any]]:
    """The containers of the Compose project, by service: running or not."""
    listing = host.check_output(
        f"docker ps --all --no-trunc --format json --filter label=com.docker.compose.project={settings.redis_name}"
    )
    containers = [json.loads(line) for line in listing.splitlines()]
    names = " ".join(container["ID"] for container in containers)
    inspected = json.loads(host.check_output(f"docker inspect {names}"))
    return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in inspected}


# -- Limits


@pytest.mark.security("container isolation")
def test_memory_is_limited(kernel: Kernel, settings: Settings) -> None:
    """A Redis that grows past its limit is stopped, and the host is not."""
    assert kernel.limits.memory == settings.memory_limit // PAGE * PAGE


def test_memory_limit_leaves_room_beside_the_data(kernel: Kernel, config: dict[str, str]) -> None:
    """With a limit equal to maxmemory the kernel kills Redis while it fills or saves (measured)."""
    assert kernel.limits.memory is not None
    assert kernel.limits.memory >= 1.25 * int(config["maxmemory"])


def test_memory_is_reserved(kernel: Kernel, settings: Settings) -> None:
    """What the kernel tries to leave to Redis when the host runs short."""
    assert kernel.limits.reservation == settings.memory_reservation // PAGE * PAGE


@pytest.mark.security("container isolation")
def test_redis_never_swaps(kernel: Kernel) -> None:
    """A swapping Redis stalls every client: no swap on top of its memory."""
    assert kernel.limits.swap == 0


@pytest.mark.security("container isolation")
@pytest.mark.writes
def test_limits_outlive_what_any_package_does_to_systemd(target: Target) -> None:
    """A daemon-reload and a new unit: systemd sets the limits of all anew, by what it knows of them."""
    target.host.check_output("systemctl daemon-reload && systemd-run --wait --quiet true")
    limits = kernel_of(target).limits
    settings = target.settings
    assert (limits.memory, limits.swap) == (settings.memory_limit // PAGE * PAGE, 0)
    assert (limits.reservation, limits.pids) == (
        settings.memory_reservation // PAGE * PAGE,
        settings.redis_container_pids,
    )
    assert limits.cpus == pytest.approx(settings.redis_container_cpus, abs=0.01)


@pytest.mark.security("container isolation")
def test_cpus_are_limited(kernel: Kernel, settings: Settings) -> None:
    """Cores, by quota and period."""
    # systemd keeps a quota in hundredths of a core.
    assert kernel.limits.cpus == pytest.approx(settings.redis_container_cpus, abs=0.01)


def test_cpus_are_shared_by_weight(kernel: Kernel, settings: Settings) -> None:
    """The only kind of CPU reservation that the kernel has: 1024 shares are one core."""
    shares = max(2, int(settings.redis_container_cpu_reservation * 1024))
    assert kernel.limits.weight in weights(shares, kernel.limits.version)


@pytest.mark.security("container isolation")
def test_processes_are_limited(kernel: Kernel, settings: Settings) -> None:
    """A fork bomb ends inside."""
    assert kernel.limits.pids == settings.redis_container_pids


@pytest.mark.security("container isolation")
def test_open_files_suffice_for_all_clients(kernel: Kernel, settings: Settings) -> None:
    """Redis lowers maxclients by itself when its limit is too low, and says so in its log only."""
    limits = {process.name: process.status["Nofile"] for process in kernel.processes}
    assert set(limits.values()) == {f"{settings.nofile} {settings.nofile}"}, limits
    assert settings.nofile >= settings.redis_maxclients + 32


# -- Privileges


@pytest.mark.security("container isolation")
@pytest.mark.parametrize("kind", ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
def test_no_process_has_a_capability(kernel: Kernel, kind: str) -> None:
    """Nor can any get one: the bounding set is empty as well."""
    assert {process.name: int(process.status[kind], 16) for process in kernel.processes} == {
        process.name: 0 for process in kernel.processes
    }


@pytest.mark.security("container isolation")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Uid", "999\t999\t999\t999"),
        ("Gid", "999\t999\t999\t999"),
        # No program gains rights by its file's mode.
        ("NoNewPrivs", "1"),
        # Filtered system calls.
        ("Seccomp", "2"),
    ],
)
def test_processes_run_without_privileges(kernel: Kernel, field: str, value: str) -> None:
    """Real, effective, saved and filesystem ids; what the kernel lets them do."""
    assert {process.name: process.status[field] for process in kernel.processes} == {
        process.name: value for process in kernel.processes
    }


@pytest.mark.security("container isolation")
def test_processes_are_in_no_other_groups(kernel: Kernel) -> None:
    """A further group would open whatever the host gives to that number."""
    assert {group for process in kernel.processes for group in process.status["Groups"].split()} <= {"999"}


@pytest.mark.security("container isolation")
def test_nothing_of_the_host_is_shared(kernel: Kernel) -> None:
    """Its own processes, network, mounts and interprocess communication."""
    assert {process.name: process.shared_namespaces for process in kernel.processes} == {
        process.name: set() for process in kernel.processes
    }


@pytest.mark.security("container isolation")
def test_engine_adds_no_rights(container: dict[str, Any]) -> None:
    """What the kernel's files do not show: devices, and an engine that was told to look away."""
    given = container["HostConfig"]
    assert not given["Privileged"]
    assert not given["Devices"]
    assert not given["CapAdd"]


# -- Mounts


@pytest.mark.security("container isolation")
def test_only_data_and_logs_can_be_written(kernel: Kernel, settings: Settings) -> None:
    """A taken-over server changes neither its program, nor how it starts next time, nor a backup."""
    memory_only = {"proc", "tmpfs", "devpts", "mqueue"}
    writable = {mount.point for mount in kernel.mounts if mount.writable and mount.filesystem not in memory_only}
    socket = {"/run/redis"} if settings.redis_unix_socket else set()
    assert writable == {"/data", "/var/log/redis"} | socket


@pytest.mark.security("container isolation")
def test_writable_memory_is_what_the_engine_needs(kernel: Kernel, settings: Settings) -> None:
    """Besides those directories: device files, shared memory of a fixed size, and Redis's socket. No /tmp."""
    writable = {mount.point for mount in kernel.mounts if mount.writable and mount.filesystem in ("tmpfs", "mqueue")}
    outside_of_system = {point for point in writable if not point.startswith(("/proc/", "/sys/"))}
    socket = set() if settings.redis_unix_socket else {"/run/redis"}
    assert outside_of_system == {"/dev", "/dev/mqueue", "/dev/shm"} | socket


@pytest.mark.security("container isolation")
@pytest.mark.parametrize("point", ["/", "/etc/redis", "/run/secrets", "/backups"])
def test_root_configuration_secrets_and_backups_are_read_only(kernel: Kernel, point: str) -> None:
    """As mounts, whatever the modes of the files."""
    assert [mount.writable for mount in kernel.mounts if mount.point == point] == [False]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/etc/redis", "config"),
        ("/data", "data/live"),
        ("/backups", "backups"),
        ("/var/log/redis", "logs"),
        ("/run/secrets", "secrets/server"),
    ],
)
def test_directories_are_the_hosts(settings: Settings, container: dict[str, Any], path: str, source: str) -> None:
    """Data in an anonymous volume would be lost with the container."""
    sources = {mount["Destination"]: mount["Source"] for mount in container["Mounts"]}
    assert sources[path] == f"{settings.root}/{source}"


@pytest.mark.security("container isolation")
@pytest.mark.parametrize(("uid", "paths"), [(0, ["/", "/usr/bin"]), (999, ["/etc/redis", "/run/secrets", "/backups"])])
def test_read_only_means_that_a_write_fails(target: Target, uid: int, paths: list[str]) -> None:
    """Tried, by whom the directory's mode would allow it."""
    said = _touch(target, uid, paths)
    assert [line.rpartition(": ")[2] for line in said] == ["Read-only file system"] * len(paths), said


@pytest.mark.writes
def test_redis_can_write_where_it_must(target: Target) -> None:
    """As Redis itself would: the mount, the owner and the mode together."""
    assert _touch(target, 999, ["/data", "/var/log/redis"]) == []


def _touch(target: Target, uid: int, directories: list[str]) -> list[str]:
    """Make and remove a file in directories of the container: the complaints."""
    script = f'for d in "$@"; do touch "$d/{target.mark}" && rm "$d/{target.mark}"; done 2>&1'
    name = quoted(target.settings.redis_name)
    inside = quoted("sh", "-c", script, "sh", *directories)
    done = target.host.run(f"docker exec --user {uid}:{uid} --env LC_ALL=C {name} {inside}")
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


# -- Supervision


def test_redis_starts_again_by_itself(settings: Settings, container: dict[str, Any]) -> None:
    """After a crash and after a reboot."""
    assert container["HostConfig"]["RestartPolicy"]["Name"] == settings.redis_restart


def test_stopping_redis_has_the_time_to_save(target: Target, settings: Settings, container: dict[str, Any]) -> None:
    """Docker's own default of 10 seconds kills a Redis that is still writing.

    Compose goes by its file. The engine itself goes by what the container was made with, which may be from before a
    live change of redis_maxmemory: the log of writes is flushed first, and holds what a snapshot cut short does not.
    """
    text = target.host.check_output(f"docker compose --project-directory {quoted(settings.root)} config --format json")
    grace = json.loads(text)["services"][settings.redis_name]["stop_grace_period"]
    minutes, _, seconds = grace.removesuffix("s").rpartition("m")
    assert int(minutes or 0) * 60 + int(seconds) == settings.stop_grace_period
    made_with = json.loads(container["Config"]["Labels"]["redoubt.live"])["stop_grace_period"]
    assert container["Config"]["StopTimeout"] == int(made_with.removesuffix("s"))
    changed = target.host.run(f"grep -qsx '# {container['Id']}' {quoted(settings.root)}/compose.created.yml").rc == 0
    if not changed or not settings.redis_appendonly:
        assert container["Config"]["StopTimeout"] == settings.stop_grace_period


def test_project_runs_redis_and_the_applications_services(
    settings: Settings, project: dict[str, dict[str, Any]]
) -> None:
    """Every service of the settings and no other. One that is not to be restarted may have done its work."""
    ended_well = {
        name
        for name, container in project.items()
        if container["HostConfig"]["RestartPolicy"]["Name"] in ("", "no")
        and (container["State"]["Status"], container["State"]["ExitCode"]) == ("exited", 0)
    }
    running = {name for name, container in project.items() if container["State"]["Status"] == "running"}
    assert running | ended_well == {settings.redis_name, *settings.redis_app_services}
    assert set(project) == running | ended_well
    assert settings.redis_name in running


def test_applications_services_reach_redis_and_wait_for_it(
    settings: Settings, project: dict[str, dict[str, Any]]
) -> None:
    """On Redis's network, and started when it is healthy: so that none fails for being first."""
    wired = {
        name: (
            f"{settings.redis_name}_backend" in container["NetworkSettings"]["Networks"],
            f"{settings.redis_name}:service_healthy" in container["Config"]["Labels"]["com.docker.compose.depends_on"],
        )
        for name, container in project.items()
    }
    assert wired == {settings.redis_name: (True, False)} | dict.fromkeys(settings.redis_app_services, (True, True))
