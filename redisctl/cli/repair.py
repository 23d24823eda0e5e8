"""The verb for data files that Redis does not load."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.markup import escape
from rich.table import Table

from redisctl.cli.common import as_json, console, exclusive, print_json, with_instance
from redisctl.core import aof_manifest
from redisctl.core.formatting import took
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal
from redisctl.data import layout
from redisctl.data.repair import (
    AOF,
    RDB,
    Report,
    as_dict,
    describe_findings,
    describe_losses,
    describe_remaining,
    examine,
    is_serving,
    next_step,
    put_in_place,
)
from redisctl.data.swap import redis_stopped
from redisctl.monitor.health import EXIT_CODES, OK, WARNING


@click.command()
@click.option(
    "--yes", is_flag=True, help="Do it. Without this a copy is repaired and loaded aside, nothing is changed."
)
@click.option("--source", "choice", type=click.Choice([AOF, RDB]), help="Of what. Default: what loses less.")
@click.option("--names", is_flag=True, help="Name the keys that would be lost. A session's key is its cookie.")
@as_json
@with_instance
def repair(instance: Instance, *, yes: bool, choice: str | None, names: bool, as_json: bool) -> None:
    """Say what is wrong with data files that Redis does not load, and mend them.

    It works on a copy, with Redis's own checkers. It says which file is damaged and where, what would be cut off, and
    what a Redis that loads the rest has, before anything is changed. A log of writes is cut at the first damage. A
    damaged snapshot cannot be mended: then the one beside the log is taken where that is whole.

    With --yes Redis stops, or the engine that starts it again and again, and starts with the repaired copy. The present
    files stay in data/previous/.

    \b
    redisctl repair                        # look; changes nothing
    redisctl repair --yes
    redisctl repair --source rdb           # not the log, but dump.rdb beside it

    Exit codes: 0 nothing is damaged, or it is repaired; 1 damage, and nothing was done; 3 it could not be told.
    """
    with exclusive(instance, "repair"):
        if is_serving(instance) and not _has_orphaned_aof(instance):
            _say_that_it_serves(instance, as_json=as_json)
            return
        began = time.monotonic()
        with _stopped_for_repair(instance, yes=yes) as stopped, examine(instance, choice or "") as report:
            repaired = yes and report.loaded_data is not None and not report.is_whole
            if not as_json:
                _print(report, names=names)
            if stopped and repaired:
                put_in_place(instance, report, stopped)
    _say_what_became(instance, report, repaired=repaired, names=names, as_json=as_json, took_=time.monotonic() - began)
    sys.exit(EXIT_CODES[OK if repaired or report.is_whole else WARNING])


def _has_orphaned_aof(instance: Instance) -> bool:
    """Whether Redis serves without a log that lies beside its own."""
    log, manifest = layout.current_aof(instance)
    if not layout.aof_enabled(instance) or not manifest.exists():
        return False
    return bool(
        aof_manifest.orphaned_parts(manifest.read_text(errors="replace"), [path.name for path in log.iterdir()])
    )


@contextmanager
def _stopped_for_repair(instance: Instance, *, yes: bool) -> Iterator[Journal | None]:
    if not yes:
        yield None
        return
    with redis_stopped(instance, "the repair") as record:
        yield record


def _say_that_it_serves(instance: Instance, *, as_json: bool) -> None:
    if as_json:
        print_json({"instance": instance.name, "serves": True, "repaired": False})
    else:
        click.echo("Redis serves: there is nothing to repair")


def _print(report: Report, *, names: bool) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for look in (
        describe_findings(report),
        describe_losses(report),
        describe_remaining(report, time.time()),
    ):
        for name, said in look:
            table.add_row(name, escape(said))
    console().print(table)
    if names:
        for name in report.lost.as_dict(names=True)["names"]:
            click.echo(name)


def _say_what_became(
    instance: Instance, report: Report, *, repaired: bool, names: bool, as_json: bool, took_: float
) -> None:
    if as_json:
        told = as_dict(report, names=names)
        print_json({"instance": instance.name, "serves": False, "repaired": repaired, **told})
    elif repaired:
        click.echo(
            f"repaired: Redis serves again, after {took(took_)}. The damaged files are in "
            f"{instance.previous}; redisctl restore --discard-previous removes them"
        )
    else:
        click.echo(next_step(report))
