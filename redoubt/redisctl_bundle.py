"""redisctl as one file with its libraries, which the host's own Python runs.

The libraries come from the environment of this project, which requirements.txt locks: neither a host nor a deploy
downloads anything. The same sources give the same bytes on every machine.
"""

import hashlib
import io
import zipfile
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from redisctl.__main__ import DIGEST

PACKAGE = Path(__file__).resolve().parent.parent / "redisctl"

# All are pure Python. Source code and Markdown in rich need further libraries and are not used.
LIBRARIES = ("redis", "async-timeout", "click", "rich")

# -I: neither the environment nor the working directory can change what root runs.
_SHEBANG = b"#!/usr/bin/python3 -I\n"


def digest() -> str:
    """Return the digest that the program has at its end: it identifies the release."""
    return archive()[-DIGEST:].decode()


@cache
def archive() -> bytes:
    """Return the file: a zip archive that Python runs.

    It is not compressed, because each version of zlib compresses differently. It ends with its comment, the digest of
    its contents, by which it finds its unpacked modules.
    """
    sources = {"__main__.py": (PACKAGE / "__main__.py").read_bytes()}
    sources |= {f"redisctl/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes() for path in PACKAGE.rglob("*.py")}
    for library in LIBRARIES:
        for file in distribution(library).files or ():
            if file.suffix == ".py" and not file.is_absolute() and ".." not in file.parts:
                sources[file.as_posix()] = Path(str(file.locate())).read_bytes()
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    digest = hashlib.sha256()
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as bundle:
        for name in sorted(sources):
            bundle.writestr(zipfile.ZipInfo(name), sources[name])
            digest.update(f"{name} {len(sources[name])}\n".encode() + sources[name])
        bundle.comment = digest.hexdigest().encode()
    return buffer.getvalue()
