"""The command line. Every verb prints for people, or with --json for programs; passwords are never arguments."""

import functools
import json
import signal
import sys
from collections.abc import Callable
from typing import Any

import click
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from redisctl import health as judgement
from redisctl.instance import Failure, Instance, in_words, installed
from redisctl.keeping import with_files
from redisctl.readings import read
from redisctl.snapshot import rows, snapshot_of

COLOURS = {"ok": "green", "warning": "yellow", "critical": "bold red", "unknown": "magenta"}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def of_this_host(command: Callable[..., None]) -> Callable[..., None]:
    """Give a verb its instance, once its own options are understood: help needs no root."""

    @functools.wraps(command)
    def called(**options: Any) -> None:
        command(installed(), **options)

    return called


class Commands(click.Group):
    """Verbs in the order in which they are written here: what is looked at first comes first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Look after the Redis instance of this host. Run it as root.

    \b
    Something is wrong?       redisctl health
    What is it doing?         redisctl snapshot, and top to watch it
    Why is it slow?           redisctl slowlog, latency
    What takes the memory?    redisctl memory
    What do sessions take?    redisctl sessions
    What became of jobs?      redisctl queues
    Is the data safe?         redisctl backups; backup takes one, verify proves one
    Data was lost?            redisctl restore
    Files are damaged?        redisctl repair
    Another Redis to leave?   redisctl import
    What was deployed?        redisctl history

    Exit codes: 0 well, 1 warning, 2 critical, 3 the question could not be answered.
    """


@cli.command()
@as_json
@of_this_host
def health(instance: Instance, as_json: bool) -> None:
    """Say what is well and what is not, and what to do about it.

    It looks at the container, Redis, its memory, clients, persistence, disk, backups and certificate. The exit code is
    that of the worst verdict: 0 ok, 1 warning, 2 critical, 3 unknown, as monitors of Nagios's kind read it.
    """
    checks = judgement.judge(with_files(instance, read(instance)))
    verdict = judgement.worst(checks)
    if as_json:
        print_json({"instance": instance.name, "verdict": verdict, "checks": [check.as_dict() for check in checks]})
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for check in checks:
            advice = f"\n→ {check.advice}" if check.advice else ""
            table.add_row(_coloured(check.verdict), check.name, check.seen + advice)
        console().print(table)
        console().print(f"{instance.name} is", _coloured(verdict))
    sys.exit(judgement.EXIT_CODES[verdict])


@cli.command()
@as_json
@of_this_host
def snapshot(instance: Instance, as_json: bool) -> None:
    """Print one reading: memory, clients, rates since the start, hits, keys, persistence."""
    reading = read(instance)
    if reading.silent:
        raise Failure(reading.silent)
    values = snapshot_of(reading)
    if as_json:
        print_json({"instance": instance.name, **values})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows(values):
        table.add_row(name, value)
    console().print(table)


def _coloured(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/]"


def console() -> Console:
    """Where people read."""
    # Piped or logged, lines stay whole.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def print_json(value: Any) -> None:
    """What programs read."""
    click.echo(json.dumps(value, indent=2))


def run(command: Callable[[], Any]) -> int:
    """Run a command line; failures become words on standard error and exit code 3."""
    try:
        command()
    except (Failure, OSError) as error:
        click.echo(f"redisctl: {in_words(error)}", err=True)
    except RedisError as error:
        click.echo(f"redisctl: Redis says: {in_words(error)}", err=True)
    except click.ClickException as error:
        error.show()
    except click.Abort:
        click.echo("redisctl: called off", err=True)
    else:
        return 0
    return judgement.EXIT_CODES[judgement.UNKNOWN]


def main() -> None:
    """The program."""
    # Here: they are made with what stands above.
    from redisctl import cli_backup, cli_import, cli_live, cli_repair, cli_restore
    from redisctl.cli_queues import queues
    from redisctl.cli_sessions import sessions

    modules = (cli_backup, cli_restore, cli_repair, cli_import)
    for command in (*cli_live.COMMANDS, sessions, queues, *(one for module in modules for one in module.COMMANDS)):
        cli.add_command(command)
    # What a verb began is put away when it is told to end, by systemd as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(lambda: cli(standalone_mode=False)))
