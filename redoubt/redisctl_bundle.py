"""redisctl as one file: this project's package and the libraries that it needs, run by a host's own Python.

Made from what requirements.txt locks, as it is installed beside this project: neither a host nor a deploy fetches
anything. The same sources make the same bytes, on every machine.
"""

import hashlib
import io
import zipfile
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from redisctl.__main__ import DIGEST

PACKAGE = Path(__file__).resolve().parent.parent / "redisctl"

# Pure Python all of them. What rich has for source code and Markdown is not used, and left out with its libraries.
LIBRARIES = ("redis", "async-timeout", "click", "rich")

# -I: neither the environment nor the working directory has a word in what root runs.
_SHEBANG = b"#!/usr/bin/python3 -I\n"


def digest() -> str:
    """Return the digest that the program has at its end: it identifies the release."""
    return archive()[-DIGEST:].decode()


@cache
def archive() -> bytes:
    """The file: a zip archive that Python runs. Not compressed, since that is different with each version of zlib.

    Its comment, which is its end, is the digest of what it is made of: so it finds its own modules unpacked.
    """
    sources = {"__main__.py": (PACKAGE / "__main__.py").read_bytes()}
    sources |= {f"redisctl/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes() for path in PACKAGE.rglob("*.py")}
    for library in LIBRARIES:
        for file in distribution(library).files or ():
            if file.suffix == ".py" and not file.is_absolute() and ".." not in file.parts:
                sources[file.as_posix()] = Path(str(file.locate())).read_bytes()
    made = io.BytesIO()
    made.write(_SHEBANG)
    digest = hashlib.sha256()
    with zipfile.ZipFile(made, "a", zipfile.ZIP_STORED) as file_:
        for name in sorted(sources):
            file_.writestr(zipfile.ZipInfo(name), sources[name])
            digest.update(f"{name} {len(sources[name])}\n".encode() + sources[name])
        file_.comment = digest.hexdigest().encode()
    return made.getvalue()
