"""redisctl: one file on the host that looks after the instance."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.exceptions import PyinfraError

from redoubt import host_files
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.instance import run_redisctl
from redoubt.operations.packages import install_packages
from redoubt.settings.load import SettingsError, load


@deploy("redisctl")
def redisctl(instance: Instance) -> None:
    """Install redisctl, and Python where the host has none."""
    if not instance.facts.has_python:
        install_packages(name="Install Python", names=["python3"])
    files(name="Write redisctl", entries=host_files.redisctl_files(instance.settings))


@deploy("redisctl")
def run_verb() -> None:
    """Run a verb of redisctl on the host and print what it says; a day-2 verb, in day2/.

    ``redis_run`` in the host's data is its command line. Nothing else is looked at: it has to work when a deploy would
    not.
    """
    try:
        settings = load(host.data.dict())
    except SettingsError as error:
        raise PyinfraError(f"{host.name}: {error}") from error
    line = str(host.data.get("redis_run") or "health")
    run_redisctl(name=f"Run redisctl {line}", settings=settings, line=line)
