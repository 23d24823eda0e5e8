"""The verbs that say what an instance does now, why it is slow and what takes its memory."""

import json

import click
from rich.text import Text

from redisctl.cli.common import (
    MAX_ROWS,
    as_json,
    console,
    make_table,
    print_json,
    print_omitted,
    time_ago,
    with_instance,
)
from redisctl.core.errors import Failure
from redisctl.core.formatting import size, took
from redisctl.core.instance import Instance
from redisctl.core.keyspace import keyspace
from redisctl.monitor.latency import measure
from redisctl.monitor.memory import Tally, usage
from redisctl.monitor.slowlog import real_names, slow_commands


@click.command()
@click.option("--interval", type=click.FloatRange(1, 60), default=2, show_default=True, help="Seconds between frames.")
@click.option("--count", type=click.IntRange(1), help="End after so many frames.")
@as_json
@with_instance
def top(instance: Instance, interval: float, count: int | None, as_json: bool) -> None:
    """Watch what Redis does, until q or Ctrl-C.

    \b
    commands   that clients sent, in the interval between two frames; so are all rates
    reads      hits and misses: what was asked for and was there, or was not
    keys gone  evicted for want of memory, and expired
    PING       how long Redis took to answer one, on this host
    queues     jobs that wait, the deepest first
    slow       the slowest of the newest 32 in the slow log; redisctl slowlog shows more

    What top itself asks is left out of commands, hits and misses. It needs a terminal: by SSH, ssh -t. Without one
    --count prints frames one below the other, and with --json one object a line.
    """
    from redisctl.monitor import top_screen
    from redisctl.monitor.top import Reader

    reader, screen = Reader(instance), console()
    if not as_json and top_screen.is_terminal(screen):
        top_screen.show(screen, instance.name, reader, interval, count)
        return
    if count is None:
        raise Failure("top needs a terminal: ssh -t, or --count for frames without one; or redisctl stats")
    for frame in top_screen.frames(reader, interval, count):
        if as_json:
            click.echo(json.dumps({"instance": instance.name, **frame.as_dict()}))
        else:
            click.echo(f"{top_screen.plain(instance.name, frame)}\n")


@click.command()
@click.option("--last", type=click.IntRange(1, 100_000), default=25, show_default=True, help="Entries, newest first.")
@click.option("--arguments", is_flag=True, help="Show arguments, too. They hold other people's data.")
@click.option("--reset", is_flag=True, help="Empty the log instead.")
@click.option("--yes", is_flag=True, help="Empty it without asking.")
@as_json
@with_instance
def slowlog(instance: Instance, *, last: int, arguments: bool, reset: bool, yes: bool, as_json: bool) -> None:
    """Say which commands were slow: they kept all others waiting.

    Redis does one thing at a time. What it did for longer than redis_slowlog_log_slower_than (in microseconds) it
    keeps in its slow log, up to redis_slowlog_max_len of them, until a restart. How long is the time of execution
    alone: not that in queues and on the network.

    A command is shown by its name and the number of its arguments. Arguments are keys and values: a session's key is
    its cookie. --arguments shows them, cut by Redis to 30 of 128 bytes each.
    """
    with instance.connect(decode_responses=False) as redis:
        there = redis.slowlog_len()
        if reset:
            if not yes:
                click.confirm(f"Empty the slow log of {instance.name} ({there} entries)?", abort=True, err=True)
            redis.slowlog_reset()
            if as_json:
                print_json({"instance": instance.name, "removed": there})
            else:
                click.echo(f"{there} entries removed")
            return
        entries = slow_commands(redis, last, real_names(instance))
        _, limit = instance.execute_renamed(redis, "CONFIG", "GET", "slowlog-log-slower-than")
    threshold = int(limit) / 1e6
    if arguments:
        click.echo("redisctl: arguments are other people's data, keys and values: keep them to yourself", err=True)
    if as_json:
        shown = [entry.as_dict(arguments) for entry in entries]
        print_json({"instance": instance.name, "slower_than": threshold, "entries": there, "shown": shown})
        return
    table = make_table("when (UTC)", ">how long", "command", ">arguments", "client")
    for entry in entries:
        words = " ".join((entry.command, *entry.arguments)) if arguments else entry.command
        client = f"{entry.address} {entry.client}".strip()
        table.add_row(time_ago(entry.at), took(entry.seconds), Text(words), str(entry.count), Text(client))
    if entries:
        console().print(table)
    kept = "nothing is kept" if threshold < 0 else f"kept is what takes longer than {took(threshold)}"
    console().print(f"{len(entries)} of {there} entries; {kept}")


@click.command()
@click.option("--seconds", type=click.IntRange(1, 30), default=5, show_default=True, help="How long to send PINGs.")
@as_json
@with_instance
def latency(instance: Instance, seconds: int, as_json: bool) -> None:
    """Say how long Redis takes to answer.

    \b
    PING      round trips on this host, one after the other for some seconds. It has no network in it: what
              applications see beyond it is the network, or their own.
    commands  what Redis counted since its start, of execution alone, in steps of powers of two: each took at
              most what is said. The slowest first.
    events    what the latency monitor saw take longer than redis_latency_monitor_threshold: saves, forks, expiry.
    doctor    what Redis makes of these events.

    A high median of PING means that Redis is busy: redisctl top, and its CPU limit. A low one with a high maximum
    means that single commands or saves keep the others waiting: redisctl slowlog.
    """
    with instance.connect() as redis:
        _, monitored = instance.execute_renamed(redis, "CONFIG", "GET", "latency-monitor-threshold")
        found = measure(redis, seconds, int(monitored) / 1000)
    if as_json:
        print_json({"instance": instance.name, **found.as_dict()})
        return
    trips = found.trips
    console().print(
        f"PING      {trips.count} in {seconds} s: min {took(trips.least)}, median {took(trips.median)}, "
        f"99% {took(trips.p99)}, max {took(trips.most)}\n"
    )
    table = make_table("command", ">calls", ">half", ">99%", ">max")
    for command in found.commands[:MAX_ROWS]:
        times = (f"≤ {took(value)}" for value in (command.median, command.p99, command.most))
        table.add_row(Text(command.name), f"{command.calls:,}", *times)
    console().print(table)
    print_omitted(len(found.commands), "commands")
    console().print()
    if found.events:
        table = make_table("event", "last (UTC)", ">took", ">longest")
        for event in found.events:
            table.add_row(Text(event.name), time_ago(event.at), took(event.last), took(event.most))
        console().print(table)
    elif found.threshold:
        console().print(f"no event took longer than {took(found.threshold)}")
    else:
        console().print("the latency monitor is off: redis_latency_monitor_threshold")
    doctor = "the doctor may not be asked" if found.doctor is None else found.doctor
    console().print(Text(f"\nRedis's doctor says:\n{doctor}"))


@click.command()
@click.option("--depth", type=click.IntRange(1, 10), default=2, show_default=True, help="Parts of a prefix.")
@click.option(
    "--sample", type=click.IntRange(100, 10_000_000), default=20_000, show_default=True, help="Keys that are looked at."
)
@click.option("--all", "everything", is_flag=True, help="Look at every key. Takes long where there are many.")
@click.option("--biggest", type=click.IntRange(0, 1000), default=10, show_default=True, help="Biggest keys to show.")
@click.option("--names", is_flag=True, help="Show the biggest keys' whole names. A session's name is its cookie.")
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
    """Say which keys take the memory.

    Keys are grouped by their first parts, which ':' separates: --depth 2 makes app:session:* of all sessions. What
    looks like an ID (numbers, hex, UUIDs, tokens) is folded into <id>.

    Where there are more keys than --sample, that many are looked at, picked by a hash that knows nothing of their names
    and sizes, and the rest is extrapolated: shares are good for prefixes of which hundreds were seen, and a few huge
    keys among the others may be missed. --all looks at every key. Redis serves others in between.

    Sizes are those of MEMORY USAGE: with the key's name and overhead, of collections estimated from 5 elements.
    """
    with instance.connect(decode_responses=False, db=database) as redis:
        tally = Tally(depth, instance.session_keys, biggest)
        found = usage(redis, database, tally, None if everything else sample, names)
        info = redis.info("all")
    if as_json:
        print_json({"instance": instance.name, "used_memory": info["used_memory"], **found.as_dict()})
        return
    about = "" if found.whole else "about "
    console().print(
        f"{found.keys:,} keys in db{database} take {about}{size(found.bytes)}; "
        f"Redis uses {size(info['used_memory'])} in all"
    )
    if not found.whole:
        console().print(
            f"Extrapolated from {found.seen_keys:,} keys of {size(found.seen_bytes)}: "
            "what has a ~ is an estimate, seen is what was counted.\n"
            f"A huge key may be among the {found.keys - found.seen_keys:,} others: --all finds it"
        )
    table = make_table("prefix", ">share", ">memory", ">keys", ">seen")
    for group in found.groups[:MAX_ROWS]:
        numbers = (f"{about and '~'}{group.share:.1%}", f"{about and '~'}{size(group.bytes)}")
        table.add_row(Text(group.prefix), *numbers, f"{about and '~'}{group.keys:,}", f"{group.seen_keys:,}")
    if found.groups:
        console().print()
        console().print(table)
        print_omitted(len(found.groups), "prefixes")
    if found.biggest:
        console().print(f"\nThe biggest keys of {'all' if found.whole else 'those seen'}:")
        table = make_table(">memory", "type", ">elements", "name")
        for big in found.biggest:
            elements = "" if big.elements is None else f"{big.elements:,}"
            table.add_row(size(big.bytes), Text(big.type), elements, Text(big.name))
        console().print(table)
        if not names:
            console().print("Names are masked: --names shows them, and a session's name is its cookie")
    for name, there in keyspace(info).items():
        if name != f"db{database}":
            console().print(f"{name} holds {there['keys']:,} keys more: --db {name[2:]}")
