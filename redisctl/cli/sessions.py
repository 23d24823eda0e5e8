"""The verbs about sessions."""

import time

import click
from rich.table import Table

from redisctl.apps import growth
from redisctl.apps.sessions import LIFETIME, Rule, bucket_rows, collect, expire_sessions, rows
from redisctl.cli.common import DURATION, as_json, console, current_instance, print_json
from redisctl.core.formatting import ago

lifetime = click.option(
    "--lifetime",
    type=DURATION,
    default=f"{LIFETIME}s",
    show_default=True,
    help="The application's own: the TTL that a use of a session gives it.",
)


@click.group(invoke_without_command=True)
@as_json
@lifetime
@click.pass_context
def sessions(ctx: click.Context, as_json: bool, lifetime: int) -> None:
    """Say how many sessions there are, how long they have left and were not used, and what they weigh.

    It looks at all keys of the application's sessions in small steps and at none for long: other clients do not notice,
    also with millions. Memory is measured on a sample of 1000. Growth is told since the newest verified backup, and
    since those of about a day and a week ago. Names of sessions are not shown: they are the cookies.

    \b
    redisctl sessions                                  # look
    redisctl sessions expire --no-ttl                  # what would be done
    redisctl sessions expire --no-ttl --yes            # do it
    """
    if ctx.invoked_subcommand is not None:
        return
    instance = current_instance()
    with instance.connect(encoding_errors="surrogateescape") as redis:
        report = collect(redis, instance.session_keys, lifetime)
    now = time.time()
    grown = growth.growth(now, report["count"], growth.counted(instance, "sessions"))
    if as_json:
        print_json({"instance": instance.name, "keys": instance.session_keys, **report, "growth": grown})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in (*rows(report), *growth.rows(now, grown)):
        table.add_row(name, value)
    console().print(table)
    if not report["count"]:
        return
    buckets = Table("time left", "not used for", "sessions", "share", box=None, pad_edge=False)
    for row in bucket_rows(report):
        buckets.add_row(*row)
    console().print()
    console().print(buckets)


@sessions.command()
@click.option("--older-than", type=DURATION, help="Remove sessions that were not used for longer than this.")
@click.option("--no-ttl", is_flag=True, help="Give sessions that would never go a lifetime from now on.")
@lifetime
@click.option("--yes", is_flag=True, help="Do it. Without this nothing is changed.")
@as_json
def expire(older_than: int | None, no_ttl: bool, lifetime: int, yes: bool, as_json: bool) -> None:
    """Remove sessions by rule, or give them an end. Only says what it would do until --yes is added.

    How long a session was not used is the lifetime less its TTL, so --lifetime must be the application's. Who is
    removed is logged out. A session without a TTL may be in use and is not removed: it gets a TTL, which its next use
    renews.

    \b
    redisctl sessions expire --older-than 90min        # unused for an hour and a half
    redisctl sessions expire --no-ttl --lifetime 12h   # those that would stay for ever stay for 12 h
    """
    if older_than is None and not no_ttl:
        raise click.UsageError("say which sessions: --older-than, --no-ttl or both")
    if lifetime == 0:
        raise click.UsageError("a lifetime of 0 would remove what is in use")
    if older_than is not None and older_than >= lifetime:
        raise click.UsageError(f"sessions end by themselves after {ago(lifetime)} without use: see --lifetime")
    rule = Rule(older_than, no_ttl, lifetime)
    instance = current_instance()
    with instance.connect(encoding_errors="surrogateescape") as redis:
        done = expire_sessions(redis, instance.session_keys, rule, dry_run=not yes)
    if as_json:
        print_json({"instance": instance.name, "dry_run": not yes, **done})
        return
    click.echo(f"looked at {done['looked_at']} sessions")
    if older_than is not None:
        click.echo(f"{'removed' if yes else 'would remove'} {done['removed']}: not used for over {ago(older_than)}")
    if no_ttl:
        click.echo(f"{'gave' if yes else 'would give'} {done['limited']} without a TTL one of {ago(lifetime)}")
    if not yes:
        click.echo("nothing was changed: --yes does it")
