"""What this command knows of each host.

One inspection serves all operations until one of them changes what it found. SSH round trips are the cost of a deploy.
A deploy that changes nothing inspects a host's files with one command, and its instance with another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any
from weakref import WeakKeyDictionary

from pyinfra.api import Host

from redisctl import paths, schema
from redisctl.schema import InstanceState, StateRequest, UnitState
from redoubt import host_files, redisctl_bundle
from redoubt.facts.host import HostFacts, HostProbe
from redoubt.facts.instance import Instance as InstanceFact
from redoubt.facts.paths import HiddenStdin, Paths
from redoubt.filesystem import AbsentPath, DesiredDirectory, DesiredFile, PathState, pack
from redoubt.settings.model import Settings

Entry = DesiredDirectory | DesiredFile | AbsentPath


class Changes(Enum):
    """What a change of the host makes outdated in its inspections."""

    # It saves the configuration: the operations after it decide as before, because Redis restarts in any case.
    NOTHING = auto()
    # It neither writes a unit file nor enables a unit. It may start units that stop by themselves, or start some again.
    ALL_BUT_UNITS = auto()
    ALL = auto()


@dataclass
class HostState:
    """The last inspection of a host.

    ``None`` stands for what must be inspected again. ``run`` is the id under which this command holds the instance's
    lock, empty without one. ``redisctl`` is the digest of the redisctl that is installed. ``entries`` are all files and
    directories of the deploy, so that the first operation that needs one asks for all of them.
    """

    run: str = ""
    redisctl: str = ""
    entries: Sequence[Entry] = ()
    _paths: Mapping[str, PathState] | None = None
    _asked: frozenset[str] = frozenset()
    _instance: InstanceState | None = field(default=None, repr=False)
    _units: Mapping[str, UnitState] | None = None
    # Until the host changes: without Python redisctl cannot run, and without Docker there is no instance.
    _has_no_instance: bool = False
    # The ACL file that the instance's users were compared with. Also in the next inspection: a caller that does not ask
    # for them comes between two that do.
    _acl: str = field(default="", repr=False)

    def forget(self, changes: Changes = Changes.ALL) -> None:
        """Discard the inspections that a change of the host is about to make outdated."""
        if changes is Changes.NOTHING:
            return
        self._paths = None
        self._instance = None
        self._has_no_instance = False
        if changes is Changes.ALL:
            self._units = None

    def path_states(self, host: Host, entries: Sequence[Entry]) -> Mapping[str, PathState]:
        """Return what these paths are on the host; those that do not exist are left out."""
        if self._paths is None or not set(map(_key, entries)) <= self._asked:
            # By path: a rotation asks about other contents for a path of the deploy, and one digest is compared.
            requested = {entry.path for entry in entries}
            together = [*entries, *(entry for entry in self.entries if entry.path not in requested)]
            self._paths = _inspect_paths(host, together)
            self._asked = frozenset(map(_key, together))
        return self._paths

    def instance(self, host: Host, settings: Settings, acl: str = "", *, sizes: bool = False) -> InstanceState:
        """Return the state of the instance.

        Runs the redisctl of this release, without installing it.
        """
        if self._has_no_instance:
            return InstanceState()
        if self._instance is None or (sizes and not self._instance.sizes) or acl not in ("", self._acl):
            self._acl = acl or self._acl
            self._instance = _inspect_instance(
                host, settings, self._acl, installed=self.redisctl, run=self.run, sizes=sizes
            )
            self._units = self._instance.units
        return self._instance

    def units(self, host: Host, settings: Settings) -> Mapping[str, UnitState]:
        """Return the instance's systemd units.

        They stay known over changes that did not touch them.
        """
        return self.instance(host, settings).units if self._units is None else self._units

    def inspect(self, host: Host, settings: Settings, acl: str = "", *, sizes: bool = False) -> HostFacts | None:
        """Inspect a host from scratch; None if it did not answer as expected."""
        self.forget()
        facts: HostFacts | None = host.get_fact(
            HostProbe,
            instance=settings.redis_name,
            root=settings.root,
            calendar=settings.redis_backup_schedule,
            owner=settings.redis_uid,
        )
        if facts is None or facts.uid != 0:
            return facts
        self.redisctl = facts.redisctl
        # A host without Docker and without the instance's directory has no instance.
        if not facts.has_python or not (facts.has_root or facts.docker):
            self._has_no_instance = True
            return facts
        return facts.with_instance(self.instance(host, settings, acl, sizes=sizes))


_states: "WeakKeyDictionary[Host, HostState]" = WeakKeyDictionary()


def of(host: Host) -> HostState:
    """Return what is known of a host."""
    return _states.setdefault(host, HostState())


def _key(entry: Entry) -> str:
    # A secret's digest is compared on the host, so the answer holds for this content alone.
    return f"{entry.path} {entry.digest}" if isinstance(entry, DesiredFile) and entry.secret else entry.path


def _inspect_paths(host: Host, entries: Sequence[Entry]) -> Mapping[str, PathState]:
    secret = {entry.path: entry.digest for entry in entries if isinstance(entry, DesiredFile) and entry.secret}
    states: dict[str, PathState] = host.get_fact(
        Paths,
        paths=list(dict.fromkeys(entry.path for entry in entries)),
        secret=list(secret),
        _stdin=HiddenStdin("".join(f"{digest}  {path}\n" for path, digest in secret.items())),
    )
    return states


def _inspect_instance(
    host: Host, settings: Settings, acl: str, *, installed: str, run: str, sizes: bool
) -> InstanceState:
    request = StateRequest(
        name=settings.redis_name,
        root=settings.root,
        run=run,
        image=settings.redis_image,
        mounts=tuple((directory, target) for directory, target, _ in host_files.mounts(settings)),
        acl=acl,
        sizes=sizes,
    )
    is_current = installed == redisctl_bundle.digest()
    stdin: Any = f"{schema.dump(request)}\n"
    if not is_current:
        stdin += pack(redisctl_bundle.archive())
    state: InstanceState = host.get_fact(
        InstanceFact,
        program=f"{settings.root}/{paths.PROGRAM}" if is_current else "",
        _stdin=HiddenStdin(stdin),
    )
    return state
