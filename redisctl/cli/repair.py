"""The command that repairs data files that Redis does not load."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from redisctl.cli.common import (
    as_json,
    discard_unsaved_option,
    echo,
    exclusive,
    print_columns,
    print_json,
    with_instance,
)
from redisctl.core import aof_manifest
from redisctl.core.formatting import took
from redisctl.core.instance import Instance
from redisctl.core.journal import Journal
from redisctl.data import layout
from redisctl.data.repair import AOF, RDB, Report, examine, is_serving, put_in_place
from redisctl.data.repair_report import as_dict, describe_findings, describe_losses, describe_remaining, next_step
from redisctl.data.swap import redis_stopped
from redisctl.monitor.health import EXIT_CODES, OK, WARNING


@click.command()
@click.option("--yes", is_flag=True, help="Do it. Without this only a copy is repaired and test loaded.")
@click.option("--source", "choice", type=click.Choice([AOF, RDB]), help="What to use. Default: what loses less.")
@click.option("--names", is_flag=True, help="Show the keys that would be lost. The key of a session is its cookie.")
@discard_unsaved_option
@as_json
@with_instance
def repair(
    instance: Instance, *, yes: bool, choice: str | None, names: bool, discard_unsaved: bool, as_json: bool
) -> None:
    """Report what is wrong with data files that Redis does not load, and repair them.

    Repair works on a copy, with Redis's own checkers. Before anything changes, it reports which file is damaged and
    where, what would be lost, and what a Redis that has loaded the rest contains. An AOF is truncated at the first
    damage. An RDB snapshot cannot be repaired; the one next to the AOF can replace the AOF.

    With --yes Redis stops, and starts with the repaired copy. The current files stay in data/previous/.

    \b
    redisctl repair                        # examines; changes nothing
    redisctl repair --yes
    redisctl repair --source rdb           # uses dump.rdb instead of the AOF

    Exit codes: 0 nothing is damaged, or it is repaired; 1 damage, and nothing was changed; 3 it could not find out.
    """
    with exclusive(instance, "repair"):
        if is_serving(instance) and not _has_orphaned_aof(instance):
            _print_serving(instance, as_json=as_json)
            return
        began = time.monotonic()
        with (
            _stopped_for_repair(instance, yes=yes, discard_unsaved=discard_unsaved) as stopped,
            examine(instance, choice or "") as report,
        ):
            repaired = yes and report.loaded_data is not None and not report.is_intact
            if not as_json:
                _print(report, names=names)
            if stopped and repaired:
                put_in_place(instance, report, stopped)
    _print_result(instance, report, repaired=repaired, names=names, as_json=as_json, seconds=time.monotonic() - began)
    sys.exit(EXIT_CODES[OK if repaired or report.is_intact else WARNING])


def _has_orphaned_aof(instance: Instance) -> bool:
    """Say whether Redis started empty next to an AOF that it ignores."""
    if not layout.aof_enabled(instance):
        return False
    text = layout.read_own_manifest(instance)
    return text is not None and bool(aof_manifest.orphaned_parts(text, layout.list_aof(instance)))


@contextmanager
def _stopped_for_repair(instance: Instance, *, yes: bool, discard_unsaved: bool) -> Iterator[Journal | None]:
    if not yes:
        yield None
        return
    with redis_stopped(instance, "the repair", discard_unsaved=discard_unsaved) as record:
        yield record


def _print_serving(instance: Instance, *, as_json: bool) -> None:
    if as_json:
        print_json({"instance": instance.name, "serves": True, "repaired": False})
    else:
        echo("Redis serves: there is nothing to repair")


def _print(report: Report, *, names: bool) -> None:
    rows = (*describe_findings(report), *describe_losses(report), *describe_remaining(report, time.time()))
    print_columns(rows)
    if names:
        for name in report.lost.as_dict(names=True)["names"]:
            echo(name)


def _print_result(
    instance: Instance, report: Report, *, repaired: bool, names: bool, as_json: bool, seconds: float
) -> None:
    if as_json:
        values = as_dict(report, names=names)
        print_json({"instance": instance.name, "serves": False, "repaired": repaired, **values})
    elif repaired:
        echo(
            f"repaired: Redis serves again, after {took(seconds)}. The damaged files are in {instance.previous}: "
            "redisctl restore --discard-previous removes them"
        )
    else:
        echo(next_step(report))
