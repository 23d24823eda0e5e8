"""The facts about systemd units, and about what there is of an instance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase

from redoubt.facts.script import script


class NetworkState(FactBase[list[str]]):
    """How the filter before the published port differs from its file, in words; empty when it does not."""

    @staticmethod
    def default() -> list[str]:
        return []

    def command(self, table: str, unit: str, rules: str) -> str:
        return script("network-state.sh", TABLE=table, UNIT=unit, RULES=rules)

    def process(self, output: list[str]) -> list[str]:
        return list(output)


class TimerState(FactBase[list[str]]):
    """How the schedule of backups differs from its units, in words; empty when it does not."""

    @staticmethod
    def default() -> list[str]:
        return []

    def command(self, timer: str, job: str) -> str:
        return script("timer-state.sh", TIMER=timer, JOB=job)

    def process(self, output: list[str]) -> list[str]:
        return list(output)


@dataclass(frozen=True)
class InstancePresence:
    """What there is of an instance. ``paths`` have their sizes in KiB, ``containers`` their state, such as exited.

    ``healthy`` are those whose health check passes. ``running_verb`` is the verb of redisctl that works on the data,
    and ``interrupted_restore`` what was broken off while it put other data in its place; ``upgrading`` says that an
    upgrade was.
    """

    active: frozenset[str] = frozenset()
    enabled: frozenset[str] = frozenset()
    containers: tuple[tuple[str, str], ...] = ()
    healthy: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()
    paths: tuple[tuple[str, int], ...] = ()
    running_verb: str = ""
    interrupted_restore: str = ""
    upgrading: bool = False

    @property
    def running(self) -> list[str]:
        """The names of containers that are not stopped."""
        return [name for name, status in self.containers if status not in ("exited", "created", "dead")]


class InstanceState(FactBase[InstancePresence]):
    """What there is of an instance on the host, deployed, stopped or removed in part."""

    @staticmethod
    def default() -> InstancePresence:
        return InstancePresence()

    def command(self, instance: str, root: str, units: Sequence[str], paths: Sequence[str]) -> str:
        return script("instance-state.sh", INSTANCE=instance, ROOT=root, UNITS=" ".join(units), PATHS=" ".join(paths))

    def process(self, output: list[str]) -> InstancePresence:
        return parse_instance_state(output)


def parse_instance_state(lines: Iterable[str]) -> InstancePresence:
    """What ``files/instance-state.sh`` prints."""
    words = [line.split() for line in lines]
    containers = [line[1:] for line in words if line[0] == "container"]
    rest = {line[0]: " ".join(line[1:]) for line in words if line[0] in ("held", "replacing")}
    return InstancePresence(
        active=frozenset(line[1] for line in words if line[0] == "active"),
        enabled=frozenset(line[1] for line in words if line[0] == "enabled"),
        containers=tuple((one[0].removeprefix("/"), one[1]) for one in containers),
        healthy=frozenset(one[0].removeprefix("/") for one in containers if one[2:] == ["healthy"]),
        networks=tuple(line[1] for line in words if line[0] == "network"),
        paths=tuple((line[2], int(line[1])) for line in words if line[0] == "path"),
        running_verb=rest.get("held", ""),
        interrupted_restore=rest.get("replacing", ""),
        upgrading=["upgrading", "yes"] in words,
    )
