"""redisctl: one file on the host that looks after the instance."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.exceptions import PyinfraError

from redoubt import operations, render
from redoubt.instance import Instance
from redoubt.settings import SettingsError, load


@deploy("redisctl")
def redisctl(instance: Instance) -> None:
    """Install redisctl, and Python where the host has none."""
    if not instance.facts.has_python:
        operations.packages(name="Install Python", names=["python3"])
    operations.tree(name="Write redisctl", entries=render.redisctl_files(instance.settings))


@deploy("redisctl")
def redisctl_run() -> None:
    """Run a verb of redisctl on the host and print what it says; a day-2 verb, in day2/.

    ``run`` in the host's data is its command line. Nothing else is looked at: it has to work when a deploy would not.
    """
    try:
        settings = load(host.data.dict())
    except SettingsError as error:
        raise PyinfraError(f"{host.name}: {error}") from error
    line = str(host.data.get("run") or "health")
    operations.redisctl_run(name=f"Run redisctl {line}", settings=settings, line=line)
