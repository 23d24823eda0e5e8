"""The verbs that say what an instance does now, why it is slow and what takes its memory."""

import json
from datetime import datetime, timezone

import click
from rich.table import Table
from rich.text import Text

from redisctl import history as histories
from redisctl import latency as latencies
from redisctl import memory as memories
from redisctl import slowlog as slow
from redisctl.cli import as_json, console, of_this_host, print_json
from redisctl.instance import Failure, Instance
from redisctl.readings import keyspace
from redisctl.sizes import ago, size, took

# Rows that people read of a longer list.
ROWS = 20


@click.command()
@click.option("--every", type=click.FloatRange(1, 60), default=2, show_default=True, help="Seconds between frames.")
@click.option("--count", type=click.IntRange(1), help="End after so many frames.")
@as_json
@of_this_host
def top(instance: Instance, every: float, count: int | None, as_json: bool) -> None:
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
    from redisctl import topview
    from redisctl.top import Reader

    reader, screen = Reader(instance), console()
    if not as_json and topview.is_terminal(screen):
        topview.show(screen, instance.name, reader, every, count)
        return
    if count is None:
        raise Failure("top needs a terminal: ssh -t, or --count for frames without one; or redisctl snapshot")
    for frame in topview.frames(reader, every, count):
        if as_json:
            click.echo(json.dumps({"instance": instance.name, **frame.as_dict()}))
        else:
            click.echo(f"{topview.plain(instance.name, frame)}\n")


@click.command()
@click.option("--last", type=click.IntRange(1, 100_000), default=25, show_default=True, help="Entries, newest first.")
@click.option("--arguments", is_flag=True, help="Show arguments, too. They hold other people's data.")
@click.option("--reset", is_flag=True, help="Empty the log instead.")
@click.option("--yes", is_flag=True, help="Empty it without asking.")
@as_json
@of_this_host
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
        entries = slow.slow_commands(redis, last, slow.real_names(instance))
        _, limit = instance.call(redis, "CONFIG", "GET", "slowlog-log-slower-than")
    threshold = int(limit) / 1e6
    if arguments:
        click.echo("redisctl: arguments are other people's data, keys and values: keep them to yourself", err=True)
    if as_json:
        shown = [entry.as_dict(arguments) for entry in entries]
        print_json({"instance": instance.name, "slower_than": threshold, "entries": there, "shown": shown})
        return
    table = _table("when (UTC)", ">how long", "command", ">arguments", "client")
    for entry in entries:
        words = " ".join((entry.command, *entry.arguments)) if arguments else entry.command
        client = f"{entry.address} {entry.client}".strip()
        table.add_row(_time(entry.at), took(entry.seconds), Text(words), str(entry.count), Text(client))
    if entries:
        console().print(table)
    kept = "nothing is kept" if threshold < 0 else f"kept is what takes longer than {took(threshold)}"
    console().print(f"{len(entries)} of {there} entries; {kept}")


@click.command()
@click.option("--seconds", type=click.IntRange(1, 30), default=5, show_default=True, help="How long to send PINGs.")
@as_json
@of_this_host
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
        _, monitored = instance.call(redis, "CONFIG", "GET", "latency-monitor-threshold")
        found = latencies.measure(redis, seconds, int(monitored) / 1000)
    if as_json:
        print_json({"instance": instance.name, **found.as_dict()})
        return
    trips = found.trips
    console().print(
        f"PING      {trips.count} in {seconds} s: min {took(trips.least)}, median {took(trips.median)}, "
        f"99% {took(trips.p99)}, max {took(trips.most)}\n"
    )
    table = _table("command", ">calls", ">half", ">99%", ">max")
    for command in found.commands[:ROWS]:
        times = (f"≤ {took(value)}" for value in (command.median, command.p99, command.most))
        table.add_row(Text(command.name), f"{command.calls:,}", *times)
    console().print(table)
    _left_out(len(found.commands), "commands")
    console().print()
    if found.events:
        table = _table("event", "last (UTC)", ">took", ">longest")
        for event in found.events:
            table.add_row(Text(event.name), _time(event.at), took(event.last), took(event.most))
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
@of_this_host
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
        tally = memories.Tally(depth, instance.session_keys, biggest)
        found = memories.usage(redis, database, tally, None if everything else sample, names)
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
    table = _table("prefix", ">share", ">memory", ">keys", ">seen")
    for group in found.groups[:ROWS]:
        numbers = (f"{about and '~'}{group.share:.1%}", f"{about and '~'}{size(group.bytes)}")
        table.add_row(Text(group.prefix), *numbers, f"{about and '~'}{group.keys:,}", f"{group.seen_keys:,}")
    if found.groups:
        console().print()
        console().print(table)
        _left_out(len(found.groups), "prefixes")
    if found.biggest:
        console().print(f"\nThe biggest keys of {'all' if found.whole else 'those seen'}:")
        table = _table(">memory", "type", ">elements", "name")
        for big in found.biggest:
            elements = "" if big.elements is None else f"{big.elements:,}"
            table.add_row(size(big.bytes), Text(big.type), elements, Text(big.name))
        console().print(table)
        if not names:
            console().print("Names are masked: --names shows them, and a session's name is its cookie")
    for name, there in keyspace(info).items():
        if name != f"db{database}":
            console().print(f"{name} holds {there['keys']:,} keys more: --db {name[2:]}")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table


def _time(at: int) -> str:
    then = datetime.fromtimestamp(at, timezone.utc)
    since = datetime.now(timezone.utc) - then
    return f"{then:%Y-%m-%d %H:%M:%S} ({ago(max(0, since.total_seconds()))} ago)"


@click.command()
@click.option("--last", type=click.IntRange(1, 10_000), default=ROWS, show_default=True, help="Deploys, newest first.")
@as_json
@of_this_host
def history(instance: Instance, last: int, as_json: bool) -> None:
    """Tell what deploys and day-2 verbs did here: when, by whom, with which settings, and what changed.

    \b
    changed      these operations changed something
    no change    all was as wanted
    failed       it stopped at the operation that is named; what stands above it was changed
    broken off   it was killed, or its connection or this host went down; a deploy finishes what it began
    under way    it goes on now

    SETTINGS is a digest: two deploys with the same one had the same settings.
    """
    deploys, damaged = histories.read(instance.name)
    newest = deploys[:last]
    if as_json:
        print_json({"instance": instance.name, "deploys": [one.as_dict() for one in newest], "damaged": damaged})
        return
    table = _table("when", "who", "verb", "settings", "result", "what")
    for one in newest:
        when = f"{datetime.fromisoformat(one.started):%Y-%m-%d %H:%M:%S}"
        table.add_row(when, *map(Text, (one.who, one.verb, one.settings, one.result, one.what)))
    console().print(table)
    if damaged:
        click.echo(f"{damaged} damaged lines are left out", err=True)


def _left_out(count: int, what: str) -> None:
    if count > ROWS:
        console().print(f"and {count - ROWS} {what} more: --json has all")


COMMANDS = (top, slowlog, latency, memory, history)
