"""The verb history."""

from datetime import datetime

import click
from rich.text import Text

from redisctl.cli.common import MAX_ROWS, as_json, console, make_table, print_json, with_instance
from redisctl.core.instance import Instance
from redisctl.monitor import deploy_history


@click.command()
@click.option(
    "--last", type=click.IntRange(1, 10_000), default=MAX_ROWS, show_default=True, help="Deploys, newest first."
)
@as_json
@with_instance
def history(instance: Instance, last: int, as_json: bool) -> None:
    """Tell what deploys and day-2 verbs did here: when, by whom, with which settings, and what changed.

    \b
    changed      these operations changed something
    no change    all was as wanted
    failed       it stopped at the operation that is named; what stands above it was changed
    interrupted  it was killed, or its connection or this host went down; a deploy finishes what it began
    running      it goes on now

    SETTINGS is a digest: two deploys with the same one had the same settings.
    """
    deploys, damaged = deploy_history.load(instance.name)
    newest = deploys[:last]
    if as_json:
        print_json({"instance": instance.name, "deploys": [one.as_dict() for one in newest], "damaged": damaged})
        return
    table = make_table("when", "who", "verb", "settings", "result", "what")
    for one in newest:
        when = f"{datetime.fromisoformat(one.started):%Y-%m-%d %H:%M:%S}"
        table.add_row(when, *map(Text, (one.who, one.verb, one.settings, one.result, one.what)))
    console().print(table)
    if damaged:
        click.echo(f"{damaged} damaged lines are left out", err=True)
