"""The command that restores data, undoes a restore, and removes previous data."""

from dataclasses import replace
from typing import Any

import click

from redisctl.cli.common import UNCHANGED, as_json, discard_unsaved_option, echo, exclusive, print_json, with_instance
from redisctl.core.errors import Failure
from redisctl.core.formatting import size, took
from redisctl.core.instance import Instance
from redisctl.data.layout import previous_data_dirs
from redisctl.data.point_in_time import parse_time
from redisctl.data.restore import (
    NO_PREVIOUS,
    Candidate,
    Prepared,
    as_dict,
    find_candidate,
    prepared,
    prepared_previous,
    put_in_place,
)
from redisctl.data.swap import Swapped, discard_previous


@click.command()
@click.argument("name", default="")
@click.option("--to", metavar="TIME", help="Restore a point in time from the AOF: '2026-11-24 16:20:05'.")
@click.option("--yes", is_flag=True, help="Do it. Without this the data is only test loaded.")
@click.option("--with-functions", is_flag=True, help="Restore the functions of another Redis, too: they are code.")
@click.option("--undo", is_flag=True, help="Bring back the data that the last restore replaced.")
@click.option("--discard-previous", "discard", is_flag=True, help="Remove the data that restores replaced.")
@discard_unsaved_option
@as_json
@with_instance
def restore(
    instance: Instance,
    *,
    name: str,
    to: str | None,
    yes: bool,
    undo: bool,
    discard: bool,
    discard_unsaved: bool,
    with_functions: bool,
    as_json: bool,
) -> None:
    """Restore data from a backup, files of another Redis, or a point in time.

    NAME is a name from 'redisctl backup list', the beginning of one, or latest. It can also be a path, with a slash: of
    a copied backup, of a dump.rdb, of an AOF in one file, or of an appendonlydir. Users, scripts and settings in the
    files of another Redis are never restored, its functions only with --with-functions.

    \b
    redisctl restore latest                        # test loads it; changes nothing
    redisctl restore latest --yes
    redisctl restore /root/dump.rdb --yes          # from another Redis
    redisctl restore --to '2026-11-24 16:20:05'    # everything until the end of that second
    redisctl restore --undo --yes                  # brings the data from before back

    The data is checked and loaded in a second Redis first, also that of --undo. Then Redis stops, the current data
    becomes the previous data in data/previous/, and Redis starts with the restored data. If it is not healthy, the
    previous data comes back. At the end restore reports how long Redis was down.
    """
    if sum(map(bool, (name or to, undo, discard))) != 1:
        raise click.UsageError("give one of: a name or --to, --undo, --discard-previous")
    with exclusive(instance, "restore"):
        if undo:
            result = _undo(instance, yes=yes, discard_unsaved=discard_unsaved, quiet=as_json)
        elif discard:
            result = _discard(instance, yes=yes)
        else:
            at = parse_time(to) if to else None
            candidate = find_candidate(instance, name, at)
            result = _restore(
                instance,
                candidate,
                yes=yes,
                discard_unsaved=discard_unsaved,
                with_functions=with_functions,
                quiet=as_json,
            )
    if as_json:
        print_json({"instance": instance.name, **result})
        return
    if result.get("warning"):
        echo(result["warning"])
    echo(result["message"])
    if result["dry_run"]:
        echo(UNCHANGED)


def _restore(
    instance: Instance, candidate: Candidate, *, yes: bool, discard_unsaved: bool, with_functions: bool, quiet: bool
) -> dict[str, Any]:
    with prepared(instance, candidate, with_functions=with_functions) as data:
        if not quiet:
            # Before anything is replaced.
            origin = [data.origin] if data.origin else []
            for line in (*origin, *data.warnings, *_describe_functions(data, with_functions=with_functions)):
                echo(line)
        # The functions that stay behind are named above.
        kept = data.contents if with_functions or not data.is_foreign else replace(data.contents, functions={})
        contents = f"{kept.describe()}, {size(data.memory)} of memory"
        if not yes:
            message = f"{candidate.name} was test loaded: {contents}. --yes restarts Redis with this data"
            if candidate.created_now:
                message += ". This backup of the current data was created for it, and stays"
            return {"message": message, "dry_run": True, **as_dict(data)}
        swapped = put_in_place(instance, data, f"the restore of {candidate.name}", discard_unsaved=discard_unsaved)
    message = (
        f"{candidate.name} is restored: {contents}. Redis was down for {took(swapped.downtime)}. The previous data is "
        f"in {instance.previous}/{swapped.previous}: --undo brings it back, --discard-previous removes it"
    )
    return {"message": message, **_as_dict(swapped), **as_dict(data)}


def _describe_functions(data: Prepared, *, with_functions: bool) -> list[str]:
    """Say what happens to the functions of another Redis."""
    libraries = data.contents.functions.items()
    names = ", ".join(f"{library} ({', '.join(functions)})" for library, functions in libraries)
    if not names or not data.is_foreign:
        return []
    if with_functions:
        return [f"functions of the libraries {names} are restored, too"]
    return [f"functions are code and are left out, unless --with-functions is given: {names}"]


def _undo(instance: Instance, *, yes: bool, discard_unsaved: bool, quiet: bool) -> dict[str, Any]:
    with prepared_previous(instance) as (name, data):
        if not quiet:
            for line in data.warnings:
                echo(line)
        contents = f"{data.contents.describe()}, {size(data.memory)} of memory"
        if not yes:
            message = f"the data that was replaced at {name} was test loaded: {contents}. --yes restarts Redis with it"
            return {"message": message, "dry_run": True, **as_dict(data), "previous": _previous(instance)}
        swapped = put_in_place(
            instance, data, f"the undo of what was replaced at {name}", discard_unsaved=discard_unsaved
        )
    message = f"the data that was replaced at {name} is back: {contents}. Redis was down for {took(swapped.downtime)}"
    return {"message": message, **_as_dict(swapped), **as_dict(data)}


def _discard(instance: Instance, *, yes: bool) -> dict[str, Any]:
    names = _previous(instance)
    if not yes:
        message = f"would remove the data that was replaced at {', '.join(names)}"
        return {"message": message, "dry_run": True, "previous": names}
    removed = discard_previous(instance)
    return {"message": f"removed the data that was replaced at {', '.join(removed)}", "dry_run": False}


def _previous(instance: Instance) -> list[str]:
    names = [path.name for path in previous_data_dirs(instance)]
    if not names:
        raise Failure(NO_PREVIOUS)
    return names


def _as_dict(swapped: Swapped) -> dict[str, Any]:
    return {
        "dry_run": False,
        "downtime": round(swapped.downtime, 2),
        "previous": swapped.previous,
        "warning": swapped.warning,
    }
