"""The verbs about sessions."""

import time

import click

from redisctl.apps import growth
from redisctl.apps.sessions import LIFETIME, Rule, bucket_rows, collect, expire_sessions, rows
from redisctl.cli.common import (
    DURATION,
    UNCHANGED,
    as_json,
    current_instance,
    echo,
    print_columns,
    print_json,
    print_table,
)
from redisctl.core.formatting import ago

lifetime = click.option(
    "--lifetime",
    type=DURATION,
    default=f"{LIFETIME}s",
    show_default=True,
    help="The TTL that the application gives a session at each use.",
)


@click.group(invoke_without_command=True)
@as_json
@lifetime
@click.pass_context
def sessions(ctx: click.Context, as_json: bool, lifetime: int) -> None:
    """Show how many sessions exist, when they expire, and how much memory they use.

    Reads all keys of the application's sessions in small steps, so other clients do not notice, even with millions of
    keys. Memory is measured on a sample of 1000. Growth is shown since the newest verified backup, and since about a
    day and a week ago. Names of sessions are not shown: they are the cookies.

    \b
    redisctl sessions                                  # show
    redisctl sessions expire --no-ttl                  # show what would be done
    redisctl sessions expire --no-ttl --yes            # do it
    """
    if ctx.invoked_subcommand is not None:
        return
    instance = current_instance()
    with instance.connect(encoding_errors="surrogateescape") as redis:
        report = collect(redis, instance.session_keys, lifetime)
    now = time.time()
    changes = growth.growth(now, report["count"], growth.counted(instance, "sessions"))
    if as_json:
        print_json({"instance": instance.name, "keys": instance.session_keys, **report, "growth": changes})
        return
    print_columns((*rows(report), *growth.rows(now, changes)))
    if not report["count"]:
        return
    echo()
    print_table(("time left", "not used for", ">sessions", ">share"), bucket_rows(report))


@sessions.command()
@click.option("--older-than", type=DURATION, help="Remove sessions that were not used for longer than this.")
@click.option("--no-ttl", is_flag=True, help="Give sessions without a TTL one lifetime from now.")
@lifetime
@click.option("--yes", is_flag=True, help="Do it. Without --yes nothing is changed.")
@as_json
def expire(older_than: int | None, no_ttl: bool, lifetime: int, yes: bool, as_json: bool) -> None:
    """Remove sessions by age, or give those without a TTL one.

    Without --yes it only shows what it would do.

    The time since the last use is the lifetime minus the TTL, so --lifetime must be the application's. Users whose
    session is removed are logged out. A session without a TTL may be in use and is not removed: it gets a TTL, which
    its next use renews.

    \b
    redisctl sessions expire --older-than 90min        # not used for an hour and a half
    redisctl sessions expire --no-ttl --lifetime 12h   # sessions without a TTL expire in 12 h
    """
    if older_than is None and not no_ttl:
        raise click.UsageError("name the sessions: --older-than, --no-ttl or both")
    if lifetime == 0:
        raise click.UsageError("a lifetime of 0 would remove sessions that are in use")
    if older_than is not None and older_than >= lifetime:
        raise click.UsageError(f"sessions expire by themselves after {ago(lifetime)} without use: check --lifetime")
    rule = Rule(older_than, no_ttl, lifetime)
    instance = current_instance()
    with instance.connect(encoding_errors="surrogateescape") as redis:
        counts = expire_sessions(redis, instance.session_keys, rule, dry_run=not yes)
    if as_json:
        print_json({"instance": instance.name, "dry_run": not yes, **counts})
        return
    echo(f"checked {counts['checked']} sessions")
    if older_than is not None:
        echo(f"{'removed' if yes else 'would remove'} {counts['removed']}, not used for over {ago(older_than)}")
    if no_ttl:
        echo(f"{'gave' if yes else 'would give'} {counts['limited']} without a TTL one of {ago(lifetime)}")
    if not yes:
        echo(UNCHANGED)
