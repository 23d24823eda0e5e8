"""The verbs of an import: start, status, finish, cancel."""

import functools
import sys
from pathlib import Path
from typing import Any

import click

from redisctl.cli.common import (
    OrderedGroup,
    as_json,
    discard_unsaved_option,
    echo,
    exclusive,
    print_json,
    with_instance,
)
from redisctl.core.errors import Failure
from redisctl.core.formatting import size, took
from redisctl.core.instance import Instance
from redisctl.core.lock import locked
from redisctl.migrate import migration
from redisctl.migrate.migration import ComparisonResult, MigrationStatus
from redisctl.migrate.replica import describe_writes
from redisctl.migrate.source import SourceServer, parse

NEXT_STEP = "next: give the applications the URLs that the deploy printed (docs/applications.md), and start them"


@click.group(name="import", cls=OrderedGroup)
def import_() -> None:
    """Migrate the data of another Redis while it serves.

    A copy replicates from it and replaces this instance's data.

    \b
    redisctl import start --from old.example.com:6379 --user mover   # asks for the password
    redisctl import status                                          # until the copy follows
    redisctl import finish                                          # compares; changes nothing
    #   stop the writers: web processes, workers, schedulers
    redisctl import finish --yes                                    # switches over
    #   give the applications the new URLs, and start them

    The other Redis is only read. This instance changes only at the end, and its data stays as the previous data:
    redisctl restore --undo. The copy needs as much memory as the data, until finish or cancel.

    If the other Redis does not allow replication, or there is only a file: redisctl restore /path/of/dump.rdb.
    """


@import_.command()
@click.option("--from", "address", metavar="HOST:PORT", required=True, help="Where the other Redis listens.")
@click.option("--user", default="", help="Its user. Default: the default user; Redis below 6 has no other.")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False),
    help="A file with the password. Default: ask, or read it from standard input.",
)
@click.option("--tls", is_flag=True, help="Use TLS. Needs --ca.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="The CA of its certificate (PEM).")
@click.option("--cert", type=click.Path(exists=True, dir_okay=False), help="A client certificate, if it asks for one.")
@click.option("--key", type=click.Path(exists=True, dir_okay=False), help="The key of the client certificate.")
@click.option("--overwrite", is_flag=True, help="Replace the keys of this instance; they become the previous data.")
@with_instance
def start(
    instance: Instance,
    *,
    address: str,
    user: str,
    password_file: str | None,
    tls: bool,
    ca: str | None,
    cert: str | None,
    key: str | None,
    overwrite: bool,
) -> None:
    """Start a copy that replicates from another Redis, and wait until it is complete.

    The other Redis forks and saves once for it, as for any replica. Its user needs

    \b
    +psync +replconf +ping                 to replicate, and
    +info +select +time +@read ~*          to compare

    After Ctrl-C or a lost SSH connection the copy continues: redisctl import status.
    """
    if bool(tls) != bool(ca):
        raise click.UsageError("--tls needs --ca, the CA of its certificate, and --ca needs --tls")
    if bool(cert) != bool(key) or (cert and not tls):
        raise click.UsageError("--cert and --key need each other, and --tls")
    host, port = parse(address)
    report = functools.partial(echo, err=True)
    # Absolute paths, because the copy outlives this process and its working directory.
    files = {
        name: str(Path(path).resolve()) if path else "" for name, path in (("ca", ca), ("cert", cert), ("key", key))
    }
    source = SourceServer(host, port, user, _password(password_file), tls, **files)
    with exclusive(instance, "import start"):
        state = migration.start(instance, source, report, overwrite=overwrite)
    try:
        progress = migration.wait_for_sync(instance, state, report)
    except KeyboardInterrupt:
        raise Failure("the copy continues: redisctl import status shows it, redisctl import cancel ends it") from None
    contents = migration.count_copy(instance, state).describe()
    echo(f"the copy follows {source.name}: {contents}, {size(progress.memory)}. Next: redisctl import finish")


def _password(file: str | None) -> str:
    if file:
        try:
            return Path(file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"{file}: {getattr(error, 'strerror', 'it is not text')}") from None
    if sys.stdin.isatty():
        password: str = click.prompt(
            "Password of the other Redis (empty for none)", default="", hide_input=True, show_default=False, err=True
        )
        return password
    return sys.stdin.readline().rstrip("\r\n")


@import_.command()
@as_json
@with_instance
def status(instance: Instance, as_json: bool) -> None:
    """Show the progress of the copy, its lag, problems, and the next step.

    The lag is in bytes of writes.
    """
    current = migration.status(instance)
    report = _as_dict(current)
    if as_json:
        print_json({"instance": instance.name, **report})
        return
    stage = f"{report['stage']}, {report['percent']:.0f} %" if report["percent"] < 100 else report["stage"]
    lag = "" if current.lag is None else f", {size(current.lag)} behind"
    echo(f"from     {report['from']}\ncopy     {stage}{lag}")
    for name, copied in (report["keys_copy"] or {}).items():
        original = (report["keys_source"] or {}).get(name)
        echo(f"{name:<8} {copied} keys copied of {'?' if original is None else original}")
    if current.problem:
        echo(f"problem  {current.problem}")
    echo(f"next     {current.next}")


def _as_dict(current: MigrationStatus) -> dict[str, Any]:
    def keys(databases: dict[str, dict[str, int]] | None) -> dict[str, int] | None:
        return None if databases is None else {name: database["keys"] for name, database in databases.items()}

    progress, source = current.progress, current.source_facts
    return {
        "from": current.state.source.name,
        "started": current.state.started,
        "stage": progress.stage if progress else "ended",
        "percent": progress.percent if progress else 0.0,
        "lag": current.lag,
        "keys_copy": keys(progress.databases if progress else None),
        "keys_source": keys(source.databases if source else None),
        "problem": current.problem,
        "next": current.next,
    }


@import_.command()
@click.option("--full", is_flag=True, help="Compare all keys. Default: all counts, and 1000 random keys.")
@click.option("--yes", is_flag=True, help="Switch over. Without --yes it only compares.")
@click.option("--overwrite", is_flag=True, help="Replace the keys of this instance; they become the previous data.")
@click.option(
    "--allow-writes", is_flag=True, help="Switch over in spite of writes, for a rehearsal: later ones are lost."
)
@click.option("--with-functions", is_flag=True, help="Import the functions of the other Redis, too: they are code.")
@click.option("--names", is_flag=True, help="Show the names of keys that differ. The name of a session is its cookie.")
@discard_unsaved_option
@as_json
@with_instance
def finish(
    instance: Instance,
    *,
    full: bool,
    yes: bool,
    overwrite: bool,
    allow_writes: bool,
    with_functions: bool,
    names: bool,
    discard_unsaved: bool,
    as_json: bool,
) -> None:
    """Compare the copy with the other Redis.

    With --yes, replace this instance's data by the copy.

    Compares the number of keys in each database, and types, TTLs and values. Keys that change during the comparison are
    compared again. Run it as often as you like, and with --full in advance: that reads all keys in small steps.

    --yes requires that the other Redis gets no writes for some seconds, so stop the writers first: web processes,
    workers, schedulers. The copy then saves an RDB snapshot, which replaces this instance's data. If Redis is not
    healthy with it, the previous data comes back automatically. If this is interrupted, run it again.
    """
    with exclusive(instance, "import finish"):
        state = migration.current_migration(instance)
        source = state.source.name
        if migration.recover(instance, state):
            report: dict[str, Any] = {"done": True, "message": f"the import from {source} had already finished"}
        else:
            monitor, result = migration.rehearse(
                instance, state, full=full, overwrite=overwrite, with_functions=with_functions
            )
            report = {**_compared(result, names), "done": False}
            report["message"] = _describe(result, source, report["names"])
            if not yes:
                contents = migration.count_copy(instance, state)
                report |= contents.as_dict()
                report["message"] += f"\n  the copy has {contents.describe()}"
            blockers = [*result.problems, *_writers(result, source, allow_writes) * yes]
            if blockers:
                if not as_json:
                    echo(report["message"])
                raise Failure(f"not finished: {'; '.join(blockers)}", instance=instance.name, **report)
            if yes:
                outcome = migration.cut_over(
                    instance,
                    state,
                    monitor,
                    result.report,
                    overwrite=overwrite,
                    with_functions=with_functions,
                    allow_writes=allow_writes,
                    discard_unsaved=discard_unsaved,
                )
                report |= {**outcome, "done": True}
                report["message"] += "\n" + _describe_outcome(instance, outcome, source)
    if as_json:
        print_json({"instance": instance.name, **report})
        return
    echo(report["message"])
    if not report["done"]:
        echo("nothing was changed: --yes switches over")


def _compared(result: ComparisonResult, names: bool) -> dict[str, Any]:
    report = result.report
    return {
        "compared": report.compared,
        "length_only": report.length_only,
        "still_changing": report.still_changing,
        "outside_patterns": report.outside_patterns,
        "ttl_drift": round(report.ttl_drift, 1),
        "problems": result.problems,
        "written": result.written,
        "clients": result.clients,
        "names": report.names[:10] if names else [],
    }


def _writers(result: ComparisonResult, source: str, allow_writes: bool) -> list[str]:
    """Return why the switch has to wait for writers."""
    if allow_writes or not result.written:
        return []
    writes = describe_writes(result.written)
    return [
        f"{source} gets writes ({writes}): stop the writers, or later writes are missing here. --allow-writes accepts "
        "that, for a rehearsal"
    ]


def _describe(result: ComparisonResult, source: str, names: list[str]) -> str:
    report = result.report
    lines = [f"{report.compared} keys compared with {source}: {'they differ' if result.problems else 'no difference'}"]
    if report.length_only:
        lines.append(f"  {report.length_only} of them are large: only the length of their values was compared")
    if report.still_changing:
        lines.append(f"  {report.still_changing} changed at every attempt to compare them")
    if report.outside_patterns:
        lines.append(
            f"  {report.outside_patterns} belong neither to sessions nor to queues: set redis_app_name or redis_users, "
            "or only admin can read them"
        )
    if report.ttl_drift:
        lines.append(
            f"  some expire up to {report.ttl_drift:.0f} s later here: Redis below 7 does not send its replicas "
            "the time of expiry. If that matters, cancel and start again"
        )
    if result.written:
        writes = describe_writes(result.written)
        lines.append(f"  {source} gets writes ({writes}): stop the writers before --yes")
    elif result.clients > 0:
        lines.append(f"  {result.clients} other clients are connected to {source}: they may write later")
    return "\n".join([*lines, *(f"  differs: {name}" for name in names)])


def _describe_outcome(instance: Instance, outcome: dict[str, Any], source: str) -> str:
    late = describe_writes(outcome["late_writes"])
    warning = [f"WARNING: {source} got writes during the switch, which are missing here: {late}"] if late else []
    if outcome["warning"]:
        warning.append(f"WARNING: the previous data may lack its newest writes: {outcome['warning']}")
    return "\n".join(
        [
            f"the data of {source} is here: {outcome['contents']}. Redis was down for {took(outcome['downtime'])}; "
            f"writers had to wait for {took(outcome['writers_blocked'])}",
            *warning,
            NEXT_STEP,
            f"rollback: {source} was not changed. Give the applications its URL again; writes made here stay here",
            f"          the previous data of this instance is in {instance.previous}: redisctl restore --undo restores "
            "it, --discard-previous removes it",
        ]
    )


@import_.command()
@with_instance
def cancel(instance: Instance) -> None:
    """Remove the copy and the password of the other Redis.

    Neither the other Redis nor this instance changes.
    """
    with locked(instance, "import cancel"):
        existed = migration.cancel(instance)
    echo("the copy was removed; nothing else was changed" if existed else "there was no import")
