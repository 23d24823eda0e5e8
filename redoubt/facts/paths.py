"""The facts about paths: kind, mode, owner, digest and text."""

import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace

from pyinfra.api import FactBase

from redoubt.facts.script import pinned
from redoubt.filesystem import PathState


class HiddenStdin(str):
    """Text for a command's standard input that does not appear in output.

    pyinfra would show it among a fact's arguments.
    """

    def __repr__(self) -> str:
        return "(not shown)"

    __str__ = __repr__


class Paths(FactBase[dict[str, PathState]]):
    """Kind, mode, owner and digest of paths; those that do not exist are left out.

    The digests of ``secret`` paths stay on the host, which compares them with those on standard input, in sha256sum's
    format.
    """

    @staticmethod
    def default() -> dict[str, PathState]:
        return {}

    def command(self, paths: Sequence[str], secret: Collection[str] = ()) -> str:
        names = " ".join(map(shlex.quote, paths))
        public = " ".join(shlex.quote(path) for path in paths if path not in secret)
        # sha256sum reports directories and missing paths on standard error.
        digests = f"sha256sum -- {public} 2>/dev/null; " if public else ""
        comparison = "sha256sum --check - 2>/dev/null; " if secret else ""
        return pinned(f"stat -c '%f %u %g %n' -- {names} 2>/dev/null; {digests}{comparison}true")

    def process(self, output: list[str]) -> dict[str, PathState]:
        states: dict[str, PathState] = {}
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
                states[path] = PathState(int(first, 16), int(uid), int(gid))
        return {
            path: replace(state, digest=digests.get(path, ""), matches=path in matching)
            for path, state in states.items()
        }


class FileText(FactBase[str]):
    """The text of a file, for ``--diff``; empty if there is no file."""

    @staticmethod
    def default() -> str:
        return ""

    def command(self, path: str) -> str:
        return pinned(f"cat -- {shlex.quote(path)} 2>/dev/null; true")

    def process(self, output: list[str]) -> str:
        return "".join(f"{line}\n" for line in output)
