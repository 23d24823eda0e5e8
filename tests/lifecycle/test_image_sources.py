"""Sources of the image: a registry, by digest, or an archive.

Redis keeps running until the host has the image. The registry is Debian's docker-registry on the host's loopback, with
the image of the archive.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import images, ssh, tools
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer
from tests.lifecycle.conftest import assert_no_change
from tests.lifecycle.expected_files import digests

REGISTRY = "127.0.0.1:5000"
CONFIG = f"""\
version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/docker-registry
http:
  addr: {REGISTRY}
"""
INSTALL = f"""
set -e
apt-get --quiet update
apt-get --quiet --yes --no-install-recommends install docker-registry
cat > /etc/docker/registry/config.yml
systemctl restart docker-registry
for _ in $(seq 50); do curl --silent --fail http://{REGISTRY}/v2/ && break; sleep 0.2; done
"""


@pytest.fixture(scope="module")
def pushed(host: Host, deployer: Deployer) -> Iterator[str]:
    """Yield the name of the image in the host's registry, by digest.

    Docker on the host no longer has the image under that name.
    """
    assert deployer.deploy(host).returncode == 0
    host.run(INSTALL, input=CONFIG, check=True)
    name = f"{REGISTRY}/redis:{images.redis_reference().rpartition(':')[2]}"
    host.run(f"docker tag {images.redis_reference()} {name} && docker push --quiet {name}", check=True)
    digests = host.run(f"docker image inspect --format '{{{{join .RepoDigests \" \"}}}}' {name}", check=True).stdout
    digest = digests.strip().rpartition("@")[2]
    host.run(f"docker rmi {name}", check=True)
    yield f"{name}@{digest}"
    host.run("systemctl disable --now docker-registry")


@pytest.fixture
def redis(deployed: Host, deployer: Deployer) -> Instance:
    """Redis from the archive, with a key."""
    redis = Instance(deployed, deployer.secrets(deployed))
    redis.call("SET rq:image kept", user="queues")
    return redis


def from_registry(reference: str) -> dict[str, Any]:
    return {"redis_image_source": "registry", "redis_image_archive": None, "redis_image": reference}


def assert_kept(redis: Instance) -> None:
    assert redis.health == "healthy"
    assert redis.call("GET rq:image", user="queues") == ["kept"]


def test_image_is_pulled_by_digest(redis: Instance, deployer: Deployer, pushed: str) -> None:
    assert redis.host.run(f"docker image inspect {pushed}").returncode != 0, "the host has it already"

    result = deployer.deploy(redis.host, **from_registry(pushed))

    assert result.returncode == 0, result.stderr
    assert redis.inspect()["Config"]["Image"] == pushed
    assert_kept(redis)
    # Only here is the image one of a registry.
    assert_no_change(deployer, redis.host, **from_registry(pushed))


def test_source_changes_back_to_the_archive(redis: Instance, deployer: Deployer, pushed: str) -> None:
    assert deployer.deploy(redis.host, **from_registry(pushed)).returncode == 0
    result = deployer.deploy(redis.host)
    assert result.returncode == 0, result.stderr
    assert redis.inspect()["Config"]["Image"] == images.redis_reference()
    assert_kept(redis)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (f"{REGISTRY}/redis:8.0.2@sha256:{'0' * 64}", "manifest unknown"),
        (f"{REGISTRY}/redis:9.9.9", "manifest unknown"),
        ("127.0.0.1:5001/redis:8.0.2", "connection refused"),
    ],
    ids=["wrong digest", "no such tag", "no registry"],
)
def test_failed_pull_leaves_redis_running(
    redis: Instance, deployer: Deployer, pushed: str, reference: str, message: str
) -> None:
    before = redis.identity, digests(redis.host)
    result = deployer.deploy(redis.host, **from_registry(reference))
    assert result.returncode == 1
    assert message in result.stderr
    assert "operation: Image | Pull the image" in result.stderr
    assert "operation: Secrets" not in result.stderr, "the deploy continued without the image"
    assert (redis.identity, digests(redis.host)) == before
    assert_kept(redis)


@pytest.fixture
def other_archive(deployed: Host, tmp_path: Path) -> Path:
    """An archive that has another image under the same tag."""
    tag, path = images.redis_reference(), tmp_path / "other.tar"
    deployed.run(f"docker tag {tag} original", check=True)
    try:
        deployed.run(
            f"docker create --name other {tag} && docker rmi --no-prune {tag} && "
            f"docker commit --change 'LABEL other=yes' other {tag} && docker save --output /root/other.tar {tag}",
            check=True,
        )
        with path.open("wb") as file:
            command = ssh.command(deployed.name, "--", "cat /root/other.tar")
            environment = tools.environment()
            subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, check=True, timeout=60)
    finally:
        deployed.run(
            f"rm -f /root/other.tar; docker rm -f other; docker rmi {tag}; "
            f"docker tag original {tag} && docker rmi --no-prune original",
            check=True,
        )
    return path


def test_other_image_of_same_name_is_loaded(redis: Instance, deployer: Deployer, other_archive: Path) -> None:
    """The settings have the digest of the archive."""
    assert "other" not in redis.inspect()["Config"]["Labels"]
    digest = f"sha256:{hashlib.sha256(other_archive.read_bytes()).hexdigest()}"
    settings: dict[str, Any] = {"redis_image_archive": str(other_archive), "redis_image_archive_digest": digest}

    result = deployer.deploy(redis.host, **settings)

    assert result.returncode == 0, result.stderr
    assert redis.inspect()["Config"]["Labels"]["other"] == "yes"
    assert_kept(redis)
    # Only here does an image replace another one of its name.
    assert_no_change(deployer, redis.host, **settings)


def test_copied_archive_is_compared_with_its_digest(redis: Instance, deployer: Deployer, other_archive: Path) -> None:
    """A file that changed after the check on this machine is not loaded."""
    host, program = redis.host, "/usr/local/bin/sha256sum"
    image = f"docker image inspect --format '{{{{.Id}}}}' {images.redis_reference()}"
    before = redis.identity, host.run(image, check=True).stdout
    digest = f"sha256:{hashlib.sha256(other_archive.read_bytes()).hexdigest()}"
    # The archive comes on standard input. Files that are compared with the settings are arguments.
    other_digest = '#!/bin/sh\n[ "$#" -gt 0 ] || exec echo 0\nexec /usr/bin/sha256sum "$@"\n'
    host.run(f"cat >{program} && chmod 755 {program}", input=other_digest, check=True)
    try:
        result = deployer.deploy(host, redis_image_archive=str(other_archive), redis_image_archive_digest=digest)
    finally:
        host.run(f"rm {program}", check=True)
    assert result.returncode == 1
    assert "the copied archive has another digest" in result.stderr
    assert (redis.identity, host.run(image, check=True).stdout) == before


def test_archive_with_further_names_is_refused(redis: Instance, deployer: Deployer, tmp_path: Path) -> None:
    """Loading it would take the names from other images of the host."""
    path = tmp_path / "two.tar"
    with tarfile.open(images.redis_archive()) as source, tarfile.open(path, "w") as target:
        for member in source:
            content = source.extractfile(member)
            data = content.read() if content else b""
            if member.name == "manifest.json":
                manifest = json.loads(data)
                manifest[0]["RepoTags"].append("shop/web:1")
                data = json.dumps(manifest).encode()
                member.size = len(data)
            target.addfile(member, io.BytesIO(data))
    result = deployer.deploy(redis.host, redis_image_archive=str(path))
    assert result.returncode == 1
    assert "Nothing was changed on any host" in result.stderr
    assert "also contains 'shop/web:1': loading it would take these names from other images" in result.stderr
    assert_kept(redis)
