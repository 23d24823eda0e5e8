"""Docker's ability to publish the ports of an instance.

A flushed firewall (``nft flush ruleset``, ``iptables -X``) lacks Docker's chains. Redis keeps serving, but no container
can publish a port when it starts, until Docker restarts. So before Redis stops, a container publishes an unused port.
"""

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from redisctl.core import docker, process
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance

T = TypeVar("T")

# Seconds for the trial container to start and end.
_TIMEOUT = 60
# The exit code of 'docker run' if Docker itself fails, and what Docker reports of a port.
_DOCKER_FAILED, _NOT_PUBLISHED = 125, "programming external connectivity"
# What Docker reports of a missing chain, and of a port that it holds for a container that is gone (moby#20486).
_RESTART_HELPS = ("iptables", "nftables", "port is already allocated")


def ensure_restartable(instance: Instance, addresses: Collection[str] = ()) -> None:
    """Raise Failure if a Redis that runs could not publish its ports after a restart.

    Does nothing if Redis does not run, and allows a restart if Redis's start can repair Docker. ``addresses`` are those
    that a deploy adds. Starts a container that publishes an unused port of the same addresses.
    """
    problem = find_problem(instance, addresses)
    if not problem:
        return
    if not _does_restart_help(problem):
        raise Failure(
            f"Redis could not start again, because Docker cannot publish its port: {problem}. The running Redis was "
            "left alone. Give the host the address, or deploy with another redis_bind"
        )
    others = [container["Name"] for container in _others(instance)]
    if others:
        raise Failure(
            f"Redis could not start again, because Docker cannot publish ports: {problem}. Its firewall rules were "
            f"removed, as by 'nft flush ruleset'. The running Redis was left alone. {_advice(others)}"
        )


def restart_warning(instance: Instance) -> str:
    """Return what to do before a start, if Docker cannot publish ports; else empty."""
    problem = find_problem(instance)
    if not problem:
        return ""
    return f"Redis may not start again, because Docker cannot publish ports: {problem}. Restart Docker before the start"


def find_problem(instance: Instance, addresses: Collection[str] = ()) -> str:
    """Return why the running Redis could not publish its ports again.

    Empty if it could, if it publishes none, or if it does not run.
    """
    instance.refresh_container()
    inspected = instance.container
    if not inspected.get("State", {}).get("Running"):
        return ""
    published = sorted({*addresses, *published_addresses(inspected)})
    if not published:
        return ""
    edge = f"{instance.name}_edge"
    network = edge if edge in inspected["NetworkSettings"]["Networks"] else "bridge"
    command = [
        *("docker", "run", "--rm", "--pull", "never", "--network", network, *docker.CONFINEMENT),
        *("--user", f"{instance.uid}:{instance.gid}"),
        *(word for address in published for word in ("--publish", _unused_port(address))),
        *docker.private_program(instance.image_id, "true"),
    ]
    result = process.run(command, timeout=_TIMEOUT)
    if result.returncode != _DOCKER_FAILED or _NOT_PUBLISHED not in result.stderr:
        return ""
    return _shorten(result.stderr)


def published_addresses(inspected: dict[str, Any]) -> set[str]:
    """Return the addresses on which a container publishes ports."""
    bindings = inspected["HostConfig"].get("PortBindings") or {}
    return {binding["HostIp"] or "0.0.0.0" for listed in bindings.values() for binding in listed or ()}


def _unused_port(address: str) -> str:
    """Return Docker's option for a port that Docker chooses."""
    return f"[{address}]::6379" if ":" in address else f"{address}::6379"


def _shorten(error: str) -> str:
    """Return the end of Docker's message, which has the reason."""
    reason = " ".join(error.split()).partition(_NOT_PUBLISHED)[2].partition(": ")[2].lstrip(" (")
    return re.sub(r"[ .]*(\(exit status \d+\))?[ .)]*$", "", reason)[:300]


def repairing(instance: Instance, start: Callable[[], T], *, at_boot: bool = False) -> T:
    """Start containers; if Docker cannot publish a port, restart Docker and repeat.

    Restarts Docker only if no other container runs, at boot also if Docker has just started the others. Raises Failure.
    """
    try:
        return start()
    except Failure as error:
        if not _does_restart_help(str(error)):
            raise
        policies = ("always", "unless-stopped") if at_boot else ()
        others = [
            container["Name"]
            for container in _others(instance)
            if container["HostConfig"]["RestartPolicy"]["Name"] not in policies
        ]
        if _does_run(instance):
            # Docker must not stop it: nothing would check that it saved.
            others.append(instance.name)
        if others:
            raise Failure(f"{error}\n{_advice(others)}") from None
    # systemd refuses a unit that was restarted several times in a minute.
    process.run(["systemctl", "reset-failed", "docker"])
    process.check(["systemctl", "restart", "docker"], timeout=docker.RESTART_TIMEOUT)
    docker.wait_until_answers()
    return start()


def _does_restart_help(error: str) -> bool:
    return any(text in error for text in _RESTART_HELPS)


def _others(instance: Instance) -> list[dict[str, Any]]:
    """Return the running containers that do not belong to the instance."""
    own = set(docker.project_containers(instance.name))
    running = process.check(["docker", "ps", "--quiet", "--no-trunc"]).split()
    return docker.inspect(*(name for name in running if name not in own))


def _does_run(instance: Instance) -> bool:
    state = docker.container(instance.name).get("State", {})
    return bool(state.get("Running") and not state.get("Restarting"))


def _advice(others: Iterable[str]) -> str:
    """Say how to repair Docker, and which containers that stops."""
    live_restore = process.run(["docker", "info", "--format", "{{.LiveRestoreEnabled}}"]).stdout.strip() == "true"
    names = ", ".join(sorted(name.removeprefix("/") for name in others))
    effect = (
        "which stops no container here (live-restore)"
        if live_restore
        else f"which stops {names} and starts those that have a restart policy"
    )
    return f"Run 'systemctl restart docker' on the host, {effect}; then try again"
