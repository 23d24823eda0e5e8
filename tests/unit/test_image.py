"""An archive of docker save: which image is in it, told without loading it."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from redoubt.image import ArchiveError, Identity, in_archive, of_inspect

CONFIG = {"created": "2026-01-01T00:00:00Z", "rootfs": {"type": "layers", "diff_ids": ["sha256:a", "sha256:b"]}}


def archive(tmp_path: Path, tags: list[str]) -> str:
    """The two members that matter, laid out as docker save does."""
    manifest = [{"Config": "blobs/sha256/c", "RepoTags": tags, "Layers": []}]
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in (("manifest.json", manifest), ("blobs/sha256/c", CONFIG)):
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize("tag", ["redis:8.10.2", "docker.io/library/redis:8.10.2"])
def test_the_image_is_found_under_each_way_to_write_its_name(tmp_path: Path, tag: str) -> None:
    identity = in_archive(archive(tmp_path, [tag]), "docker.io/library/redis:8.10.2")
    assert identity == Identity("2026-01-01T00:00:00Z", ("sha256:a", "sha256:b"))


def test_the_engine_s_answer_for_the_same_image_is_equal(tmp_path: Path) -> None:
    inspected = {"Created": CONFIG["created"], "RootFS": {"Layers": ["sha256:a", "sha256:b"]}, "Id": "sha256:any"}
    assert of_inspect(inspected) == in_archive(archive(tmp_path, ["x:1"]), "x:1")


def test_another_image_is_refused_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="holds no image redis:8; it holds: x:1"):
        in_archive(archive(tmp_path, ["x:1"]), "redis:8")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_text("no tar")
    with pytest.raises(ArchiveError, match="not an archive of docker save"):
        in_archive(str(path), "redis:8")
    with pytest.raises(ArchiveError, match="not an archive of docker save"):
        in_archive(str(tmp_path / "missing.tar"), "redis:8")
