"""The verb history."""

from datetime import datetime

import click

from redisctl.cli.common import MAX_ROWS, as_json, echo, print_json, print_table, with_instance
from redisctl.core.instance import Instance
from redisctl.monitor import deploy_history


@click.command()
@click.option(
    "--last", type=click.IntRange(1, 10_000), default=MAX_ROWS, show_default=True, help="How many, newest first."
)
@as_json
@with_instance
def history(instance: Instance, last: int, as_json: bool) -> None:
    """Show deploys and day-2 verbs: when, who, with which settings, and what changed.

    \b
    changed      the operations that are named changed something
    no change    everything was up to date
    failed       it stopped at the operation that is named; the operations above it changed something
    interrupted  it was killed, or it lost its connection or the host; the next deploy finishes it
    running      it is running now

    "settings" is a digest: deploys with the same digest had the same settings.
    """
    deploys, damaged = deploy_history.load(instance.name)
    newest = deploys[:last]
    if as_json:
        print_json({"instance": instance.name, "deploys": [deploy.as_dict() for deploy in newest], "damaged": damaged})
        return
    print_table(
        ("when", "who", "verb", "settings", "result", "what"),
        [
            (
                f"{datetime.fromisoformat(deploy.started):%Y-%m-%d %H:%M:%S}",
                *(deploy.who, deploy.verb, deploy.settings, deploy.result, deploy.what),
            )
            for deploy in newest
        ],
    )
    if damaged:
        echo(f"{damaged} damaged records are left out", err=True)
