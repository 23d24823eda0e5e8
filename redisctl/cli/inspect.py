"""Verbs that show what Redis does now, why it is slow, and what uses its memory."""

import textwrap
from typing import TYPE_CHECKING

import click

from redisctl.cli.common import (
    MAX_ROWS,
    as_json,
    echo,
    print_json,
    print_json_line,
    print_omitted,
    print_table,
    time_ago,
    with_instance,
)
from redisctl.core.answers import reading_answers
from redisctl.core.errors import Failure
from redisctl.core.formatting import size, took
from redisctl.core.instance import Instance
from redisctl.core.keyspace import keyspace

# redis-py, which monitor.memory imports, takes longer to import than --help takes.
if TYPE_CHECKING:
    from redis import Redis

    from redisctl.monitor.memory import Usage


@click.command()
@click.option("--interval", type=click.FloatRange(1, 60), default=2, show_default=True, help="Seconds between frames.")
@click.option("--count", type=click.IntRange(1), help="Stop after this many frames.")
@as_json
@with_instance
def top(instance: Instance, interval: float, count: int | None, as_json: bool) -> None:
    """Show what Redis does, until q or Ctrl-C.

    \b
    commands   commands of clients. All rates are for the interval between two frames
    reads      hits found their key, misses did not
    keys gone  evicted for lack of memory, and expired
    PING       round trip on this host
    queues     waiting jobs, the longest queues first
    slow       the slowest of the newest 32 entries of the slow log; redisctl slowlog shows more

    top's own commands are not counted in commands, hits and misses. It needs a terminal: over SSH use ssh -t. Without
    one, --count prints frames one after another, with --json as one object a line.
    """
    from redisctl.monitor import top_screen
    from redisctl.monitor.top import Reader

    reader = Reader(instance)
    if not as_json and top_screen.is_terminal():
        top_screen.show(instance.name, reader, interval, count)
        return
    if count is None:
        raise Failure("top needs a terminal: use ssh -t, or --count to print frames, or redisctl stats")
    for frame in top_screen.frames(reader, interval, count):
        if as_json:
            print_json_line({"instance": instance.name, **frame.as_dict()})
        else:
            echo(f"{top_screen.plain(instance.name, frame)}\n")


@click.command()
@click.option("--last", type=click.IntRange(1, 100_000), default=25, show_default=True, help="Entries, newest first.")
@click.option("--arguments", is_flag=True, help="Show arguments. They are private data.")
@click.option("--reset", is_flag=True, help="Empty the slow log instead.")
@click.option("--yes", is_flag=True, help="Do not ask before emptying it.")
@as_json
@with_instance
def slowlog(instance: Instance, *, last: int, arguments: bool, reset: bool, yes: bool, as_json: bool) -> None:
    """Show commands that were slow and delayed all others.

    Redis executes one command at a time. It logs commands that took longer than redis_slowlog_log_slower_than
    (microseconds), up to redis_slowlog_max_len of them, until a restart. "how long" is the execution time, without
    queues and network.

    Commands are shown by name and number of arguments. Arguments are keys and values, and the key of a session is its
    cookie. --arguments shows them, as far as Redis stores them: 30 of 128 bytes each.
    """
    from redisctl.monitor.slowlog import original_names, slow_commands

    with instance.connect(decode_responses=False) as redis:
        count = redis.slowlog_len()
        if reset:
            if not yes:
                click.confirm(f"Empty the slow log of {instance.name} ({count} entries)?", abort=True, err=True)
            redis.slowlog_reset()
            if as_json:
                print_json({"instance": instance.name, "removed": count})
            else:
                echo(f"{count} entries removed")
            return
        entries = slow_commands(redis, last, original_names(instance))
        threshold = _setting(instance, redis, "slowlog-log-slower-than") / 1e6
    if arguments:
        echo("redisctl: arguments are keys and values of clients: do not paste them into tickets", err=True)
    if as_json:
        shown = [entry.as_dict(arguments) for entry in entries]
        print_json({"instance": instance.name, "slower_than": threshold, "entries": count, "shown": shown})
        return
    print_table(
        ("when (UTC)", ">how long", "command", ">arguments", "client"),
        [
            (
                time_ago(entry.at),
                took(entry.seconds),
                " ".join((entry.command, *entry.arguments)) if arguments else entry.command,
                str(entry.count),
                f"{entry.address} {entry.client}".strip(),
            )
            for entry in entries
        ],
    )
    limit_text = "the slow log is off" if threshold < 0 else f"logged if slower than {took(threshold)}"
    echo(f"{len(entries)} of {count} entries; {limit_text}")


@reading_answers()
def _setting(instance: Instance, redis: "Redis", name: str) -> int:
    """Return a number of Redis's configuration."""
    _, value = instance.execute_renamed(redis, "CONFIG", "GET", name)
    return int(value)


@click.command()
@click.option("--seconds", type=click.IntRange(1, 30), default=5, show_default=True, help="How long to send PINGs.")
@as_json
@with_instance
def latency(instance: Instance, seconds: int, as_json: bool) -> None:
    """Show how long Redis takes to answer.

    \b
    PING      consecutive round trips on this host, without network. If applications see longer times, look at
              the network or at the application.
    commands  execution times since Redis started, the slowest first. Redis counts in powers of two: each value
              is an upper limit.
    events    saves, forks, expiry and others that took longer than redis_latency_monitor_threshold.
    doctor    what Redis says about these events.

    A high median of PING means that Redis is busy: see redisctl top, and its CPU limit. A low median with a high
    maximum means that single commands or saves delay the others: see redisctl slowlog.
    """
    from redisctl.monitor.latency import measure

    with instance.connect() as redis:
        threshold = _setting(instance, redis, "latency-monitor-threshold") / 1000
        report = measure(redis, seconds, threshold)
    if as_json:
        print_json({"instance": instance.name, **report.as_dict()})
        return
    pings = report.pings
    echo(
        f"PING      {pings.count} in {seconds} s: min {took(pings.min)}, median {took(pings.median)}, "
        f"99% {took(pings.p99)}, max {took(pings.max)}\n"
    )
    print_table(
        ("command", ">calls", ">half", ">99%", ">max"),
        [
            (
                command.name,
                f"{command.calls:,}",
                *(f"≤ {took(value)}" for value in (command.median, command.p99, command.max)),
            )
            for command in report.commands[:MAX_ROWS]
        ],
    )
    print_omitted(len(report.commands), "commands")
    echo()
    if report.events:
        print_table(
            ("event", "last (UTC)", ">took", ">longest"),
            [(event.name, time_ago(event.at), took(event.last), took(event.max)) for event in report.events],
        )
    elif report.threshold:
        echo(f"no event took longer than {took(report.threshold)}")
    else:
        echo("the latency monitor is off: set redis_latency_monitor_threshold")
    doctor = "admin may not run LATENCY DOCTOR" if report.doctor is None else report.doctor
    # Indented, so that it cannot pass for a message of redisctl.
    echo(f"\nLATENCY DOCTOR reports:\n{textwrap.indent(doctor, '  ')}")


@click.command()
@click.option("--depth", type=click.IntRange(1, 10), default=2, show_default=True, help="Parts of a prefix.")
@click.option(
    "--sample",
    type=click.IntRange(100, 10_000_000),
    default=20_000,
    show_default=True,
    help="Keys to measure.",
)
@click.option("--all", "everything", is_flag=True, help="Measure every key. Takes long if there are many.")
@click.option(
    "--biggest",
    type=click.IntRange(0, 1000),
    default=10,
    show_default=True,
    help="Biggest keys to show.",
)
@click.option("--names", is_flag=True, help="Show full names of the biggest keys. The name of a session is its cookie.")
@click.option("--db", "database", type=click.IntRange(0), default=0, show_default=True, help="Which database.")
@as_json
@with_instance
def memory(
    instance: Instance,
    *,
    depth: int,
    sample: int,
    everything: bool,
    biggest: int,
    names: bool,
    database: int,
    as_json: bool,
) -> None:
    """Show which keys use the memory.

    Keys are grouped by their first parts: --depth 2 groups all sessions as app:session:*. What looks like an ID
    (numbers, hexadecimal digits, UUIDs, tokens) is shown as <id>.

    If there are more keys than --sample, a random sample is measured and the rest extrapolated. Shares are good for
    prefixes with hundreds of keys in the sample; a few huge keys may be missed. --all measures every key. Redis serves
    other clients in between.

    Sizes are those of MEMORY USAGE: with name and overhead; collections are estimated from 5 elements.
    """
    from redisctl.monitor.memory import Tally, usage

    with instance.connect(decode_responses=False, db=database) as redis:
        tally = Tally(depth, instance.session_keys, biggest)
        report = usage(redis, database, tally, None if everything else sample, names)
        info = redis.info("all")
    if as_json:
        print_json({"instance": instance.name, "used_memory": info["used_memory"], **report.as_dict()})
        return
    _print_usage(report, info["used_memory"], masked=not names)
    for name, other in keyspace(info).items():
        if name != f"db{database}":
            echo(f"{name} has {other['keys']:,} more keys: --db {name[2:]}")


def _print_usage(report: "Usage", used_memory: int, *, masked: bool) -> None:
    about, mark = ("", "") if report.complete else ("about ", "~")
    echo(
        f"{report.keys:,} keys in db{report.database} use {about}{size(report.bytes)}; "
        f"Redis uses {size(used_memory)} in total"
    )
    if not report.complete:
        echo(
            f"Extrapolated from {report.seen_keys:,} keys of {size(report.seen_bytes)}: "
            "values with ~ are estimates, seen is exact.\n"
            f"There may be a huge key among the {report.keys - report.seen_keys:,} others: --all finds it"
        )
    if report.groups:
        echo()
        rows = [
            (
                group.prefix,
                *(f"{mark}{value}" for value in (f"{group.share:.1%}", size(group.bytes), f"{group.keys:,}")),
                f"{group.seen_keys:,}",
            )
            for group in report.groups[:MAX_ROWS]
        ]
        print_table(("prefix", ">share", ">memory", ">keys", ">seen"), rows)
        print_omitted(len(report.groups), "prefixes")
    if report.biggest:
        echo(f"\nThe biggest keys{'' if report.complete else ' of the sample'}:")
        print_table(
            (">memory", "type", ">elements", "name"),
            [
                (size(key.bytes), key.type, "" if key.elements is None else f"{key.elements:,}", key.name)
                for key in report.biggest
            ],
        )
        if masked:
            echo("Names are masked: --names shows them. The name of a session is its cookie")
