"""Removal of everything that the sandbox has created.

After `clean`, the machine is as it was before the first `up`.
"""

from __future__ import annotations

import shutil

import docker

from sandbox import engine, hosts, image_build, ssh, vm
from sandbox.util import ID, LABEL, ROOT, RUNTIME, STATE, SandboxError, lock, say


def clean() -> None:
    """Remove hosts, images, networks, the sandbox's Docker, `.sandbox` and `.venv`."""
    with lock():
        for host in hosts.load():
            ssh.hang_up(host.name)
            if host.kind != "container":  # a host with a damaged record may be one, too
                say("clean", f"removing virtual machine {host.name}")
                vm.remove(host)
        if engine.was_started():
            # Docker itself can best remove what a killed Docker left.
            try:
                engine.start()
            except SandboxError as error:
                say("clean", f"the sandbox's Docker does not start, so its files are removed without it: {error}")
        client = engine.answering()
        if client is not None:
            _remove_objects(client)
        elif any(host.kind == "container" for host in hosts.load()) and not engine.was_started():
            raise SandboxError("the Docker that runs the hosts does not answer: start it and try again")
        engine.remove()
        for path in (STATE, RUNTIME, ROOT / ".venv"):
            if path.exists():
                say("clean", f"removing {path}")
                # A .venv that is a link belongs to another checkout.
                path.unlink() if path.is_symlink() else shutil.rmtree(path)


def _remove_objects(client: docker.DockerClient) -> None:
    """Remove all Docker objects with the sandbox's label or name, and no others."""
    own: dict[str, str | list[str] | bool] = {"label": f"{LABEL}={ID}"}
    for container in client.containers.list(all=True, filters=own):
        say("clean", f"removing container {container.name}")
        container.remove(force=True, v=True)
    for volume in client.volumes.list(filters=own):
        volume.remove()
    for network in client.networks.list(filters=own):
        network.remove()
    image_build.remove(client)
