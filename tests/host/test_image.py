"""The image: the one of the settings, with the server version of its tag."""

import json
import re
import tarfile
from typing import Any

import pytest
from testinfra.host import Host

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, quoted
from tests.host.inventory import PROJECT
from tests.host.proc import Kernel


@pytest.fixture(scope="module")
def image(host: Host, settings: Settings) -> dict[str, Any]:
    """Return the image of the settings, as Docker inspects it."""
    images: list[dict[str, Any]] = json.loads(host.check_output(f"docker image inspect {quoted(settings.redis_image)}"))
    return images[0]


@pytest.mark.security("version")
def test_redis_runs_the_image_that_the_settings_name(
    settings: Settings, container: dict[str, Any], image: dict[str, Any]
) -> None:
    """The container runs the image that the name refers to now.

    A tag may have been moved since the deploy.
    """
    assert container["Config"]["Image"] == settings.redis_image
    assert container["Image"] == image["Id"]


@pytest.mark.security("version")
def test_image_is_the_pinned_one(settings: Settings, image: dict[str, Any]) -> None:
    """The image has the layers of the archive or the pinned digest.

    Without either, its tag is at least not latest.
    """
    name, _, digest = settings.redis_image.partition("@")
    if settings.redis_image_archive is not None:
        assert image["RootFS"]["Layers"] == _layers(settings.redis_image_archive, name)
    elif digest:
        assert digest in [repository.partition("@")[2] for repository in image["RepoDigests"]]
    else:
        assert name.rpartition(":")[2] not in ("", "latest")


def _layers(archive: str, reference: str) -> list[str]:
    """Return the layers of an image in an archive of docker save."""
    with tarfile.open(PROJECT / archive) as tar:

        def member(name: str) -> Any:
            file = tar.extractfile(name)
            assert file is not None
            return json.load(file)

        (entry,) = (entry for entry in member("manifest.json") if reference in entry["RepoTags"])
        layers: list[str] = member(entry["Config"])["rootfs"]["diff_ids"]
        return layers


@pytest.mark.security("version")
def test_server_has_the_version_of_the_tag(target: Target, settings: Settings) -> None:
    """The server reports it: anyone can give an image any tag."""
    info = target.admin.info("server")
    version = str(info.get("valkey_version", info["redis_version"]))
    tag = settings.redis_image.partition("@")[0].rpartition(":")[2]
    tag_version = re.match(r"\d+(\.\d+)*", tag)
    # A digest or another name has no version; tests/host/test_versions.py checks the running version in any case.
    assert tag_version is None or f"{version}.".startswith(f"{tag_version[0]}.")


def test_container_runs_the_server_directly(kernel: Kernel, settings: Settings) -> None:
    """No shell or entrypoint stands between Docker's signals and the server."""
    names = [process.name for process in kernel.processes]
    assert names in (["docker-init", "redis-server"], ["docker-init", f"{settings.redis_engine}-server"])
    # Debian installs one program under two names.
    programs = (f"{settings.redis_engine}-server", f"{settings.redis_engine}-check-rdb")
    assert kernel.processes[-1].status["Exe"].rpartition("/")[2] in programs
