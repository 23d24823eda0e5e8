"""Images of the sandbox: versions, package mirrors and the archive of Redis."""

from pathlib import Path

import pytest

from sandbox import base_image, image_build, images
from sandbox.util import SandboxError


@pytest.mark.parametrize(
    ("package", "upstream"),
    [("5:8.0.2-3+deb13u3", "8.0.2"), ("8.1.1+dfsg1-3+deb13u1", "8.1.1"), ("1.2", "1.2")],
)
def test_upstream_version_of_a_package(package: str, upstream: str) -> None:
    assert image_build.upstream_version(package) == upstream


def test_mirror_of_this_machine_is_used() -> None:
    targets = "\n".join(
        [
            "nodistro https://deb.nodesource.example/node_20.x/",
            "bookworm cdrom://Debian/",
            "bookworm http://mirror.example/debian/",
            "bookworm http://second.example/debian/",
            "bookworm-updates http://mirror.example/updates/",
            "bookworm-security https://mirror.example/security/",
        ]
    )
    assert base_image.parse_mirrors(targets, "bookworm") == {
        "MIRROR": "http://mirror.example/debian",
        "SECURITY_MIRROR": "https://mirror.example/security",
    }


def test_machine_without_a_mirror_uses_the_default() -> None:
    assert base_image.parse_mirrors("", "bookworm") == {}


def test_missing_archive_is_an_error_with_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BUILT", tmp_path)
    with pytest.raises(SandboxError, match="make deploy"):
        images.redis_archive()


def test_recorded_archive_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BUILT", tmp_path)
    images.save("redis", images.Archive("redoubt/redis:8.0.2", "redis-server=5:8.0.2-3", "redis.tar", "sha256:1"))
    assert images.redis_archive() == tmp_path / "redis.tar"
    assert images.redis_reference() == "redoubt/redis:8.0.2"
