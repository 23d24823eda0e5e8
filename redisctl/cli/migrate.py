"""The verbs of an import: start, status, finish, cancel."""

import sys
from pathlib import Path
from typing import Any

import click

from redisctl.cli.common import OrderedGroup, as_json, exclusive, print_json, with_instance
from redisctl.core.errors import Failure
from redisctl.core.formatting import size, took
from redisctl.core.instance import Instance
from redisctl.core.lock import locked
from redisctl.migrate import migration
from redisctl.migrate.migration import ComparisonResult, MigrationStatus
from redisctl.migrate.source import SourceServer, parse

SWITCH = "switch: give applications the URLs that the deploy printed (docs/applications.md), and start them again"


@click.group(name="import", cls=OrderedGroup)
def import_() -> None:
    """Bring the data of another Redis here, while it serves: a copy follows it, and takes this one's place at the end.

    \b
    redisctl import start --from old.example.com:6379 --user mover   # asks for the password
    redisctl import status                                          # until it follows
    redisctl import finish                                          # compares; changes nothing
    #   stop what writes to the old one: web processes, workers, schedulers
    redisctl import finish --yes
    #   give applications the new URLs, and start them

    The old one is read, and never changed. Of this instance nothing changes before the end, and what it had then stays
    aside: redisctl restore --undo. A copy takes as much memory as the data, until finish or cancel.

    Where the old one lets nobody replicate, or there is only a file: redisctl restore /path/of/dump.rdb.
    """


@import_.command()
@click.option("--from", "address", metavar="HOST:PORT", required=True, help="Where the other Redis listens.")
@click.option("--user", default="", help="Its user. Default: the default user. Redis below 6 has no users.")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False),
    help="A file with the password. Else it is asked for, or read from standard input.",
)
@click.option("--tls", is_flag=True, help="Speak TLS. Needs --ca.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="The CA of its certificate, PEM.")
@click.option(
    "--cert", type=click.Path(exists=True, dir_okay=False), help="A certificate, where it wants one of clients."
)
@click.option("--key", type=click.Path(exists=True, dir_okay=False), help="The certificate's key.")
@click.option("--overwrite", is_flag=True, help="Though this instance has keys: they will be kept aside.")
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
    """Start a copy that follows another Redis, and wait until the first copy is whole.

    The other one forks and saves once for it, as for any replica. Its user has to be allowed

    \b
    +psync +replconf +ping                 to replicate, and
    +info +select +time +@read ~*          to be compared

    Ended while it waits (Ctrl-C, a lost SSH), the copying goes on: redisctl import status.
    """
    if bool(tls) != bool(ca):
        raise click.UsageError("--tls and --ca belong together: whose certificate is trusted has to be said")
    if bool(cert) != bool(key) or (cert and not tls):
        raise click.UsageError("--cert and --key belong together, and to --tls")
    host, port = parse(address)
    # Whatever happens to the files, or to the directory that this runs in.
    files = {
        name: str(Path(path).resolve()) if path else "" for name, path in (("ca", ca), ("cert", cert), ("key", key))
    }
    source = SourceServer(host, port, user, _password(password_file), tls, **files)
    with exclusive(instance, "import start"):
        state = migration.start(instance, source, over=overwrite)
    try:
        seen = migration.wait_for_sync(instance, state, lambda words: click.echo(words, err=True))
    except KeyboardInterrupt:
        raise Failure("it goes on without you: redisctl import status; or redisctl import cancel") from None
    click.echo(f"a copy follows {source.name}: {seen.keys} keys, {size(seen.memory)}. Next: redisctl import finish")


def _password(file: str | None) -> str:
    if file:
        try:
            return Path(file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"{file}: {getattr(error, 'strerror', 'not text')}") from None
    if sys.stdin.isatty():
        word: str = click.prompt(
            "Its password (nothing for none)", default="", hide_input=True, show_default=False, err=True
        )
        return word
    return sys.stdin.readline().rstrip("\r\n")


@import_.command()
@as_json
@with_instance
def status(instance: Instance, as_json: bool) -> None:
    """Say how far the copy is, how many bytes of writes it is behind, what is wrong, and what to do next."""
    seen = migration.status(instance)
    if as_json:
        print_json({"instance": instance.name, **_as_dict(seen)})
        return
    told = _as_dict(seen)
    stage = f"{told['stage']}, {told['percent']:.0f} %" if told["percent"] < 100 else told["stage"]
    lag = "" if seen.lag is None else f", {size(seen.lag)} behind"
    click.echo(f"from   {told['from']}\ncopy   {stage}{lag}")
    for name, here in (told["keys_here"] or {}).items():
        there = (told["keys_there"] or {}).get(name)
        click.echo(f"{name:<6} {here} keys here, {'?' if there is None else there} there")
    if seen.trouble:
        click.echo(f"wrong  {seen.trouble}")
    click.echo(f"next   {seen.next}")


def _as_dict(seen: MigrationStatus) -> dict[str, Any]:
    def keys(databases: dict[str, dict[str, int]] | None) -> dict[str, int] | None:
        return None if databases is None else {name: told["keys"] for name, told in databases.items()}

    here, there = seen.progress, seen.there
    return {
        "from": seen.state.source.name,
        "began": seen.state.began,
        "stage": here.stage if here else "ended",
        "percent": here.percent if here else 0.0,
        "lag": seen.lag,
        "keys_here": keys(here.databases if here else None),
        "keys_there": keys(there.databases if there else None),
        "trouble": seen.trouble,
        "next": seen.next,
    }


@import_.command()
@click.option("--full", is_flag=True, help="Compare all keys. Default: 1000, chosen by chance, and all counts.")
@click.option("--yes", is_flag=True, help="Do it. Without this it is compared, and nothing is changed.")
@click.option("--overwrite", is_flag=True, help="Though this instance has keys: they will be kept aside.")
@click.option(
    "--allow-writes",
    is_flag=True,
    help="Though the other one is written: what comes later is not here. For rehearsals.",
)
@click.option("--names", is_flag=True, help="Name keys that differ. A session's is what lets in whoever has it.")
@as_json
@with_instance
def finish(
    instance: Instance, *, full: bool, yes: bool, overwrite: bool, allow_writes: bool, names: bool, as_json: bool
) -> None:
    """Compare the copy with the other Redis; with --yes, put it in this instance's place.

    Keys are counted by database, and their types, TTLs and values compared. Those that differ because they were written
    meanwhile are looked at again. That may be done as often as you like, and with --full beforehand: it reads all keys,
    in small steps.

    With --yes it also wants the other one to be quiet for some seconds, so stop what writes to it first: web processes,
    workers, schedulers. Then the copy saves a snapshot, which takes the place of this instance's data. Where Redis is
    not well with it, the former data comes back by itself. Broken off at any point, call it again.
    """
    with exclusive(instance, "import finish"):
        state = migration.current_migration(instance)
        if migration.recover(instance, state):
            told: dict[str, Any] = {"done": True, "words": f"the import from {state.source.name} was through already"}
        else:
            watch, seen = migration.rehearse(instance, state, full=full, over=overwrite)
            told = {**_compared(seen, names), "done": False}
            told["words"] = _in_words(seen, state.source.name, told["names"])
            in_the_way = [*seen.problems, *_writers(seen, state.source.name, allow_writes) * yes]
            if in_the_way:
                if as_json:
                    print_json({"instance": instance.name, **told})
                else:
                    click.echo(told["words"])
                raise Failure(f"not finished: {'; '.join(in_the_way)}")
            if yes:
                done = migration.cut_over(instance, state, watch, seen.report, allow_writes=allow_writes)
                told |= {**done, "done": True}
                told["words"] += "\n" + _done(instance, done, state.source.name)
    if as_json:
        print_json({"instance": instance.name, **told})
        return
    click.echo(told["words"])
    if not told["done"]:
        click.echo("nothing was changed: --yes does it")


def _compared(seen: ComparisonResult, names: bool) -> dict[str, Any]:
    report = seen.report
    return {
        "compared": report.compared,
        "length_only": report.length_only,
        "still_changing": report.still_changing,
        "outside_patterns": report.outside_patterns,
        "late_by": round(report.late, 1),
        "problems": seen.problems,
        "written": seen.written,
        "clients": seen.clients,
        "names": report.names[:10] if names else [],
    }


def _writers(seen: ComparisonResult, name: str, allow_writes: bool) -> list[str]:
    """Why it is not done while clients write."""
    if allow_writes or not seen.written:
        return []
    return [
        f"{name} is written ({migration.describe_writes(seen.written)}): stop its writers, or what they write from "
        "now on is not here. --allow-writes takes that, as for a rehearsal"
    ]


def _in_words(seen: ComparisonResult, name: str, names: list[str]) -> str:
    report = seen.report
    lines = [f"{report.compared} keys compared with {name}: {'they differ' if seen.problems else 'they are the same'}"]
    if report.length_only:
        lines.append(f"  {report.length_only} of them are large: of their values it is the length")
    if report.still_changing:
        lines.append(f"  {report.still_changing} were written whenever they were looked at")
    if report.outside_patterns:
        lines.append(
            f"  {report.outside_patterns} are neither of sessions nor of queues: who reads them here? redis_users, "
            "redis_app_name"
        )
    if report.late:
        lines.append(
            f"  some end up to {report.late:.0f} s later here: Redis below 7 tells a copy what time keys have "
            "left, and not when they end. Cancel and start anew where that matters"
        )
    if seen.written:
        lines.append(f"  {name} is written ({migration.describe_writes(seen.written)}): stop that before --yes")
    elif seen.clients > 0:
        lines.append(f"  {seen.clients} other clients are connected to {name}: they may write later")
    return "\n".join([*lines, *(f"  differs: {one}" for one in names)])


def _done(instance: Instance, done: dict[str, Any], name: str) -> str:
    late = migration.describe_writes(done["late"])
    return "\n".join(
        [
            f"the data of {name} is here: {done['keys']} keys. Redis did not serve for {took(done['down'])}; from the "
            f"beginning of this to its end, {took(done['blocked'])}, neither was to be written",
            *([f"WARNING: {name} was written meanwhile, and that is not here: {late}"] if late else []),
            SWITCH,
            f"back: {name} was not changed. Give applications its URL again; what was written here since stays here",
            f"      what this instance had before is in {instance.live}/previous: redisctl restore --undo puts it "
            "back, --discard-previous removes it",
        ]
    )


@import_.command()
@with_instance
def cancel(instance: Instance) -> None:
    """End the copy and forget how the other Redis is reached. Neither of the two is changed."""
    with locked(instance, "import cancel"):
        state = migration.read_state(instance)
        if state and state.stage == migration.SWAPPING:
            migration.recover(instance, state)
        there = migration.cancel(instance)
    click.echo("the copy is gone, and nothing else was changed" if there else "no import was under way")
