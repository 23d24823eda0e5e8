"""The verbs health and stats."""

import sys

import click

from redisctl.cli.common import as_json, echo, print_columns, print_json, with_instance
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.monitor.status import add_network_status, collect

COLOURS = {"ok": "green", "warning": "yellow", "critical": "red", "unknown": "magenta"}


@click.command()
@as_json
@with_instance
def health(instance: Instance, as_json: bool) -> None:
    """Report what is wrong, and what to do about it.

    Checks the container, Redis, memory, clients, persistence, disk, backups, the network and the certificate. The exit
    code is that of the worst verdict, as for Nagios plugins: 0 ok, 1 warning, 2 critical, 3 unknown.
    """
    from redisctl.monitor.disk_status import add_disk_status
    from redisctl.monitor.health import EXIT_CODES, overall, run_checks

    checks = run_checks(add_network_status(instance, add_disk_status(instance, collect(instance))))
    verdict = overall(checks)
    if as_json:
        print_json({"instance": instance.name, "verdict": verdict, "checks": [check.as_dict() for check in checks]})
    else:
        print_columns(
            [
                (check.verdict, check.name, (check.observed, *([f"→ {check.remedy}"] if check.remedy else [])))
                for check in checks
            ],
            [COLOURS[check.verdict] for check in checks],
        )
        echo(f"{instance.name} is {verdict}", colour=COLOURS[verdict])
    sys.exit(EXIT_CODES[verdict])


@click.command()
@as_json
@with_instance
def stats(instance: Instance, as_json: bool) -> None:
    """Print current numbers: memory, clients, operations, hits, keys, persistence.

    Counters count since Redis started; redisctl top shows current rates.
    """
    from redisctl.monitor.stats import rows, stats_of

    status = collect(instance)
    if status.unreachable_reason:
        raise Failure(status.unreachable_reason)
    values = stats_of(status)
    if as_json:
        print_json({"instance": instance.name, **values})
        return
    print_columns(rows(values))
