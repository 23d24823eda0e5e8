"""Archives of ``docker save``, examined before Docker loads them.

Docker gives every image of an archive its names, and takes those names from other images on the host without a word. So
an archive must have the image of the settings alone.
"""

import hashlib
import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from redoubt.image_config import Identity, of_config, short_reference

# What is read of an archive, in bytes, and the number of its members. An image has at most 127 layers.
_MAX_DOCUMENT, _MAX_MEMBERS = 4 * 1024**2, 10_000

# Docker reads the names in manifest.json, with its containerd image store those in index.json.
_MANIFEST, _INDEX = "manifest.json", "index.json"
_NAME, _TAG = "io.containerd.image.name", "org.opencontainers.image.ref.name"


class ArchiveError(ValueError):
    """An archive cannot be used. The message names the file and the reason."""


def identity_in(path: str, reference: str) -> Identity:
    """Return the identity of the image in an archive. Raises ArchiveError."""
    return of_config(config_in(path, reference))


def config_in(path: str, reference: str) -> dict[str, Any]:
    """Return the configuration of the image in an archive.

    Raises ArchiveError if the archive has another image or further names.
    """
    try:
        with tarfile.open(path) as archive:
            documents = _Documents(archive)
            manifest = documents.read(_MANIFEST)
            named = [image for image in manifest if image["RepoTags"]]
            names = [str(name) for image in named for name in image["RepoTags"]]
            names += _names_in_index(documents.read(_INDEX), reference) if _INDEX in documents else []
            if {short_reference(name) for name in names} == {short_reference(reference)} and len(named) == 1:
                config: dict[str, Any] = documents.read(named[0]["Config"])
                # Raises KeyError if it is not the configuration of an image.
                of_config(config)
                return config
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError, tarfile.TarError) as error:
        reason = "it is no tar file" if isinstance(error, tarfile.ReadError) else error
        raise ArchiveError(f"redis_image_archive = {path!r} is not an archive of docker save: {reason}") from error
    others = sorted({name for name in names if short_reference(name) != short_reference(reference)})
    if len(others) == len(set(names)):
        raise ArchiveError(
            f"{path} does not contain {reference}, but {', '.join(map(ascii, others)) or 'no name'}: set redis_image "
            "to an image in the archive"
        )
    further = f"also contains {', '.join(map(ascii, others))}" if others else f"contains {reference} more than once"
    raise ArchiveError(
        f"{path} {further}: loading it would take these names from other images on the host. Make an archive of one "
        f"image: 'docker save --output FILE {reference}'"
    )


def check_digest(path: str, digest: str) -> None:
    """Raise ArchiveError if the file has another digest than ``sha256:...``."""
    if (actual := _digest(path)) != digest:
        raise ArchiveError(
            f"{path} has the digest {actual}, not redis_image_archive_digest = {digest!r}: get the archive again, or "
            "set the digest of the one that you trust"
        )


# Every host of a deploy gets the same file.
@cache
def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise ArchiveError(f"redis_image_archive = {path!r} cannot be read: {error.strerror}") from None


class _Documents:
    """The JSON documents of an archive.

    Raises ValueError for what Docker might read differently: two members of one name, links, huge documents.
    """

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}
        self._count: Counter[str] = Counter()
        for number, member in enumerate(archive):
            if number == _MAX_MEMBERS:
                raise ValueError(f"it has more than {_MAX_MEMBERS} files")
            name = posixpath.normpath(member.name)
            self._members[name] = member
            self._count[name] += 1

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> Any:
        """Return a document. Raises ValueError and KeyError."""
        member = self._members[name]
        if self._count[name] > 1 or not member.isreg() or member.size > _MAX_DOCUMENT:
            raise ValueError(f"{name} is not a single file of at most {_MAX_DOCUMENT // 1024**2} MiB")
        file = self._archive.extractfile(member)
        assert file is not None
        return json.loads(file.read())


def _names_in_index(index: Mapping[str, Any], reference: str) -> list[str]:
    """Return the full names that an OCI index gives to its images."""
    names = []
    for descriptor in index["manifests"]:
        annotations = descriptor.get("annotations") or {}
        tag = annotations.get(_TAG)
        if _NAME in annotations:
            names.append(str(annotations[_NAME]))
        # Docker writes the tag alone there, other programs the name.
        elif tag and tag != reference.rpartition(":")[2]:
            names.append(str(tag))
    return names
