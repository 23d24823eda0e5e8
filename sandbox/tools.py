"""Programs from Debian's archive, unpacked under `.sandbox/tools`.

They run from there. To install them would be hard to undo: maintainer scripts add groups, start daemons and create
directories that a purge keeps. Unpacked packages disappear with their directory, do not change dpkg's database, and
belong to one checkout. apt still chooses and verifies them.
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

# The PATH of a root shell that is no login shell often lacks the sbin directories.
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def environment() -> dict[str, str]:
    """Return the environment that unpacked programs need.

    It lets them find each other and their libraries.
    """
    # Packages from before the merge of /usr have files in `lib`.
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
    """Return the path of an installed or unpacked command; None if there is none."""
    return shutil.which(command, path=environment()["PATH"])


def provide(packages: Mapping[str, str]) -> dict[str, str]:
    """Unpack the Debian package of each command that this machine lacks.

    Return the environment for the commands. `packages` maps a command to its package.
    """
    missing = [package for command, package in packages.items() if find(command) is None]
    if missing:
        _unpack(missing, with_dependencies=True)
        # A maintainer script would choose one of the two iptables.
        for name in ("iptables", "ip6tables"):
            link, target = _TREE / "usr/sbin" / name, _TREE / "usr/sbin" / f"{name}-nft"
            if target.is_symlink() and not link.is_symlink():
                link.symlink_to(target.name)
    return environment()


def unpack_one(package: str) -> Path:
    """Unpack one package without its dependencies. Return the root directory."""
    _unpack([package], with_dependencies=False)
    return _TREE


def apt_get() -> list[str]:
    """Return the start of an apt-get command with the sandbox's lists and caches."""
    (_LISTS / "partial").mkdir(parents=True, exist_ok=True)
    return [
        *("apt-get", "--yes", "--quiet"),
        *("-o", f"Dir::State::Lists={_LISTS}", "-o", f"Dir::Cache={_CACHE}"),
        # These files need neither root nor the locks of this machine.
        *("-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User="),
        *("-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=20"),
    ]


def _unpack(packages: list[str], *, with_dependencies: bool) -> None:
    names = ", ".join(packages)
    if shutil.which("apt-get") is None:
        raise SandboxError(f"this machine lacks {names} and has no apt-get: install them")
    archives = _CACHE / "archives"
    shutil.rmtree(archives, ignore_errors=True)
    (archives / "partial").mkdir(parents=True)
    apt = apt_get()
    run_logged("packages", "reading Debian's package lists", [*apt, "update"], timeout=300)
    fetch = ["install", "--download-only", "--no-install-recommends"]
    if with_dependencies:
        run_logged("packages", f"fetching {names}", [*apt, *fetch, *packages], timeout=600)
    else:
        # `apt-get download` can only write to the current directory.
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
