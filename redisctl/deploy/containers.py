"""What Docker reports of containers and networks, also of other instances."""

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from redisctl import paths
from redisctl.core import docker, process
from redisctl.core.instance import Instance
from redisctl.schema import Container, Network, OtherInstance

# The limits in docker inspect that docker update can change without a trace in Compose's hash.
_LIMITS = ("Memory", "MemoryReservation", "NanoCpus", "CpuShares", "PidsLimit")


def is_service(inspected: dict[str, Any]) -> bool:
    """Say whether Compose made it as a service.

    A container made by hand or with ``docker compose run`` is none.
    """
    labels = inspected["Config"]["Labels"]
    return docker.HASH_LABEL in labels and labels.get(docker.ONE_OFF_LABEL) != "True"


def parse_container(inspected: dict[str, Any]) -> Container:
    labels, state, limits = inspected["Config"]["Labels"], inspected["State"], inspected["HostConfig"]
    return Container(
        name=inspected["Name"].removeprefix("/"),
        service=labels.get(docker.SERVICE_LABEL, ""),
        config_hash=labels[docker.HASH_LABEL],
        image_id=inspected["Image"],
        status=state["Status"],
        health=(state.get("Health") or {}).get("Status"),
        started=_seconds(state["StartedAt"]),
        networks=frozenset(inspected["NetworkSettings"]["Networks"]),
        limits={
            **{name: limits.get(name) for name in _LIMITS},
            "RestartPolicy": (limits.get("RestartPolicy") or {}).get("Name"),
        },
        definition=labels.get(docker.DEFINITION_LABEL, ""),
        created_with=labels.get("redoubt.live", ""),
        stop_grace=inspected["Config"].get("StopTimeout"),
    )


def _seconds(timestamp: str) -> float:
    """Docker's RFC 3339 time with nanoseconds, to the microsecond."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00").timestamp()


def override_is_for(path: Path, container_id: str) -> bool:
    """Say whether the override file was written for this container."""
    try:
        with path.open(encoding="utf-8") as file:
            return bool(container_id) and file.readline().strip() == f"# {container_id}"
    except OSError:
        return False


def compose_hashes(instance: Instance, *, override: bool) -> dict[str, str]:
    """Return Compose's hashes of the services.

    Returns nothing if Compose does not accept the file.
    """
    result = process.run(docker.compose(instance.root, instance.name, "config", "--hash", "*", override=override))
    lines = (line.split() for line in result.stdout.splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2} if result.returncode == 0 else {}


def networks(name: str) -> dict[str, Network]:
    result = process.run(["docker", "network", "inspect", f"{name}_backend", f"{name}_edge"])
    return {network["Name"]: _network(network) for network in json.loads(result.stdout or "[]")}


def _network(inspected: dict[str, Any]) -> Network:
    # Docker masquerades by default.
    options = inspected["Options"] or {}
    option = options.get("com.docker.network.bridge.enable_ip_masquerade", "true")
    subnets = [config.get("Subnet", "") for config in inspected["IPAM"]["Config"] or ()]
    return Network(
        internal=inspected["Internal"],
        masquerade=not inspected["Internal"] and option != "false",
        bridge=options.get("com.docker.network.bridge.name", ""),
        subnet=next((subnet for subnet in subnets if ":" not in subnet), ""),
        members=frozenset(member["Name"] for member in (inspected["Containers"] or {}).values()),
    )


def of_instances(name: str, listed: Iterable[docker.Listed]) -> list[str]:
    """Return the ids of the containers that matter to an instance.

    These are its project's, the one with its name, and the services of the other instances.
    """
    return [
        container.id
        for container in listed
        if container.project == name or name in container.names or (container.definition and not container.one_off)
    ]


def other_instances(name: str, inspected: Iterable[dict[str, Any]]) -> tuple[OtherInstance, ...]:
    """Return the other instances on the host, also those that do not run.

    ``inspected`` is what Docker reports of the containers of all instances. ``docker compose down`` removes the
    containers and networks of an instance. Its next start needs its edge network.
    """
    others = {
        project: OtherInstance(project, f"{root}/{paths.LIVE}", 0, (), subnet)
        for project, root in _deployed_roots()
        if project != name and (subnet := _edge_subnet(root))
    }
    for container in inspected:
        labels = container["Config"]["Labels"] or {}
        project = labels.get(docker.PROJECT_LABEL, "")
        is_instance = docker.DEFINITION_LABEL in labels and labels.get(docker.ONE_OFF_LABEL) != "True"
        if project != name and is_instance:
            directory, memory = data_directory(container), container["HostConfig"]["Memory"]
            subnet = _edge_subnet(directory.removesuffix(f"/{paths.LIVE}"))
            others[project] = OtherInstance(project, directory, memory, published(container), subnet)
    return tuple(others.values())


def _deployed_roots() -> Iterator[tuple[str, str]]:
    """Yield the name and the root of each deployed instance.

    A unit loads its network filter at boot.
    """
    suffix = f"-{paths.NETWORK_SERVICE}"
    for unit in Path(paths.SYSTEMD_UNITS).glob(f"*{suffix}"):
        if root := _find(unit, rf"ExecStart=nft -f (/.+)/{paths.NETWORK_FILTER}"):
            yield unit.name.removesuffix(suffix), root


def _edge_subnet(root: str) -> str:
    """Return the edge network in an instance's Compose file; empty if there is none."""
    subnet = _find(Path(root, paths.COMPOSE_FILE), r" +- subnet: (\S+)") if root else ""
    try:
        return str(ipaddress.IPv4Network(subnet, strict=False))
    except ValueError:
        return ""


def _find(file: Path, line: str) -> str:
    """Return the group of the first line that matches.

    Empty if there is none, or no file.
    """
    try:
        match = re.search(f"^{line}$", file.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return match[1] if match else ""


def published(inspected: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    bindings = inspected["HostConfig"]["PortBindings"] or {}
    return tuple(
        (binding["HostIp"] or "0.0.0.0", int(binding["HostPort"]))
        for listed in bindings.values()
        for binding in listed or ()
        if binding["HostPort"]
    )


def data_directory(inspected: dict[str, Any]) -> str:
    return next((mount["Source"] for mount in inspected.get("Mounts", []) if mount["Destination"] == "/data"), "")


def foreign(name: str, own: dict[str, Any]) -> str:
    if not own:
        return ""
    project = (own["Config"]["Labels"] or {}).get(docker.PROJECT_LABEL, "")
    return "" if project == name else f"{project} {own['Image']}".strip()
