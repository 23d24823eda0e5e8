"""Builds images from Debian's packages: those that hosts are made of, and Redis.

Recipes are Dockerfiles under `images/`. An image is built again when its recipe or its base
has changed, and at no other time; `make clean` forgets them all.
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
# Not the label by which containers are removed: a Redis that runs from the image would have it, too.
_CHECKOUT_LABEL = "redoubt.checkout"
# Servers of other suites of Debian, by the names of their builds.
_SUITES = {"valkey-testing": "forky", "redis-oldstable": "bookworm", "redis-experimental": "experimental"}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def upstream_version(package_version: str) -> str:
    """The upstream part of a Debian version: 5:8.0.2-3+deb13u3 gives 8.0.2, 8.1.1+dfsg1-3 gives 8.1.1."""
    return (package_version.rpartition(":")[2].rpartition("-")[0] or package_version).partition("+")[0]


def ensure_host(client: docker.DockerClient, image: str) -> str:
    """Build the image of a host (`host` or `bare`) if need be; return its reference."""
    reference = f"{PREFIX}/{image}:{base_image.SUITE}"
    recipe = _recipe(client, "host")
    if not _is_current(client, reference, recipe):
        _build(client, "host", reference, recipe, target=image)
    return reference


def ensure_redis(client: docker.DockerClient, build: str = "redis") -> Archive:
    """Build a Redis image and save it as an archive, if need be.

    `build` is `redis` or `valkey`, Debian's own, `valkey-testing`, `redis-oldstable` or `redis-experimental` of another
    suite, or `redis-jemalloc`, which can defragment its memory as the official image can.
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
        # Known only once it is built: a second, cached build says so. Debian patches under an old upstream number, so
        # the package version is the one to judge a build by.
        labels = {
            "redoubt.package": f"redis={upstream}" if build == "redis-jemalloc" else f"{engine}-server={version}",
            "org.opencontainers.image.version": upstream,
        }
        _build(client, "redis", reference, recipe, target=target, arguments=arguments, labels=labels)
        client.images.remove(unnamed)
    return _save(client, build, client.images.get(reference))


def _package_version(client: docker.DockerClient, image: str, package: str) -> str:
    """The version of a Debian package in an image, from dpkg's own list.

    Read from a container that is never started: what one prints may be lost when it ends at once.
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
    found = re.search(rf"^Package: {re.escape(package)}\n(?:.+\n)*?Version: (.+)$", status, re.MULTILINE)
    if found is None:
        raise SandboxError(f"the image {image} was built without the package {package}")
    return found[1]


def _save(client: docker.DockerClient, build: str, image: Image) -> Archive:
    package = image.labels["redoubt.package"]
    reference = f"redoubt/{build}:{image.labels['org.opencontainers.image.version']}"
    archive = Archive(reference, package, f"{build}-{package.rpartition('=')[2].rpartition(':')[2]}.tar", str(image.id))
    with suppress(SandboxError):
        if images.load(build) == archive and archive.path.exists():
            return archive
    say("images", f"saving {reference} ({package})")
    images.BUILT.mkdir(exist_ok=True)
    # The public name is needed in the file only: on a shared engine it is not ours to keep.
    ours = not client.images.list(reference)
    image.tag(reference)
    unfinished = archive.path.with_suffix(".partial")
    with unfinished.open("wb") as file:
        for chunk in client.api.get_image(reference):
            file.write(chunk)
    if ours:
        client.images.remove(reference)
    unfinished.rename(archive.path)
    images.save(build, archive)
    return archive


def remove(client: docker.DockerClient) -> None:
    """Remove every image that was built or fetched for this checkout."""
    for image in client.images.list():
        for tag in image.tags:
            if tag.startswith(f"{PREFIX}/"):
                client.images.remove(tag)
    # Those of former recipes lost their names to newer ones. One that is in use is somebody else's.
    for image in client.images.list(filters={"dangling": True, "label": f"{_CHECKOUT_LABEL}={ID}"}):
        with suppress(docker.errors.APIError):
            client.images.remove(str(image.id))


def _is_current(client: docker.DockerClient, reference: str, recipe: str) -> bool:
    try:
        return client.images.get(reference).labels.get(_RECIPE_LABEL) == recipe
    except docker.errors.ImageNotFound:
        return False


def _recipe(client: docker.DockerClient, name: str) -> str:
    """A digest of all that goes into an image: its recipe, and the base it starts from."""
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
        # The machine's own network: its name servers, proxies and mtu hold without translation.
        network_mode="host",
        rm=True,
        forcerm=True,
    )
    log = STATE / "log" / f"build-{label.replace(':', '-')}.log"
    log.parent.mkdir(exist_ok=True)
    spoken, last = start, ""
    with log.open("w") as file:
        for event in steps:
            text = _COLOUR.sub("", str(event.get("stream", event.get("error", ""))))
            file.write(text)
            last = shorten(text) or last
            # The steps that take time, and a sign of life within them.
            step = text.startswith("Step ") and " : RUN " in text
            if step or time.monotonic() - spoken > HEARTBEAT:
                spoken = time.monotonic()
                say("images", last if step else f"  {last}")
            if "error" in event:
                file.flush()
                raise SandboxError(f"building {label} failed\n{tail(log)}")
    say("images", f"built {label} in {time.monotonic() - start:.0f} s")
