"""Facts: what a host answers, in one SSH command each. The scripts are in files/, the reading is pure."""

import json
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from redoubt import deploylock, image, preflight, removal, render, service, tuning
from redoubt.settings import REDIS_GID, REDIS_UID
from redoubt.tree import Present
from redoubt.versions import Build

_FILES = Path(__file__).resolve().parent.parent / "files"


def script(filename: str, **variables: str) -> str:
    """A script of files/ with values for the variables that it expects."""
    assignments = "\n".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return f"{assignments}\n{(_FILES / filename).read_text()}"


class HostProbe(FactBase[preflight.HostFacts]):
    """What must be known of a host before a deploy: system, room, engine, who listens where."""

    def command(self, instance: str, root: str, image: str, calendar: str) -> str:
        paths = " ".join(knob.path for knob in tuning.KNOBS)
        return script("probe.sh", INSTANCE=instance, ROOT=root, IMAGE=image, KERNEL=paths, CALENDAR=calendar)

    def process(self, output: list[str]) -> preflight.HostFacts:
        try:
            return preflight.read(output)
        except ValueError as error:
            raise FactProcessError(str(error)) from error


class LockState(FactBase[deploylock.Answer]):
    """Who holds the lock of an instance; with the id of a deploy that is about to have it, whether that has it."""

    def command(self, instance: str, run: str) -> str:
        return script("lock-state.sh", INSTANCE=instance, RUN=run)

    def process(self, output: list[str]) -> deploylock.Answer:
        try:
            return deploylock.read(output)
        except ValueError as error:
            raise FactProcessError(f"the lock cannot be read: {error}") from error


class Unseen(str):
    """Text for a command's standard input, which pyinfra would show among a fact's arguments."""

    def __repr__(self) -> str:
        return "(not shown)"

    __str__ = __repr__


class Paths(FactBase[dict[str, Present]]):
    """Kind, mode, owner and digest of paths; those that do not exist are left out.

    Digests of ``secret`` paths are not told but compared with those on standard input, in sha256sum's format.
    """

    @staticmethod
    def default() -> dict[str, Present]:
        return {}

    def command(self, paths: Sequence[str], secret: Collection[str] = ()) -> str:
        names = " ".join(map(shlex.quote, paths))
        public = " ".join(shlex.quote(path) for path in paths if path not in secret)
        # A digest of what is no regular file is refused on standard error, as is a path that is not there.
        digests = f"sha256sum -- {public} 2>/dev/null; " if public else ""
        compared = "sha256sum --check - 2>/dev/null; " if secret else ""
        return f"stat -c '%f %u %g %n' -- {names} 2>/dev/null; {digests}{compared}true"

    def process(self, output: list[str]) -> dict[str, Present]:
        found: dict[str, Present] = {}
        digests: dict[str, str] = {}
        matching = set()
        for line in output:
            first, _, rest = line.partition(" ")
            if first.endswith(":"):
                if rest == "OK":
                    matching.add(first.removesuffix(":"))
            elif len(first) == 64:
                digests[rest.strip()] = first
            else:
                uid, gid, path = rest.split(" ", 2)
                found[path] = Present(int(first, 16), int(uid), int(gid))
        return {
            path: replace(there, digest=digests.get(path, ""), matches=path in matching)
            for path, there in found.items()
        }


class FileText(FactBase[str]):
    """The text of a file, for ``--diff``; empty when there is none."""

    @staticmethod
    def default() -> str:
        return ""

    def command(self, path: str) -> str:
        return f"cat -- {shlex.quote(path)} 2>/dev/null; true"

    def process(self, output: list[str]) -> str:
        return "".join(f"{line}\n" for line in output)


class InstalledPackages(FactBase[set[str]]):
    """Which of some Debian packages are installed."""

    @staticmethod
    def default() -> set[str]:
        return set()

    def command(self, names: Iterable[str]) -> str:
        # A name that dpkg never heard of is an error on standard error.
        packages = " ".join(map(shlex.quote, names))
        return f"dpkg-query --show --showformat '${{db:Status-Status}} ${{Package}}\\n' {packages} 2>/dev/null; true"

    def process(self, output: list[str]) -> set[str]:
        found = [line.split(" ", 1) for line in output]
        return {name for status, name in found if status == "installed"}


class Image(FactBase[dict[str, Any]]):
    """What the host's engine knows of an image; empty when it does not have it, or when there is no engine."""

    @staticmethod
    def default() -> dict[str, Any]:
        return {}

    def command(self, reference: str) -> str:
        return f"docker image inspect {shlex.quote(reference)} 2>/dev/null; true"

    def process(self, output: list[str]) -> dict[str, Any]:
        found = json.loads("".join(output))
        return found[0] if found else {}


class ImageBuild(FactBase[Build | None]):
    """The server in an image that the host has, by its labels and its own word; None when it does not answer."""

    def command(self, reference: str) -> str:
        return script("ask-version.sh", IMAGE=reference, OWNER=f"{REDIS_UID}:{REDIS_GID}")

    def process(self, output: list[str]) -> Build | None:
        config, *said = output
        if not config:
            # What the engine prints for an image that it does not have.
            return None
        return image.build_that_runs(json.loads(config), "\n".join(said))


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
class Said:
    """What a program printed, on both of its streams, and how it ended."""

    lines: tuple[str, ...]
    code: int


class Redisctl(FactBase[Said]):
    """What redisctl prints on the host."""

    def command(self, program: str, words: Sequence[str]) -> str:
        return f"{shlex.join([program, *words])} 2>&1 </dev/null; echo $?"

    def process(self, output: list[str]) -> Said:
        return Said(tuple(output[:-1]), int(output[-1]))


class InstanceState(FactBase[removal.Present]):
    """What there is of an instance on the host, deployed, stopped or removed in part."""

    @staticmethod
    def default() -> removal.Present:
        return removal.Present()

    def command(self, instance: str, root: str, units: Sequence[str], paths: Sequence[str]) -> str:
        return script("instance-state.sh", INSTANCE=instance, ROOT=root, UNITS=" ".join(units), PATHS=" ".join(paths))

    def process(self, output: list[str]) -> removal.Present:
        return removal.read(output)


class ServiceState(FactBase[service.ServiceState]):
    """The Compose service: definition, containers, image, files and running configuration.

    On standard input it is given the ACL file as it should be: passwords are compared on the host.
    """

    @staticmethod
    def default() -> service.ServiceState:
        return service.read([])

    def command(self, instance: str, root: str, reference: str, mounts: Sequence[tuple[str, str, str]]) -> str:
        pairs = " ".join(f"{directory}:{target}" for directory, target, _ in mounts)
        return script(
            "service-state.sh",
            INSTANCE=instance,
            ROOT=root,
            IMAGE=reference,
            MOUNTS=pairs,
            MADE_WITH=render.MADE_WITH,
        )

    def process(self, output: list[str]) -> service.ServiceState:
        try:
            return service.read(output)
        except (ValueError, KeyError) as error:
            raise FactProcessError(f"unexpected answer of the engine: {error!r}") from error
