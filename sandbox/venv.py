"""Makes `.venv` from the hashed requirements: `python3 -m sandbox.venv`.

Runs before anything is installed, so it and what it imports use the standard library only.
Debian splits pip off from Python; where that part is missing it is unpacked, not installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import venv

from sandbox import tools
from sandbox.util import ROOT, SandboxError, run_logged, say

VENV = ROOT / ".venv"


def make() -> None:
    """Make `.venv` anew and install the locked requirements into it."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whatever `python3` is on this machine gets here
        raise SandboxError(f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}")
    with_pip = importlib.util.find_spec("ensurepip") is not None
    if VENV.is_symlink():
        # venv.create would empty the directory that the link leads to, and then fail.
        raise SandboxError(f"{VENV} is a link, and what it leads to would be emptied: remove the link, then try again")
    environment = dict(os.environ)
    say("venv", f"making {VENV} with Python {sys.version.split()[0]}")
    venv.create(VENV, clear=True, with_pip=with_pip, symlinks=True)
    if not with_pip:
        wheels = tools.unpack_one("python3-pip-whl") / "usr/share/python-wheels"
        environment["PYTHONPATH"] = str(next(wheels.glob("pip-*.whl")))
    run_logged(
        "venv",
        "installing what requirements.txt locks",
        [
            *(str(VENV / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"),
            # No cache in the home directory, which `make clean` would leave; no byte code of
            # modules that nobody imports, which is a third of the time.
            *("--no-cache-dir", "--no-compile"),
            *("--require-hashes", "--requirement", str(ROOT / "requirements.txt")),
        ],
        env=environment,
        timeout=900,
    )


if __name__ == "__main__":
    try:
        make()
    except SandboxError as error:
        # Refuses a link, so the directory behind one stays.
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit(f"error: {error}")
