"""What is built from Debian's packages: the hosts' images, and the Redis archive.

Recipes are Dockerfiles under `images/`. An image is built again when its recipe or its
base has changed, and at no other time; `make clean` forgets them all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import queue
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import requests
from docker.models.images import Image

from sandbox import toolbox
from sandbox.common import HEARTBEAT, PREFIX, STATE, SandboxError, run_logged, say, tail

SUITE = "trixie"
_OFFICIAL = f"debian:{SUITE}-slim"
_BASE = f"{PREFIX}/base:{SUITE}"
_REGISTRY_PATIENCE = 10.0
_RECIPES = Path(__file__).parent / "images"
_BUILT = STATE / "images"
_RECIPE_LABEL = "redoubt.recipe"


@dataclass(frozen=True)
class Archive:
    """An image saved as a file, for hosts that reach no registry."""

    reference: str
    """What the image is called once the file is loaded, such as redoubt/redis:8.0.2."""
    package: str
    """The Debian package in it, such as redis-server=5:8.0.2-3+deb13u3."""
    path: Path


def redis() -> Archive:
    """The Redis archive as it was last built. Reads a file; does not ask the engine."""
    manifest = _BUILT / "redis.json"
    if not manifest.exists():
        raise SandboxError("the Redis image is not built yet: run `make deploy`")
    record = json.loads(manifest.read_text())
    return Archive(record["reference"], record["package"], Path(record["path"]))


def redis_archive() -> Path:
    """The Redis image saved as a file that `docker load` reads."""
    return redis().path


def redis_reference() -> str:
    """The name of the image in the Redis archive."""
    return redis().reference


def upstream_version(package_version: str) -> str:
    """The upstream part of a Debian version: 5:8.0.2-3+deb13u3 gives 8.0.2."""
    return package_version.rpartition(":")[2].rpartition("-")[0] or package_version


def ensure_host(client: docker.DockerClient, image: str) -> str:
    """Build the image of a host (`host` or `bare`) if need be; return its reference."""
    reference = f"{PREFIX}/{image}:{SUITE}"
    recipe = _recipe(client, "host")
    if not _is_current(client, reference, recipe):
        _build(client, "host", reference, recipe, target=image)
    return reference


def ensure_redis(client: docker.DockerClient) -> Archive:
    """Build the Redis image and save it as an archive, if need be."""
    reference = f"{PREFIX}/redis:{SUITE}"
    recipe = _recipe(client, "redis")
    if not _is_current(client, reference, recipe):
        unnamed = f"{PREFIX}/redis:unnamed"
        _build(client, "redis", unnamed, recipe)
        query = ["dpkg-query", "--showformat=${Version}", "--show", "redis-server"]
        output = client.containers.run(unnamed, query, network_mode="none", remove=True)
        version = output.decode().strip()
        names = {"PACKAGE": f"redis-server={version}", "VERSION": upstream_version(version)}
        _build(client, "redis", reference, recipe, buildargs=names)
        client.images.remove(unnamed)
    return _save(client, client.images.get(reference))


def _save(client: docker.DockerClient, image: Image) -> Archive:
    package = image.labels["redoubt.package"]
    reference = f"redoubt/redis:{image.labels['org.opencontainers.image.version']}"
    path = _BUILT / f"redis-{package.rpartition(':')[2]}.tar"
    manifest = _BUILT / "redis.json"
    record = {"id": image.id, "reference": reference, "package": package, "path": str(path)}
    if path.exists() and manifest.exists() and json.loads(manifest.read_text()) == record:
        return redis()
    say("images", f"saving {reference} ({package})")
    _BUILT.mkdir(exist_ok=True)
    # The public name is needed in the file only: on a shared engine it is not ours to keep.
    before = [tag for other in client.images.list(reference) for tag in other.tags]
    image.tag(reference)
    unfinished = path.with_suffix(".partial")
    with unfinished.open("wb") as file:
        for chunk in client.api.get_image(reference):
            file.write(chunk)
    if reference not in before:
        client.images.remove(reference)
    unfinished.rename(path)
    manifest.write_text(json.dumps(record, indent=2))
    return redis()


def remove(client: docker.DockerClient) -> None:
    """Remove every image that was built or fetched for this checkout."""
    for image in client.images.list():
        for tag in image.tags:
            if tag.startswith(f"{PREFIX}/"):
                client.images.remove(tag)


def _is_current(client: docker.DockerClient, reference: str, recipe: str) -> bool:
    try:
        return client.images.get(reference).labels.get(_RECIPE_LABEL) == recipe
    except docker.errors.ImageNotFound:
        return False


def _recipe(client: docker.DockerClient, name: str) -> str:
    """A digest of all that goes into an image: its recipe, and the base it starts from."""
    digest = hashlib.sha256(str(_ensure_base(client).id).encode())
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
    target: str | None = None,
    buildargs: Mapping[str, str] | None = None,
) -> None:
    label = reference.rpartition("/")[2]
    say("images", f"building {label}")
    start = time.monotonic()
    events = _events(
        client.api.build,
        silence=600,
        path=str(_RECIPES / name),
        tag=reference,
        target=target,
        buildargs={"BASE": _BASE, **_mirrors(), **(buildargs or {})},
        labels={_RECIPE_LABEL: recipe},
        # The machine's own network: its name servers, proxies and mtu hold without translation.
        network_mode="host",
        rm=True,
        forcerm=True,
    )
    log = STATE / "log" / f"build-{label.replace(':', '-')}.log"
    log.parent.mkdir(exist_ok=True)
    spoken, last = start, ""
    with log.open("w") as file:
        for event in events:
            text = str(event.get("stream", event.get("error", "")))
            file.write(text)
            last = shorten(text) or last
            step = text.startswith("Step ")
            if step or time.monotonic() - spoken > HEARTBEAT:
                spoken = time.monotonic()
                say("images", last if step else f"  {last}")
            if "error" in event:
                file.flush()
                raise SandboxError(f"building {label} failed\n{tail(log)}")
    say("images", f"built {label} in {time.monotonic() - start:.0f} s")


def shorten(text: str, width: int = 90) -> str:
    """One line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def _ensure_base(client: docker.DockerClient) -> Image:
    """The base of all recipes: Debian's official image, or the same made from its archive."""
    try:
        return client.images.get(_BASE)
    except docker.errors.ImageNotFound:
        pass
    if not _pull_base(client):
        _bootstrap_base(client)
    return client.images.get(_BASE)


def _pull_base(client: docker.DockerClient) -> bool:
    """Fetch the official image, unless the registry is out of reach or too slow to tell."""
    here = bool(client.images.list(_OFFICIAL))
    if not here:
        say("images", f"asking the registry for {_OFFICIAL}")
        pull, repository = client.api.pull, _OFFICIAL.partition(":")[0]
        try:
            for event in _events(
                pull,
                silence=_REGISTRY_PATIENCE,
                repository=repository,
                tag=f"{SUITE}-slim",
                stream=True,
            ):
                if "error" in event:
                    raise docker.errors.APIError(event["error"])
        except (docker.errors.APIError, requests.RequestException, TimeoutError) as error:
            say("images", f"no: {shorten(str(error), 70)}")
            return False
    client.images.get(_OFFICIAL).tag(_BASE)
    if not here:
        client.images.remove(_OFFICIAL)
    return True


def _bootstrap_base(client: docker.DockerClient) -> None:
    """Make the base from Debian's archive, as the official image is made."""
    if os.geteuid() != 0:
        raise SandboxError(
            f"the engine cannot pull {_OFFICIAL}, and only root can make it from packages: "
            "give the engine a way to a registry, or run this as root on Debian"
        )
    env = toolbox.provide({"mmdebstrap": "mmdebstrap"})
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if not keyring.with_name(f"debian-archive-{SUITE}-stable.gpg").exists():
        # This machine's keyring is older than the suite.
        keyring = toolbox.unpack_one("debian-archive-keyring") / keyring.relative_to("/")
    archive = STATE / "base.tar"
    mirrors = _mirrors()
    sources = [
        f"deb {mirrors['MIRROR']} {SUITE} main",
        f"deb {mirrors['MIRROR']} {SUITE}-updates main",
        f"deb {mirrors['SECURITY_MIRROR']} {SUITE}-security main",
    ]
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    run_logged(
        "images",
        f"making the base image from Debian's archive ({SUITE})",
        [
            *(str(toolbox.find("mmdebstrap")), "--mode=root", "--variant=minbase"),
            *(f"--keyring={keyring}", *excluded, SUITE, str(archive), *sources),
        ],
        env=env,
        timeout=900,
    )
    name, _, tag = _BASE.partition(":")
    client.api.import_image_from_file(str(archive), repository=name, tag=tag)
    archive.unlink()


def _mirrors() -> dict[str, str]:
    """Where this machine gets Debian from: its own mirror, if it has one."""
    found = {
        "MIRROR": "http://deb.debian.org/debian",
        "SECURITY_MIRROR": "http://deb.debian.org/debian-security",
    }
    if shutil.which("apt-get") is None or platform.freedesktop_os_release()["ID"] != "debian":
        return found
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    listing = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"]
    targets = subprocess.run(listing, capture_output=True, text=True, check=False).stdout
    found |= parse_mirrors(targets, codename)
    proxy = subprocess.run(
        ["apt-config", "shell", "proxy", "Acquire::http::Proxy"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    if proxy:
        found["http_proxy"] = shlex.split(proxy)[0].partition("=")[2]
    return found


def parse_mirrors(targets: str, codename: str) -> dict[str, str]:
    """The mirrors of a release and of its security updates, from lines of suite and address."""
    names = {codename: "MIRROR", f"{codename}-security": "SECURITY_MIRROR"}
    found: dict[str, str] = {}
    for line in targets.splitlines():
        suite, _, address = line.partition(" ")
        if suite in names and address.startswith(("http://", "https://")):
            found.setdefault(names[suite], address.rstrip("/"))
    return found


def _events(
    call: Callable[..., Iterable[dict[str, Any]]], *, silence: float, **arguments: Any
) -> Iterator[dict[str, Any]]:
    """The events of a streaming call to the engine, and an empty one for every quiet second.

    Raises TimeoutError if the engine says nothing for `silence` seconds.
    """
    events: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()

    def listen() -> None:
        try:
            for event in call(decode=True, **arguments):
                events.put(event)
            events.put(None)
        except Exception as error:  # raised again below, where it belongs
            events.put(error)

    threading.Thread(target=listen, daemon=True).start()
    quiet = 0
    while True:
        try:
            event = events.get(timeout=1)
        except queue.Empty:
            quiet += 1
            if quiet >= silence:
                raise TimeoutError(f"no answer within {silence:.0f} s") from None
            yield {}
            continue
        quiet = 0
        if event is None:
            return
        if isinstance(event, Exception):
            raise event
        yield event
