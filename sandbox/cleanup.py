"""The way back: after `clean` the machine is as it was before the first `up`."""

from __future__ import annotations

import shutil

import docker

from sandbox import engine, hosts, image_build, ssh, vm
from sandbox.util import ID, LABEL, ROOT, RUNTIME, STATE, SandboxError, lock, say


def clean() -> None:
    """Remove hosts, images, networks, our own engine if any, `.sandbox` and `.venv`."""
    with lock():
        for host in hosts.load():
            ssh.hang_up(host.name)
            if host.kind != "container":  # also one whose record is damaged
                say("clean", f"removing virtual machine {host.name}")
                vm.remove(host)
        if engine.was_started():
            # One that was killed is started again: nobody knows better what it left lying about.
            try:
                engine.start()
            except SandboxError as error:
                say("clean", f"our engine does not start again, so this goes on without it: {error}")
        client = engine.answering()
        if client is not None:
            _remove_objects(client)
        elif any(host.kind == "container" for host in hosts.load()) and not engine.was_started():
            raise SandboxError("the engine that has the hosts does not answer: start it, and try again")
        engine.remove()
        for path in (STATE, RUNTIME, ROOT / ".venv"):
            if path.exists():
                say("clean", f"removing {path}")
                shutil.rmtree(path)


def _remove_objects(client: docker.DockerClient) -> None:
    """Remove what carries our label or our name from an engine, and nothing else."""
    ours: dict[str, str | list[str] | bool] = {"label": f"{LABEL}={ID}"}
    for container in client.containers.list(all=True, filters=ours):
        say("clean", f"removing container {container.name}")
        container.remove(force=True, v=True)
    for volume in client.volumes.list(filters=ours):
        volume.remove()
    for network in client.networks.list(filters=ours):
        network.remove()
    image_build.remove(client)
