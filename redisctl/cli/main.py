"""The command line. Every verb prints for people, or with --json for programs; passwords are never arguments."""

import signal
import sys
from collections.abc import Callable
from typing import Any

import click
from redis.exceptions import RedisError

from redisctl.cli.backup import backup
from redisctl.cli.common import OrderedGroup
from redisctl.cli.deploy import deploy, recover, remove, start, state, stop
from redisctl.cli.health import health, stats
from redisctl.cli.history import history
from redisctl.cli.inspect import latency, memory, slowlog, top
from redisctl.cli.migrate import import_
from redisctl.cli.queues import queues
from redisctl.cli.repair import repair
from redisctl.cli.restore import restore
from redisctl.cli.sessions import sessions
from redisctl.core import process
from redisctl.core.errors import Failure
from redisctl.core.instance import error_text
from redisctl.monitor.health import EXIT_CODES, UNKNOWN


@click.group(cls=OrderedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Look after the Redis instance of this host. Run it as root.

    \b
    Something is wrong?       redisctl health
    What is it doing?         redisctl stats, and top to watch it
    Why is it slow?           redisctl slowlog, latency
    What takes the memory?    redisctl memory
    What do sessions take?    redisctl sessions
    What became of jobs?      redisctl queues
    Is the data safe?         redisctl backup list; backup takes one, backup verify proves one
    Data was lost?            redisctl restore
    Files are damaged?        redisctl repair
    Another Redis to leave?   redisctl import
    What was deployed?        redisctl history

    Exit codes: 0 well, 1 warning, 2 critical, 3 the question could not be answered.
    """


def run_cli(command: Callable[[], Any]) -> int:
    """Run a command line; failures become words on standard error and exit code 3."""
    try:
        command()
    except (Failure, OSError) as error:
        click.echo(f"redisctl: {error_text(error)}", err=True)
    except RedisError as error:
        click.echo(f"redisctl: Redis says: {error_text(error)}", err=True)
    except click.ClickException as error:
        error.show()
    except click.Abort:
        click.echo("redisctl: called off", err=True)
    else:
        return 0
    return EXIT_CODES[UNKNOWN]


for _command in (
    health,
    stats,
    top,
    slowlog,
    latency,
    memory,
    history,
    sessions,
    queues,
    backup,
    restore,
    repair,
    import_,
    stop,
    start,
    recover,
    remove,
    deploy,
    state,
):
    cli.add_command(_command)


def main() -> None:
    """The program."""
    process.pin_environment()
    # What a verb began is put away when it is told to end, by systemd as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run_cli(lambda: cli(standalone_mode=False)))
