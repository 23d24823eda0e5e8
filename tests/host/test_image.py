"""The image: the very one that the settings name, and the server that its tag promises."""

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
    """What the host's engine knows of the image that the settings name."""
    found: list[dict[str, Any]] = json.loads(host.check_output(f"docker image inspect {quoted(settings.redis_image)}"))
    return found[0]


@pytest.mark.security("version")
def test_redis_runs_the_image_that_the_settings_name(
    settings: Settings, container: dict[str, Any], image: dict[str, Any]
) -> None:
    """A tag can be moved after the container was made: what runs must be what the name means now."""
    assert container["Config"]["Image"] == settings.redis_image
    assert container["Image"] == image["Id"]


@pytest.mark.security("version")
def test_image_is_the_one_that_was_meant(settings: Settings, image: dict[str, Any]) -> None:
    """Layer for layer the archive's, or the digest that the settings pin, or a version at the very least."""
    name, _, digest = settings.redis_image.partition("@")
    if settings.redis_image_archive is not None:
        assert image["RootFS"]["Layers"] == _layers(settings.redis_image_archive, name)
    elif digest:
        assert digest in [repository.partition("@")[2] for repository in image["RepoDigests"]]
    else:
        assert name.rpartition(":")[2] not in ("", "latest")


def _layers(archive: str, reference: str) -> list[str]:
    """The layers of an image in an archive of docker save."""
    with tarfile.open(PROJECT / archive) as tar:

        def member(name: str) -> Any:
            file = tar.extractfile(name)
            assert file is not None
            return json.load(file)

        (entry,) = (entry for entry in member("manifest.json") if reference in entry["RepoTags"])
        layers: list[str] = member(entry["Config"])["rootfs"]["diff_ids"]
        return layers


@pytest.mark.security("version")
def test_server_is_the_version_that_the_tag_promises(target: Target, settings: Settings) -> None:
    """Asked of the server: a tag is a name that somebody gave."""
    info = target.admin.info("server")
    version = str(info.get("valkey_version", info["redis_version"]))
    tag = settings.redis_image.partition("@")[0].rpartition(":")[2]
    promised = re.match(r"\d+(\.\d+)*", tag)
    # A digest, or a name of one's own, need not promise any: tests/host/test_versions.py asks what runs all the same.
    assert promised is None or f"{version}.".startswith(f"{promised[0]}.")


def test_the_server_is_redis_itself(kernel: Kernel, settings: Settings) -> None:
    """Not a shell or an entrypoint that stays between the engine's signals and the server."""
    names = [process.name for process in kernel.processes]
    assert names in (["docker-init", "redis-server"], ["docker-init", f"{settings.redis_engine}-server"])
    # Debian has one program under two names.
    programs = (f"{settings.redis_engine}-server", f"{settings.redis_engine}-check-rdb")
    assert kernel.processes[-1].status["Exe"].rpartition("/")[2] in programs
