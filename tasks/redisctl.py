"""redisctl: the program that does the work on the host, and its recovery units."""

import shlex

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.exceptions import PyinfraError

from redoubt import host_files, recovery_units
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.packages import install_packages
from redoubt.operations.redisctl import enable_recovery, install_redisctl, run_redisctl
from redoubt.settings.load import SettingsError, load


@deploy("redisctl")
def redisctl(instance: Instance) -> None:
    """Install redisctl of this release and the units that finish interruptions.

    Also installs Python if the host has none. redisctl.json keeps the settings of the running Redis until the deploy
    has finished.
    """
    settings = instance.settings
    if not instance.facts.has_python:
        install_packages(name="Install Python", names=["python3"])
    program = [*host_files.redisctl_program(settings)]
    if not instance.facts.has_redisctl_config:
        program.append(host_files.redisctl_config(settings))
    install_redisctl(name="Install redisctl", entries=program)
    files(name="Write the units that finish interruptions", entries=recovery_units.files(settings))
    enable_recovery(name="Finish interruptions at boot", settings=settings)


@deploy("Record")
def record(instance: Instance) -> None:
    """Describe the deployed instance to redisctl and to the next deploy.

    Redis already runs with these settings.
    """
    settings = instance.settings
    entries = [host_files.redisctl_config(settings), host_files.deployed_settings(settings)]
    files(name="Record the deployed settings", entries=entries)


@deploy("redisctl")
def run_verb() -> None:
    """Run a verb of redisctl on the host and print what it reports.

    This is a day-2 verb, in day2/. ``redis_run`` in the host's data is the verb's command line. It also works if a
    deploy is refused, because nothing else is inspected.
    """
    try:
        settings = load(host.data.dict())
    except SettingsError as error:
        raise PyinfraError(f"{host.name}: {error}") from error
    line = str(host.data.get("redis_run") or "health")
    try:
        # Split here, so that the host's shell does not interpret the line.
        words = shlex.split(line)
    except ValueError as error:
        raise PyinfraError(f"{host.name}: redis_run = {line!r}: {error}") from error
    run_redisctl(name=f"Run redisctl {line}", settings=settings, words=words)
