"""Builds the images of hosts and of Redis from Debian's packages.

Recipes are Dockerfiles under `images/`. An image is built again only if its recipe or its base has changed.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import docker
from docker.models.images import Image

from sandbox import base_image, images
from sandbox.images import Archive
from sandbox.util import HEARTBEAT, ID, LABELS, PREFIX, STATE, SandboxError, events, say, shorten, tail

_RECIPES = Path(__file__).parent / "images"
_RECIPE_LABEL = "redoubt.recipe"
# Another label than that of the hosts' containers: containers have the labels of their image.
_CHECKOUT_LABEL = "redoubt.checkout"
# Builds with the server of another suite of Debian.
_SUITES = {"valkey-testing": "forky", "redis-oldstable": "bookworm", "redis-experimental": "experimental"}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def upstream_version(package_version: str) -> str:
    """Return the upstream part of a Debian version.

    It is 8.0.2 for 5:8.0.2-3+deb13u3, and 8.1.1 for 8.1.1+dfsg1-3.
    """
    return (package_version.rpartition(":")[2].rpartition("-")[0] or package_version).partition("+")[0]


def ensure_host(client: docker.DockerClient, image: str) -> str:
    """Build the image of a host if necessary, and return its reference.

    `image` is `host` or `bare`.
    """
    reference = f"{PREFIX}/{image}:{base_image.SUITE}"
    recipe = _recipe(client, "host")
    if not _is_current(client, reference, recipe):
        _build(client, "host", reference, recipe, target=image)
    return reference


def ensure_redis(client: docker.DockerClient, build: str = "redis") -> Archive:
    """Build a Redis image and save it as an archive, if necessary.

    `build` is `redis` or `valkey`, Debian's own, `valkey-testing`, `redis-oldstable` or `redis-experimental` of another
    suite, or `redis-jemalloc`, which can defragment memory like the official image.
    """
    engine = build.partition("-")[0]
    target = "package" if build == engine or build in _SUITES else build
    reference = f"{PREFIX}/{build}:{base_image.SUITE}"
    recipe = _recipe(client, "redis")
    if not _is_current(client, reference, recipe):
        unnamed = f"{PREFIX}/{build}:unnamed"
        arguments = {"ENGINE": engine, **({"SUITE": _SUITES[build]} if build in _SUITES else {})}
        _build(client, "redis", unnamed, recipe, target=target, arguments=arguments)
        version = _package_version(client, unnamed, f"{engine}-server")
        upstream = upstream_version(version)
        # The version is known after the build, so a second, cached build adds it as a label. It is the package version,
        # because Debian adds security fixes to an old upstream version.
        labels = {
            "redoubt.package": f"redis={upstream}" if build == "redis-jemalloc" else f"{engine}-server={version}",
            "org.opencontainers.image.version": upstream,
        }
        _build(client, "redis", reference, recipe, target=target, arguments=arguments, labels=labels)
        client.images.remove(unnamed)
    return _save(client, build, client.images.get(reference))


def _package_version(client: docker.DockerClient, image: str, package: str) -> str:
    """Return the version of a Debian package in an image, from dpkg's status file.

    The file is read from a container that never starts, because Docker may lose the output of a short-lived one.
    """
    container = client.containers.create(image, labels=LABELS)
    try:
        chunks, _ = container.get_archive("/var/lib/dpkg/status")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            file = archive.extractfile("status")
            assert file is not None
            status = file.read().decode()
    finally:
        container.remove()
    match = re.search(rf"^Package: {re.escape(package)}\n(?:.+\n)*?Version: (.+)$", status, re.MULTILINE)
    if match is None:
        raise SandboxError(f"the image {image} was built without the package {package}")
    return match[1]


def _save(client: docker.DockerClient, build: str, image: Image) -> Archive:
    package = image.labels["redoubt.package"]
    reference = f"redoubt/{build}:{image.labels['org.opencontainers.image.version']}"
    archive = Archive(reference, package, f"{build}-{package.rpartition('=')[2].rpartition(':')[2]}.tar", str(image.id))
    with suppress(SandboxError):
        if images.load(build) == archive and archive.path.exists():
            return archive
    say("images", f"saving {reference} ({package})")
    images.BUILT.mkdir(exist_ok=True)
    # Only the file needs the public name. A name that existed before belongs to somebody else.
    is_new = not client.images.list(reference)
    image.tag(reference)
    unfinished = archive.path.with_suffix(".partial")
    with unfinished.open("wb") as file:
        for chunk in client.api.get_image(reference):
            file.write(chunk)
    if is_new:
        client.images.remove(reference)
    unfinished.rename(archive.path)
    images.save(build, archive)
    return archive


def remove(client: docker.DockerClient) -> None:
    """Remove all images that were built or fetched for this checkout."""
    for image in client.images.list():
        for tag in image.tags:
            if tag.startswith(f"{PREFIX}/"):
                client.images.remove(tag)
    # Images of previous recipes have no name any more. One that is in use cannot be removed.
    for image in client.images.list(filters={"dangling": True, "label": f"{_CHECKOUT_LABEL}={ID}"}):
        with suppress(docker.errors.APIError):
            client.images.remove(str(image.id))


def _is_current(client: docker.DockerClient, reference: str, recipe: str) -> bool:
    try:
        return client.images.get(reference).labels.get(_RECIPE_LABEL) == recipe
    except docker.errors.ImageNotFound:
        return False


def _recipe(client: docker.DockerClient, name: str) -> str:
    """Return a digest of an image's recipe and base."""
    digest = hashlib.sha256(str(base_image.ensure(client).id).encode())
    for path in sorted((_RECIPES / name).rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build(
    client: docker.DockerClient,
    name: str,
    reference: str,
    recipe: str,
    *,
    target: str,
    arguments: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> None:
    label = reference.rpartition("/")[2]
    say("images", f"building {label}")
    start = time.monotonic()
    steps = events(
        client.api.build,
        silence=600,
        path=str(_RECIPES / name),
        tag=reference,
        target=target,
        buildargs={"BASE": base_image.REFERENCE, **base_image.mirrors(), **(arguments or {})},
        labels={_RECIPE_LABEL: recipe, _CHECKOUT_LABEL: ID, **(labels or {})},
        # With this machine's name servers, proxies and MTU.
        network_mode="host",
        rm=True,
        forcerm=True,
    )
    log = STATE / "log" / f"build-{label.replace(':', '-')}.log"
    log.parent.mkdir(exist_ok=True)
    last_message, last = start, ""
    with log.open("w") as file:
        for event in steps:
            text = _COLOUR.sub("", str(event.get("stream", event.get("error", ""))))
            file.write(text)
            last = shorten(text) or last
            # Report the steps that take time, and the last line once in a while.
            step = text.startswith("Step ") and " : RUN " in text
            if step or time.monotonic() - last_message > HEARTBEAT:
                last_message = time.monotonic()
                say("images", last if step else f"  {last}")
            if "error" in event:
                file.flush()
                raise SandboxError(f"the build of {label} failed\n{tail(log)}")
    say("images", f"built {label} in {time.monotonic() - start:.0f} s")
