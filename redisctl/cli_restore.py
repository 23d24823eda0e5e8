"""The verb that brings data back."""

import click

from redisctl import replace
from redisctl import restore as restoring
from redisctl.cli import as_json, of_this_host, print_json
from redisctl.instance import Failure, Instance
from redisctl.locking import locked
from redisctl.sizes import size, took


@click.command()
@click.argument("name", default="")
@click.option("--to", metavar="MOMENT", help="Go back to a moment in the log of writes: '2026-11-24 16:20:05'.")
@click.option("--yes", is_flag=True, help="Do it. Without this it is loaded aside, and nothing is changed.")
@click.option("--undo", is_flag=True, help="Put back what the last restore replaced.")
@click.option("--forget", is_flag=True, help="Remove what restores replaced, to have its room.")
@click.option("--recover", is_flag=True, help="Put the former data back after a restore that was broken off.")
@as_json
@of_this_host
def restore(
    instance: Instance, *, name: str, to: str | None, yes: bool, undo: bool, forget: bool, recover: bool, as_json: bool
) -> None:
    """Bring data back: from a backup, from files of another Redis, or from a moment in the log of writes.

    NAME is that of redisctl backups, its beginning, or latest; or a path: of a backup that was copied here, of a
    dump.rdb, or of an appendonlydir.

    \b
    redisctl restore latest                        # says what would be there, changes nothing
    redisctl restore latest --yes
    redisctl restore /root/dump.rdb --yes          # of another Redis
    redisctl restore --to '2026-11-24 16:20:05'    # what was there at the end of that second
    redisctl restore --undo --yes                  # it was the wrong one

    It is checked and loaded in a scratch Redis first. Then Redis stops, the new data takes the place of the present one
    and Redis starts. The present data stays in data/former/, and comes back by itself where Redis is not healthy with
    the new. How long Redis did not serve is said at the end.
    """
    if sum(map(bool, (name or to, undo, forget, recover))) != 1:
        raise click.UsageError("say one of: a name or --to, --undo, --forget, --recover")
    with locked(instance, "restore"):
        if recover:
            told = _recover(instance)
        elif forget or undo:
            told = _former(instance, undo, yes)
        else:
            replace.refuse_interrupted(instance)
            told = _restore(instance, name, to, yes)
    if as_json:
        print_json({"instance": instance.name, **told})
        return
    click.echo(told["words"])
    if told.get("dry_run"):
        click.echo("nothing was changed: --yes does it")


def _restore(instance: Instance, name: str, to: str | None, yes: bool) -> dict[str, object]:
    chosen = restoring.find(instance, name, restoring.moment(to) if to else None)
    with restoring.prepared(instance, chosen) as told:
        seen = f"{told.keys} keys, {size(told.memory)} of memory"
        if not yes:
            words = f"{chosen.name}: loaded aside, {seen}. Redis would stop, and start with it"
            if chosen.taken:
                words += ". That backup was made now, of the present data, and stays"
            return {"words": words, "dry_run": True, **restoring.as_dict(told)}
        down = restoring.put_in_place(instance, told, f"the restore of {chosen.name}")
        return {
            "words": f"{chosen.name} is restored: {seen}. Redis did not serve for {took(down)}. What it replaced is in "
            f"{instance.data}/{replace.FORMER}: --undo puts it back, --forget removes it",
            "dry_run": False,
            "down": round(down, 2),
            **restoring.as_dict(told),
        }


def _former(instance: Instance, undo: bool, yes: bool) -> dict[str, object]:
    there = [path.name for path in replace.formers(instance)]
    if not there:
        raise Failure("there is no former data: nothing was replaced, or it was removed by --forget")
    if not yes:
        what = (
            f"put back what was replaced at {there[0]}" if undo else f"remove what was replaced at {', '.join(there)}"
        )
        return {"words": f"would {what}", "dry_run": True, "former": there}
    if undo:
        moment, down = replace.undo(instance)
        words = f"what was replaced at {moment} is back. Redis did not serve for {took(down)}"
        return {"words": words, "dry_run": False, "down": round(down, 2)}
    return {"words": f"removed what was replaced at {', '.join(replace.forget(instance))}", "dry_run": False}


def _recover(instance: Instance) -> dict[str, object]:
    what = replace.recover(instance)
    if not what:
        return {"words": "nothing was broken off", "recovered": False}
    return {"words": f"{what} was broken off: the former data is back and serves", "recovered": True}


COMMANDS = (restore,)
