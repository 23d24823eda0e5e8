"""The unpacked file system of the Redis image.

It has redis-server and redis-cli for use without Docker. It is unpacked once for each build of the image, under
`.sandbox/redis-root`.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

from sandbox import images
from sandbox.util import STATE, lock, say

_ROOTS = STATE / "redis-root"
_WHITEOUT = ".wh."


def unpack() -> Path:
    """Unpack the Redis image if necessary; return the root of its file system.

    Needs root, because the files keep their owners.
    """
    archive = images.load("redis")
    root = _ROOTS / archive.image_id.rpartition(":")[2][:16]
    if root.is_dir():
        return root
    with lock():
        if not root.is_dir():
            say("images", f"unpacking {archive.reference}")
            shutil.rmtree(_ROOTS, ignore_errors=True)
            partial = root.with_suffix(".partial")
            partial.mkdir(parents=True)
            _unpack(archive.path, partial)
            partial.rename(root)
    return root


def _unpack(archive: Path, root: Path) -> None:
    with tarfile.open(archive) as outer:
        manifest = outer.extractfile("manifest.json")
        assert manifest is not None
        for name in json.load(manifest)[0]["Layers"]:
            layer = outer.extractfile(name)
            assert layer is not None
            with tarfile.open(fileobj=layer) as inner:
                _apply(inner, root)


def _apply(layer: tarfile.TarFile, root: Path) -> None:
    """Unpack a layer. A file `.wh.NAME` in it means that the layer removes NAME."""
    # Python 3.14 refuses owners and links of the image otherwise; versions before 3.12 know no filters.
    layer.extraction_filter = lambda member, _: member
    for member in layer.getmembers():
        path = root / member.name
        if path.name.startswith(_WHITEOUT):
            removed = path.with_name(path.name.removeprefix(_WHITEOUT))
            if removed.is_dir() and not removed.is_symlink():
                shutil.rmtree(removed)
            else:
                removed.unlink(missing_ok=True)
        elif not member.isdev():
            layer.extract(member, root)
