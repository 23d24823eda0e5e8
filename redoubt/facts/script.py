"""Commands for hosts: scripts of files/ with values for their variables.

They run in a pinned environment.
"""

import shlex
from pathlib import Path

_FILES = Path(__file__).resolve().parent.parent.parent / "files"

# Nothing of a login shell reaches Docker, Compose or the tools whose output is parsed.
PINNED_ENVIRONMENT = """\
for name in $(env | sed -n 's/^\\(COMPOSE_[A-Za-z0-9_]*\\|DOCKER_[A-Za-z0-9_]*\\)=.*/\\1/p'); do unset "$name"; done
export LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"""


def script(filename: str, **variables: str) -> str:
    """Return a script of files/ with values for the variables that it expects.

    It runs in the pinned environment.
    """
    return pinned("\n".join([*_assignments(variables), (_FILES / filename).read_text()]))


def pinned(command: str) -> str:
    """Return a command that runs in the pinned environment."""
    return f"{PINNED_ENVIRONMENT}\n{command}"


def _assignments(variables: dict[str, str]) -> list[str]:
    return [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
