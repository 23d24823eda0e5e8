"""The verb log."""

import click

from redisctl.cli.common import as_json, echo, print_json, with_instance
from redisctl.core import docker
from redisctl.core.instance import LOG_FILE, LOG_LIMIT, Instance


@click.command()
@click.option("--last", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many lines.")
@click.option("--container", is_flag=True, help="Show what the container printed: errors before redis.log is open.")
@as_json
@with_instance
def log(instance: Instance, last: int, *, container: bool, as_json: bool) -> None:
    """Show the end of redis.log.

    Redis can replace its log by a link, a FIFO or control characters for a terminal. So use this instead of tail and of
    Docker's own command: it reads only a regular file of Redis, at most the last 256 KiB, and replaces control
    characters.
    """
    if container:
        lines = docker.output(instance.name, last)
    else:
        lines = instance.log_files.read_end(LOG_FILE, 0, LOG_LIMIT).splitlines()[-last:]
    if as_json:
        print_json({"instance": instance.name, "lines": lines})
        return
    for line in lines:
        echo(line)
