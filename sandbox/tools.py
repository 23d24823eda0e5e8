"""Programs from Debian's archive, unpacked under `.sandbox/tools` and run from there.

Installing them would be simpler to write and harder to take back: maintainer scripts
add groups, start daemons and leave directories that a purge keeps. Unpacked packages
are gone with their directory, do not touch dpkg's database, and two checkouts cannot
take them away from each other. apt still does the choosing and the verifying.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from sandbox.util import STATE, SandboxError, run_logged, say

TOOLS = STATE / "tools"
_TREE = TOOLS / "root"
_LISTS = TOOLS / "lists"
_CACHE = TOOLS / "cache"

# A root shell without a login shell's profile often lacks the sbin directories.
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def environment() -> dict[str, str]:
    """The environment in which unpacked programs find each other and their libraries."""
    # `lib` beside `usr/lib`: packages from before the merge of /usr still ship files there.
    libraries = [_TREE / top / sysconfig.get_config_var("MULTIARCH") for top in ("usr/lib", "lib")]
    own = [str(_TREE / path) for path in ("usr/sbin", "usr/bin", "sbin", "bin")]
    path = [*os.environ.get("PATH", "").split(":"), *_SYSTEM_PATH, *own]
    env = dict(os.environ, PATH=":".join(dict.fromkeys(filter(None, path))))
    if _TREE.exists():
        env["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
        if (libraries[0] / "xtables").is_dir():
            env["XTABLES_LIBDIR"] = str(libraries[0] / "xtables")
    return env


def find(command: str) -> str | None:
    """Where a command is, on the machine or unpacked; None if it is in neither place."""
    return shutil.which(command, path=environment()["PATH"])


def provide(packages: Mapping[str, str]) -> dict[str, str]:
    """Unpack the Debian package of every command that the machine lacks.

    `packages` maps a command to its package. Returns the environment to run them in.
    """
    missing = [package for command, package in packages.items() if find(command) is None]
    if missing:
        _unpack(missing, with_dependencies=True)
        # Debian chooses between the two iptables in a maintainer script, which did not run.
        for name in ("iptables", "ip6tables"):
            link, target = _TREE / "usr/sbin" / name, _TREE / "usr/sbin" / f"{name}-nft"
            if target.is_symlink() and not link.is_symlink():
                link.symlink_to(target.name)
    return environment()


def unpack_one(package: str) -> Path:
    """Unpack one package without what it depends on; return the tree it is in."""
    _unpack([package], with_dependencies=False)
    return _TREE


def apt_get() -> list[str]:
    """The start of an apt-get command that leaves the machine's lists and caches as they are."""
    (_LISTS / "partial").mkdir(parents=True, exist_ok=True)
    return [
        *("apt-get", "--yes", "--quiet"),
        *("-o", f"Dir::State::Lists={_LISTS}", "-o", f"Dir::Cache={_CACHE}"),
        # What belongs to us needs neither root nor the machine's locks.
        *("-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User="),
        *("-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=20"),
    ]


def _unpack(packages: list[str], *, with_dependencies: bool) -> None:
    names = ", ".join(packages)
    if shutil.which("apt-get") is None:
        raise SandboxError(f"this machine lacks {names} and has no apt-get to fetch them with")
    archives = _CACHE / "archives"
    shutil.rmtree(archives, ignore_errors=True)
    (archives / "partial").mkdir(parents=True)
    apt = apt_get()
    run_logged("packages", "reading Debian's package lists", [*apt, "update"], timeout=300)
    fetch = ["install", "--download-only", "--no-install-recommends"]
    if with_dependencies:
        run_logged("packages", f"fetching {names}", [*apt, *fetch, *packages], timeout=600)
    else:
        # `download` writes to the current directory only.
        run_logged(
            "packages",
            f"fetching {names}",
            ["sh", "-c", 'cd "$0" && exec "$@"', archives, *apt, "download", *packages],
            timeout=300,
        )
    _TREE.mkdir(exist_ok=True)
    debs = sorted(archives.glob("*.deb"))
    say("packages", f"unpacking {len(debs)} under {TOOLS.relative_to(STATE.parent)}/")
    for deb in debs:
        subprocess.run(["dpkg-deb", "--extract", deb, _TREE], check=True)
    shutil.rmtree(archives)
