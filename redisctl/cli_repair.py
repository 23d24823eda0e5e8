"""The verb for data files that Redis does not load."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.markup import escape
from rich.table import Table

from redisctl import aof, replace
from redisctl import repair as repairing
from redisctl.cli import as_json, console, of_this_host, print_json
from redisctl.health import EXIT_CODES, OK, WARNING
from redisctl.instance import Instance
from redisctl.locking import locked
from redisctl.repair import LOG, OTHER, Report
from redisctl.sizes import took


@click.command()
@click.option(
    "--yes", is_flag=True, help="Do it. Without this a copy is repaired and loaded aside, nothing is changed."
)
@click.option("--from", "choice", type=click.Choice([LOG, OTHER]), help="Of what. Default: what loses less.")
@click.option("--names", is_flag=True, help="Name the keys that would be lost. A session's key is its cookie.")
@as_json
@of_this_host
def repair(instance: Instance, *, yes: bool, choice: str | None, names: bool, as_json: bool) -> None:
    """Say what is wrong with data files that Redis does not load, and mend them.

    It works on a copy, with Redis's own checkers. It says which file is damaged and where, what would be cut off, and
    what a Redis that loads the rest has, before anything is changed. A log of writes is cut at the first damage. A
    damaged snapshot cannot be mended: then the one beside the log is taken where that is whole.

    With --yes Redis stops, or the engine that starts it again and again, and starts with the repaired copy. The present
    files stay in data/former/.

    \b
    redisctl repair                        # look; changes nothing
    redisctl repair --yes
    redisctl repair --from snapshot        # not the log, but dump.rdb beside it

    Exit codes: 0 nothing is damaged, or it is repaired; 1 damage, and nothing was done; 3 it could not be told.
    """
    with locked(instance, "repair"):
        replace.refuse_interrupted(instance)
        if repairing.serves(instance) and not _forgotten(instance):
            _say_that_it_serves(instance, as_json=as_json)
            return
        began = time.monotonic()
        with _still(instance, yes=yes), repairing.examined(instance, choice or "") as report:
            repaired = yes and report.seen is not None and not report.is_whole
            if not as_json:
                _print(report, names=names)
            if repaired:
                repairing.put_in_place(instance, report)
    _say_what_became(instance, report, repaired=repaired, names=names, as_json=as_json, took_=time.monotonic() - began)
    sys.exit(EXIT_CODES[OK if repaired or report.is_whole else WARNING])


def _forgotten(instance: Instance) -> bool:
    """Whether Redis serves without a log that lies beside its own."""
    log, manifest = replace.live_log(instance)
    if not replace.has_log(instance) or not manifest.exists():
        return False
    return bool(aof.forgotten(manifest.read_text(errors="replace"), [path.name for path in log.iterdir()]))


@contextmanager
def _still(instance: Instance, *, yes: bool) -> Iterator[None]:
    if not yes:
        yield
        return
    with repairing.stopped(instance):
        yield


def _say_that_it_serves(instance: Instance, *, as_json: bool) -> None:
    if as_json:
        print_json({"instance": instance.name, "serves": True, "repaired": False})
    else:
        click.echo("Redis serves: there is nothing to repair")


def _print(report: Report, *, names: bool) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for look in (
        repairing.found_in_words(report),
        repairing.lost_in_words(report),
        repairing.left_in_words(report, time.time()),
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
        told = repairing.as_dict(report, names=names)
        print_json({"instance": instance.name, "serves": False, "repaired": repaired, **told})
    elif repaired:
        click.echo(
            f"repaired: Redis serves again, after {took(took_)}. The damaged files are in "
            f"{instance.data}/{replace.FORMER}; redisctl restore --forget removes them"
        )
    else:
        click.echo(repairing.advice(report))


COMMANDS = (repair,)
