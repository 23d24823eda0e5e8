"""The verb restore."""

import click

from redisctl.cli.common import as_json, discard_unsaved_option, exclusive, print_json, with_instance
from redisctl.core.errors import Failure
from redisctl.core.formatting import size, took
from redisctl.core.instance import Instance
from redisctl.data import swap
from redisctl.data.layout import previous_data_dirs
from redisctl.data.point_in_time import parse_time
from redisctl.data.restore import as_dict, find_candidate, prepared, put_in_place
from redisctl.data.swap import undo_swap


@click.command()
@click.argument("name", default="")
@click.option("--to", metavar="TIME", help="Go back to a moment in the log of writes: '2026-11-24 16:20:05'.")
@click.option("--yes", is_flag=True, help="Do it. Without this it is loaded aside, and nothing is changed.")
@click.option("--undo", is_flag=True, help="Put back what the last restore replaced.")
@click.option("--discard-previous", is_flag=True, help="Remove what restores replaced, to have its room.")
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
    discard_previous: bool,
    discard_unsaved: bool,
    as_json: bool,
) -> None:
    """Bring data back: from a backup, from files of another Redis, or from a moment in the log of writes.

    NAME is that of redisctl backup list, its beginning, or latest; or a path: of a backup that was copied here, of a
    dump.rdb, or of an appendonlydir.

    \b
    redisctl restore latest                        # says what would be there, changes nothing
    redisctl restore latest --yes
    redisctl restore /root/dump.rdb --yes          # of another Redis
    redisctl restore --to '2026-11-24 16:20:05'    # what was there at the end of that second
    redisctl restore --undo --yes                  # it was the wrong one

    It is checked and loaded in a scratch Redis first. Then Redis stops, the new data takes the place of the present one
    and Redis starts. The present data stays in data/previous/, and comes back by itself where Redis is not healthy with
    the new. How long Redis did not serve is said at the end.
    """
    if sum(map(bool, (name or to, undo, discard_previous))) != 1:
        raise click.UsageError("say one of: a name or --to, --undo, --discard-previous")
    with exclusive(instance, "restore"):
        if discard_previous or undo:
            told = _previous(instance, undo, yes, discard_unsaved=discard_unsaved)
        else:
            told = _restore(instance, name, to, yes, discard_unsaved=discard_unsaved)
    if as_json:
        print_json({"instance": instance.name, **told})
        return
    if told.get("warning"):
        click.echo(told["warning"])
    click.echo(told["words"])
    if told.get("dry_run"):
        click.echo("nothing was changed: --yes does it")


def _restore(instance: Instance, name: str, to: str | None, yes: bool, *, discard_unsaved: bool) -> dict[str, object]:
    chosen = find_candidate(instance, name, parse_time(to) if to else None)
    with prepared(instance, chosen) as told:
        seen = f"{told.keys} keys, {size(told.memory)} of memory"
        if not yes:
            words = f"{chosen.name}: loaded aside, {seen}. Redis would stop, and start with it"
            if chosen.created_now:
                words += ". That backup was made now, of the present data, and stays"
            return {"words": words, "dry_run": True, **as_dict(told)}
        swapped = put_in_place(instance, told, f"the restore of {chosen.name}", discard_unsaved=discard_unsaved)
        return {
            "words": f"{chosen.name} is restored: {seen}. Redis did not serve for {took(swapped.downtime)}. What it "
            f"replaced is in {instance.previous}: --undo puts it back, --discard-previous removes it",
            "dry_run": False,
            "down": round(swapped.downtime, 2),
            "warning": swapped.warning,
            **as_dict(told),
        }


def _previous(instance: Instance, undo: bool, yes: bool, *, discard_unsaved: bool) -> dict[str, object]:
    there = [path.name for path in previous_data_dirs(instance)]
    if not there:
        raise Failure("there is no former data: nothing was replaced, or it was removed by --discard-previous")
    if not yes:
        what = (
            f"put back what was replaced at {there[0]}" if undo else f"remove what was replaced at {', '.join(there)}"
        )
        return {"words": f"would {what}", "dry_run": True, "previous": there}
    if undo:
        moment, down = undo_swap(instance, discard_unsaved=discard_unsaved)
        words = f"what was replaced at {moment} is back. Redis did not serve for {took(down)}"
        return {"words": words, "dry_run": False, "down": round(down, 2)}
    return {"words": f"removed what was replaced at {', '.join(swap.discard_previous(instance))}", "dry_run": False}
