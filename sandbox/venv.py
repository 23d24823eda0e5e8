"""The virtual environment `.venv`, created by `python3 -m sandbox.venv`.

It has the packages of requirements.txt, checked by hash. This runs before anything is installed, so it imports only the
standard library. On Debian without pip, the package of pip is unpacked instead of installed.
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
    """Recreate `.venv` and install the locked requirements. Raises SandboxError."""
    if sys.version_info < (3, 11):  # noqa: UP036 - `python3` may be any version here
        raise SandboxError(f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}")
    with_pip = importlib.util.find_spec("ensurepip") is not None
    if VENV.is_symlink():
        # venv.create would empty the directory that the link leads to, and then fail.
        raise SandboxError(f"{VENV} is a link, whose directory would be emptied: remove the link and try again")
    environment = dict(os.environ)
    say("venv", f"creating {VENV} with Python {sys.version.split()[0]}")
    venv.create(VENV, clear=True, with_pip=with_pip, symlinks=True)
    if not with_pip:
        wheels = tools.unpack_one("python3-pip-whl") / "usr/share/python-wheels"
        environment["PYTHONPATH"] = str(next(wheels.glob("pip-*.whl")))
    run_logged(
        "venv",
        "installing the packages of requirements.txt",
        [
            *(str(VENV / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"),
            # `make clean` would leave a cache in the home directory. Compiling all modules, most of which are never
            # imported, takes a third of the time.
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
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit(f"error: {error}")
