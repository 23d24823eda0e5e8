"""The scripts of files/, with values for their variables."""

import shlex
from pathlib import Path

_FILES = Path(__file__).resolve().parent.parent.parent / "files"


def script(filename: str, **variables: str) -> str:
    """A script of files/ with values for the variables that it expects."""
    assignments = "\n".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return f"{assignments}\n{(_FILES / filename).read_text()}"
