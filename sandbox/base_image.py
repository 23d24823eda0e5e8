"""The base of all images: Debian's official one, or one built from its archive."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import docker
import requests
from docker.models.images import Image

from sandbox import tools
from sandbox.util import PREFIX, STATE, SandboxError, events, run_logged, say, shorten

SUITE = "trixie"
REFERENCE = f"{PREFIX}/base:{SUITE}"
_OFFICIAL = f"debian:{SUITE}-slim"
# A registry that can be reached answers sooner.
_REGISTRY_TIMEOUT = 10.0


def ensure(client: docker.DockerClient) -> Image:
    """Return the base of all recipes.

    It is Debian's official image, or the same built from Debian's archive.
    """
    with suppress(docker.errors.ImageNotFound):
        return client.images.get(REFERENCE)
    if not _pull(client):
        _bootstrap(client)
    return client.images.get(REFERENCE)


def _pull(client: docker.DockerClient) -> bool:
    """Fetch the official image. Return whether that succeeded in time."""
    is_present = bool(client.images.list(_OFFICIAL))
    if not is_present:
        say("images", f"asking the registry for {_OFFICIAL}")
        name, _, tag = _OFFICIAL.partition(":")
        try:
            for event in events(client.api.pull, silence=_REGISTRY_TIMEOUT, repository=name, tag=tag, stream=True):
                if "error" in event:
                    raise docker.errors.APIError(event["error"])
        except (docker.errors.APIError, requests.RequestException, SandboxError) as error:
            say("images", f"no answer: {shorten(getattr(error, 'explanation', None) or str(error), 80)}")
            return False
    client.images.get(_OFFICIAL).tag(REFERENCE)
    if not is_present:
        client.images.remove(_OFFICIAL)
    return True


def _bootstrap(client: docker.DockerClient) -> None:
    """Build the base from Debian's archive, as the official image is built."""
    if os.geteuid() != 0:
        raise SandboxError(
            f"Docker cannot pull {_OFFICIAL}, and only root can build it from packages: "
            "give Docker access to a registry, or run this as root on Debian"
        )
    archive = STATE / "base.tar"
    debian(archive, "minbase", topic="images", text=f"building the base image from Debian's archive ({SUITE})")
    name, _, tag = REFERENCE.partition(":")
    client.api.import_image_from_file(str(archive), repository=name, tag=tag)
    archive.unlink()


def debian(target: Path, variant: str, *options: str, topic: str, text: str) -> None:
    """Build a Debian root with mmdebstrap. Needs root.

    `target` is a directory, or an archive if its name ends with .tar. `variant` and `options` are mmdebstrap's. The
    variant `extract` only unpacks packages and their dependencies.
    """
    env = tools.provide({"mmdebstrap": "mmdebstrap"})
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if not keyring.with_name(f"debian-archive-{SUITE}-stable.gpg").exists():
        # The keyring of this machine is older than the suite.
        keyring = tools.unpack_one("debian-archive-keyring") / keyring.relative_to("/")
    mirror, security = (mirrors()[name] for name in ("MIRROR", "SECURITY_MIRROR"))
    sources = [
        f"deb {mirror} {SUITE} main",
        f"deb {mirror} {SUITE}-updates main",
        f"deb {security} {SUITE}-security main",
    ]
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    run_logged(
        topic,
        text,
        [
            *(str(tools.find("mmdebstrap")), "--mode=root", f"--variant={variant}"),
            *(f"--keyring={keyring}", *excluded, *options, SUITE, str(target), *sources),
        ],
        env=env,
        timeout=900,
    )


def mirrors() -> dict[str, str]:
    """Return the Debian mirrors of this machine, or the default ones."""
    addresses = {
        "MIRROR": "http://deb.debian.org/debian",
        "SECURITY_MIRROR": "http://deb.debian.org/debian-security",
    }
    if shutil.which("apt-get") is None or platform.freedesktop_os_release()["ID"] != "debian":
        return addresses
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    listing = [*tools.apt_get(), "indextargets", "--format", "$(RELEASE) $(REPO_URI)"]
    targets = subprocess.run(listing, capture_output=True, text=True, check=False).stdout
    addresses |= parse_mirrors(targets, codename)
    proxy = subprocess.run(
        ["apt-config", "shell", "proxy", "Acquire::http::Proxy"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    if proxy:
        addresses["http_proxy"] = shlex.split(proxy)[0].partition("=")[2]
    return addresses


def parse_mirrors(targets: str, codename: str) -> dict[str, str]:
    """Return the mirrors of a release and of its security updates.

    Each line of `targets` has a suite and an address.
    """
    names = {codename: "MIRROR", f"{codename}-security": "SECURITY_MIRROR"}
    mirrors: dict[str, str] = {}
    for line in targets.splitlines():
        suite, _, address = line.partition(" ")
        if suite in names and address.startswith(("http://", "https://")):
            mirrors.setdefault(names[suite], address.rstrip("/"))
    return mirrors
