"""The verbs health and stats."""

import sys

import click
from rich.table import Table

from redisctl.cli.common import as_json, console, print_json, with_instance
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.monitor.disk_status import add_disk_status
from redisctl.monitor.health import EXIT_CODES, overall, run_checks
from redisctl.monitor.stats import rows, stats_of
from redisctl.monitor.status import collect

COLOURS = {"ok": "green", "warning": "yellow", "critical": "bold red", "unknown": "magenta"}


@click.command()
@as_json
@with_instance
def health(instance: Instance, as_json: bool) -> None:
    """Say what is well and what is not, and what to do about it.

    It looks at the container, Redis, its memory, clients, persistence, disk, backups and certificate. The exit code is
    that of the worst verdict: 0 ok, 1 warning, 2 critical, 3 unknown, as monitors of Nagios's kind read it.
    """
    checks = run_checks(add_disk_status(instance, collect(instance)))
    verdict = overall(checks)
    if as_json:
        print_json({"instance": instance.name, "verdict": verdict, "checks": [check.as_dict() for check in checks]})
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for check in checks:
            advice = f"\n→ {check.remedy}" if check.remedy else ""
            table.add_row(_coloured(check.verdict), check.name, check.observed + advice)
        console().print(table)
        console().print(f"{instance.name} is", _coloured(verdict))
    sys.exit(EXIT_CODES[verdict])


@click.command()
@as_json
@with_instance
def stats(instance: Instance, as_json: bool) -> None:
    """Print one reading: memory, clients, rates since the start, hits, keys, persistence."""
    reading = collect(instance)
    if reading.unreachable_reason:
        raise Failure(reading.unreachable_reason)
    values = stats_of(reading)
    if as_json:
        print_json({"instance": instance.name, **values})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows(values):
        table.add_row(name, value)
    console().print(table)


def _coloured(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/]"
