"""The running container: limits, privileges and mounts, as the kernel has them."""

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
    """Return all containers of the Compose project by service, running or not."""
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
    """The kernel kills a Redis that exceeds its limit, and the host keeps running."""
    assert kernel.limits.memory == settings.memory_limit // PAGE * PAGE


def test_memory_limit_exceeds_maxmemory(kernel: Kernel, config: dict[str, str]) -> None:
    """The limit is at least 1.25 times maxmemory.

    With a limit equal to maxmemory the kernel kills Redis while it fills or saves (measured).
    """
    assert kernel.limits.memory is not None
    assert kernel.limits.memory >= 1.25 * int(config["maxmemory"])


def test_memory_is_reserved(kernel: Kernel, settings: Settings) -> None:
    """The kernel tries to leave this much to Redis if the host runs short of memory."""
    assert kernel.limits.reservation == settings.memory_reservation // PAGE * PAGE


@pytest.mark.security("container isolation")
def test_redis_never_swaps(kernel: Kernel) -> None:
    """The limit for swap is zero, because a swapping Redis stalls every client."""
    assert kernel.limits.swap == 0


@pytest.mark.security("container isolation")
@pytest.mark.writes
def test_limits_survive_a_reload_of_systemd(target: Target) -> None:
    """The limits are the same after a daemon-reload and a new unit.

    systemd then sets the limits of all units again, from what it knows.
    """
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
    """The limit is a quota of cores."""
    # systemd rounds a quota to hundredths of a core.
    assert kernel.limits.cpus == pytest.approx(settings.redis_container_cpus, abs=0.01)


def test_cpu_reservation_is_a_weight(kernel: Kernel, settings: Settings) -> None:
    """The kernel reserves CPU only by weights; 1024 shares are one core."""
    shares = max(2, int(settings.redis_container_cpu_reservation * 1024))
    assert kernel.limits.weight in weights(shares, kernel.limits.version)


@pytest.mark.security("container isolation")
def test_processes_are_limited(kernel: Kernel, settings: Settings) -> None:
    """A fork bomb stays within the container."""
    assert kernel.limits.pids == settings.redis_container_pids


@pytest.mark.security("container isolation")
def test_open_files_suffice_for_all_clients(kernel: Kernel, settings: Settings) -> None:
    """With a lower limit Redis reduces maxclients and only logs it."""
    limits = {process.name: process.status["Nofile"] for process in kernel.processes}
    assert set(limits.values()) == {f"{settings.nofile} {settings.nofile}"}, limits
    assert settings.nofile >= settings.redis_maxclients + 64


# -- Privileges


@pytest.mark.security("container isolation")
@pytest.mark.parametrize("kind", ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
def test_no_process_has_a_capability(kernel: Kernel, kind: str) -> None:
    """No process can gain one either, because the bounding set is empty."""
    assert {process.name: int(process.status[kind], 16) for process in kernel.processes} == {
        process.name: 0 for process in kernel.processes
    }


@pytest.mark.security("container isolation")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Uid", "{uid}\t{uid}\t{uid}\t{uid}"),
        ("Gid", "{gid}\t{gid}\t{gid}\t{gid}"),
        # No program gains rights through its file's mode.
        ("NoNewPrivs", "1"),
        # System calls are filtered.
        ("Seccomp", "2"),
        # No core dumps: 1 byte is less than the kernel writes, and also stops a pipe to a program (core(5)).
        ("Core", "1 1"),
    ],
)
def test_processes_run_without_privileges(kernel: Kernel, settings: Settings, field: str, value: str) -> None:
    """All four user and group ids are those of the settings, with a seccomp filter.

    The processes cannot gain new privileges, and leave no core dump.
    """
    expected = value.format(uid=settings.redis_uid, gid=settings.redis_gid)
    assert {process.name: process.status[field] for process in kernel.processes} == {
        process.name: expected for process in kernel.processes
    }


@pytest.mark.security("file permissions")
def test_redis_creates_files_for_itself_alone(kernel: Kernel) -> None:
    """The umask takes all rights of the group and of others from what Redis creates."""
    assert kernel.processes[-1].status["Umask"] == "0077"


@pytest.mark.security("container isolation")
def test_processes_are_in_no_other_groups(kernel: Kernel, settings: Settings) -> None:
    """A further group would open the host's files of that group."""
    assert {group for process in kernel.processes for group in process.status["Groups"].split()} <= {
        str(settings.redis_gid)
    }


@pytest.mark.security("container isolation")
def test_no_namespace_is_shared_with_the_host(kernel: Kernel) -> None:
    """Redis has its own processes, network, mounts, host name and IPC."""
    assert {process.name: process.shared_namespaces for process in kernel.processes} == {
        process.name: set() for process in kernel.processes
    }


@pytest.mark.security("container isolation")
def test_docker_adds_no_rights(container: dict[str, Any]) -> None:
    """The container has no devices and no capabilities, and is not privileged."""
    options = container["HostConfig"]
    assert not options["Privileged"]
    assert not options["Devices"]
    assert not options["CapAdd"]


# -- Mounts


@pytest.mark.security("container isolation")
def test_only_data_and_logs_are_writable(kernel: Kernel, settings: Settings) -> None:
    """Redis can write only its data, its logs and the directory of its socket.

    A compromised server can change neither its program, nor its configuration, nor a backup.
    """
    memory_only = {"proc", "tmpfs", "devpts", "mqueue"}
    writable = {mount.point for mount in kernel.mounts if mount.writable and mount.filesystem not in memory_only}
    socket = {"/run/redis"} if settings.redis_unix_socket else set()
    assert writable == {"/data", "/var/log/redis"} | socket


@pytest.mark.security("container isolation")
def test_writable_memory_is_what_docker_needs(kernel: Kernel, settings: Settings) -> None:
    """Writable memory is for devices, shared memory and Redis's socket.

    The shared memory has a fixed size. There is no /tmp.
    """
    writable = {mount.point for mount in kernel.mounts if mount.writable and mount.filesystem in ("tmpfs", "mqueue")}
    outside_of_system = {point for point in writable if not point.startswith(("/proc/", "/sys/"))}
    socket = set() if settings.redis_unix_socket else {"/run/redis"}
    assert outside_of_system == {"/dev", "/dev/mqueue", "/dev/shm"} | socket


@pytest.mark.security("container isolation")
@pytest.mark.parametrize("point", ["/", "/etc/redis", "/run/secrets", "/backups"])
def test_mount_is_read_only(kernel: Kernel, point: str) -> None:
    """The mount is read-only, whatever the modes of the files."""
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
def test_directories_are_mounted_from_the_host(
    settings: Settings, container: dict[str, Any], path: str, source: str
) -> None:
    """Docker would delete data in an anonymous volume together with the container."""
    sources = {mount["Destination"]: mount["Source"] for mount in container["Mounts"]}
    assert sources[path] == f"{settings.root}/{source}"


def test_docker_creates_no_missing_directory(settings: Settings, container: dict[str, Any]) -> None:
    """Without its directory the container does not start with an empty one.

    The directory may be missing because its disk is not mounted. Docker creates missing sources of Binds, but not of
    Mounts unless they say so.
    """
    options = container["HostConfig"]
    assert not options["Binds"]
    mounts = {mount["Target"]: mount for mount in options["Mounts"]}
    assert set(mounts) == {mount["Destination"] for mount in container["Mounts"] if mount["Type"] == "bind"}
    assert mounts["/data"]["Source"] == f"{settings.root}/data/live"
    assert [path for path, mount in mounts.items() if mount["BindOptions"].get("CreateMountpoint")] == []


@pytest.mark.security("container isolation")
@pytest.mark.parametrize(
    ("user", "paths"), [("root", ["/", "/usr/bin"]), ("redis", ["/etc/redis", "/run/secrets", "/backups"])]
)
def test_write_to_read_only_mount_fails(target: Target, user: str, paths: list[str]) -> None:
    """The write fails for a user that the directory's mode allows to write."""
    errors = _touch(target, "0:0" if user == "root" else target.settings.owner, paths)
    assert [line.rpartition(": ")[2] for line in errors] == ["Read-only file system"] * len(paths), errors


@pytest.mark.writes
def test_redis_can_write_data_and_logs(target: Target) -> None:
    """Mount, owner and mode together allow it."""
    assert _touch(target, target.settings.owner, ["/data", "/var/log/redis"]) == []


def _touch(target: Target, owner: str, directories: list[str]) -> list[str]:
    """Create and remove a file in directories of the container. Return the errors."""
    script = f'for d in "$@"; do touch "$d/{target.mark}" && rm "$d/{target.mark}"; done 2>&1'
    name = quoted(target.settings.redis_name)
    inside = quoted("sh", "-c", script, "sh", *directories)
    result = target.host.run(f"docker exec --user {owner} --env LC_ALL=C {name} {inside}")
    return [*result.stdout.splitlines(), *result.stderr.splitlines()]


# -- Supervision


def test_docker_restarts_redis(settings: Settings, container: dict[str, Any]) -> None:
    """The restart policy covers crashes and reboots.

    A stop takes it away; a deploy or a start puts it back.
    """
    assert container["HostConfig"]["RestartPolicy"]["Name"] == settings.redis_restart


def test_stop_timeout_is_long_enough_to_save(target: Target, settings: Settings, container: dict[str, Any]) -> None:
    """Docker's default of 10 seconds would kill a Redis that is still writing.

    Compose uses its file. Docker itself uses the value that the container was created with, which may be older than a
    live change of redis_maxmemory. That loses nothing with an AOF, which Redis flushes first.
    """
    text = target.host.check_output(f"docker compose --project-directory {quoted(settings.root)} config --format json")
    grace = json.loads(text)["services"][settings.redis_name]["stop_grace_period"]
    minutes, _, seconds = grace.removesuffix("s").rpartition("m")
    assert int(minutes or 0) * 60 + int(seconds) == settings.stop_grace_period
    created_with = json.loads(container["Config"]["Labels"]["redoubt.live"])["stop_grace_period"]
    assert container["Config"]["StopTimeout"] == int(created_with.removesuffix("s"))
    has_override = (
        target.host.run(f"grep -qsx '# {container['Id']}' {quoted(settings.root)}/compose.created.yml").rc == 0
    )
    if not has_override or not settings.redis_appendonly:
        assert container["Config"]["StopTimeout"] == settings.stop_grace_period


def test_project_runs_exactly_the_configured_services(settings: Settings, project: dict[str, dict[str, Any]]) -> None:
    """No service is missing or unknown.

    A service without a restart policy may have finished successfully.
    """
    finished = {
        name
        for name, container in project.items()
        if container["HostConfig"]["RestartPolicy"]["Name"] in ("", "no")
        and (container["State"]["Status"], container["State"]["ExitCode"]) == ("exited", 0)
    }
    running = {name for name, container in project.items() if container["State"]["Status"] == "running"}
    assert running | finished == {settings.redis_name, *settings.redis_app_services}
    assert set(project) == running | finished
    assert settings.redis_name in running


def test_application_services_wait_for_redis(settings: Settings, project: dict[str, dict[str, Any]]) -> None:
    """They are on Redis's network and start once Redis is healthy.

    So none fails because it starts first.
    """
    dependencies = {
        name: (
            f"{settings.redis_name}_backend" in container["NetworkSettings"]["Networks"],
            f"{settings.redis_name}:service_healthy" in container["Config"]["Labels"]["com.docker.compose.depends_on"],
        )
        for name, container in project.items()
    }
    assert dependencies == {settings.redis_name: (True, False)} | dict.fromkeys(
        settings.redis_app_services, (True, True)
    )
