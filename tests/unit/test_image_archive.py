"""Archives of images: refused if loading them would rename other images."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from redoubt import image_archive
from redoubt.image_archive import ArchiveError, check_digest, config_in, identity_in
from redoubt.image_config import Identity

CONFIG = {"created": "2026-01-01T00:00:00Z", "rootfs": {"type": "layers", "diff_ids": ["sha256:a", "sha256:b"]}}
Member = tuple[str, Any]


def image(*tags: str) -> dict[str, Any]:
    """Return an image of manifest.json."""
    return {"Config": "blobs/sha256/c", "RepoTags": list(tags), "Layers": []}


def index(*annotations: dict[str, str]) -> Member:
    """Return index.json with images that have these annotations."""
    return "index.json", {"schemaVersion": 2, "manifests": [{"annotations": each} for each in annotations]}


def archive(tmp_path: Path, *members: Member) -> str:
    """Return an archive of JSON documents.

    Bytes are written as they are, and ``None`` is a link.
    """
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def of_one_image(tmp_path: Path, *tags: str) -> str:
    """Return an archive of one image, as docker save writes it."""
    names = [{"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag.split(":")[-1]} for tag in tags]
    return archive(tmp_path, ("manifest.json", [image(*tags)]), ("blobs/sha256/c", CONFIG), index(*names))


@pytest.mark.parametrize("tag", ["redis:8.10.2", "docker.io/library/redis:8.10.2"])
def test_image_is_found_by_each_form_of_its_name(tmp_path: Path, tag: str) -> None:
    path = of_one_image(tmp_path, tag)
    assert identity_in(path, "docker.io/library/redis:8.10.2") == Identity(
        "2026-01-01T00:00:00Z", ("sha256:a", "sha256:b")
    )


def test_missing_image_is_refused_with_the_present_ones(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="does not contain redis:8, but 'x:1'"):
        config_in(of_one_image(tmp_path, "x:1"), "redis:8")
    with pytest.raises(ArchiveError, match="does not contain redis:8, but no name"):
        config_in(of_one_image(tmp_path), "redis:8")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("manifest.json", [image("redis:8", "web:1")])], "also contains 'web:1': loading it would take"),
        ([("manifest.json", [image("redis:8"), image("web:1")])], "also contains 'web:1'"),
        # The second of them replaces the first, whose version was checked.
        ([("manifest.json", [image("redis:8"), image("redis:8")])], "contains redis:8 more than once"),
        # Docker's containerd image store reads the names there.
        ([index({"io.containerd.image.name": "docker.io/library/web:1"})], "also contains 'docker.io/library/web:1'"),
        ([index({"org.opencontainers.image.ref.name": "web:1\x1b[2J"})], r"also contains 'web:1\\x1b\[2J'"),
        # Docker unpacks the archive, and the last file of a name remains.
        ([("./manifest.json", [image("web:1")])], "manifest.json is not a single file"),
        ([("./blobs/sha256/c", CONFIG)], "blobs/sha256/c is not a single file"),
    ],
)
def test_archive_that_names_other_images_is_refused(tmp_path: Path, members: list[Member], message: str) -> None:
    standard: dict[str, Any] = {"manifest.json": [image("redis:8")], "blobs/sha256/c": CONFIG}
    path = archive(tmp_path, *({**standard, **dict(members)}).items())
    with pytest.raises(ArchiveError, match=message):
        config_in(path, "redis:8")


def test_images_without_a_name_take_no_name(tmp_path: Path) -> None:
    members = ("manifest.json", [image("redis:8"), {**image(), "RepoTags": None}]), ("blobs/sha256/c", CONFIG)
    assert config_in(archive(tmp_path, *members), "redis:8") == CONFIG


@pytest.mark.parametrize(
    "members",
    [
        [],
        [("manifest.json", b"[" * 100_000)],
        [("manifest.json", b" " * (image_archive._MAX_DOCUMENT + 1))],
        [("manifest.json", None)],
        [("manifest.json", {"RepoTags": 1})],
        [("manifest.json", [{"RepoTags": ["redis:8"]}])],
        [("manifest.json", [image("redis:8")])],
        [("manifest.json", [image("redis:8")]), ("blobs/sha256/c", {})],
        [("manifest.json", [image("redis:8")]), ("blobs/sha256/c", CONFIG), ("index.json", [])],
    ],
    ids=["empty", "deep", "huge", "link", "no list", "no configuration", "lost", "other file", "other index"],
)
def test_malformed_archive_is_refused(tmp_path: Path, members: list[Member]) -> None:
    with pytest.raises(ArchiveError, match="is not an archive of docker save"):
        config_in(archive(tmp_path, *members), "redis:8")


def test_archive_with_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_archive, "_MAX_MEMBERS", 2)
    with pytest.raises(ArchiveError, match="it has more than 2 files"):
        config_in(of_one_image(tmp_path, "redis:8"), "redis:8")


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_text("no tar")
    with pytest.raises(ArchiveError, match="is not an archive of docker save: it is no tar file"):
        config_in(str(path), "redis:8")
    with pytest.raises(ArchiveError, match="is not an archive of docker save"):
        config_in(str(tmp_path / "missing.tar"), "redis:8")


def test_other_archive_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    path = of_one_image(tmp_path, "redis:8")
    digest = f"sha256:{hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
    check_digest(path, digest)
    with pytest.raises(ArchiveError, match=f"has the digest {digest}, not redis_image_archive_digest"):
        check_digest(path, f"sha256:{'0' * 64}")
