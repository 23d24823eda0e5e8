"""Bringing the data of another Redis here: a copy follows it while it serves, and takes over at the end.

``<root>/import/`` is there for as long as an import is under way: ``state.json`` with where the data comes from and how
it is reached, for root alone, and ``data/``, which is the copy's.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from redisctl.backup import create
from redisctl.core import journal, scratch_redis
from redisctl.core.errors import Failure
from redisctl.core.files import write_json
from redisctl.core.fingerprint import fingerprints
from redisctl.core.formatting import size
from redisctl.core.instance import Instance
from redisctl.core.keyspace import keyspace
from redisctl.data import layout
from redisctl.data.layout import previous_data_dirs
from redisctl.data.swap import staging_dir, swap_data
from redisctl.migrate.compare import Pair, Report, compare
from redisctl.migrate.replica import DOWN, FOLLOWS, Progress, Replica, writes
from redisctl.migrate.source import (
    PREFIX,
    SourceFacts,
    SourceServer,
    check_rights,
    fetch_facts,
    is_final,
    next_step,
    parse_facts,
    refusal,
)

# Seconds for which the source has to be quiet; until the copy has what the source has; between looks at a first copy,
# and how long that may have no link before somebody else has to look.
QUIET = 3
SYNC_TIMEOUT = 20
_LOOK = 0.5
_LINKLESS = 30
# Of the keys that were compared, as many have to be there once the new data serves: clients may be at work already.
MIN_FOUND_RATIO = 0.9

FOLLOWING, SWAPPING = "following", "swapping"


@dataclass(frozen=True)
class State:
    """An import that is under way, as it is kept in its file. ``previous`` is what was replaced before it."""

    source: SourceServer
    began: float
    replace: bool
    memory: int
    stage: str = FOLLOWING
    previous: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TargetFacts:
    """This instance and its host, as far as an import asks. Sizes are in bytes; ``rooms`` are disks with free bytes."""

    run_id: str
    keys: int
    memory: int
    maxmemory: int
    databases: int
    free_memory: int
    free_import: int
    free_data: int
    one_disk: bool


@dataclass(frozen=True)
class MigrationStatus:
    """How an import is. ``lag`` is how many bytes of writes the copy has yet to get, None where that is not known."""

    state: State
    progress: Progress | None
    there: SourceFacts | None
    lag: int | None
    trouble: str
    next: str


@dataclass(frozen=True)
class ComparisonResult:
    """What stands in the way of the end of an import, and what was compared."""

    problems: list[str]
    written: dict[str, int]
    clients: int
    report: Report


# -- Where it is kept


def _directory(instance: Instance) -> Path:
    return instance.root / "import"


def read_state(instance: Instance) -> State | None:
    """The import that is under way, if one is. Raises Failure where that cannot be told."""
    path = _directory(instance) / "state.json"
    try:
        told = json.loads(path.read_text())
        return State(**{**told, "source": SourceServer(**told["source"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        raise Failure(f"{path} cannot be read: redisctl import cancel, and start again") from None


def _save_state(instance: Instance, state: State) -> None:
    path = _directory(instance) / "state.json"
    write_json(path, asdict(state))
    os.chown(path, 0, 0)


def current_migration(instance: Instance) -> State:
    """The import that is under way. Raises Failure where none is."""
    state = read_state(instance)
    if state is None:
        raise Failure("no import is under way: redisctl import start --from HOST:PORT")
    return state


def replica_of(instance: Instance, state: State) -> Replica:
    """The copy of an import."""
    return Replica(instance, _directory(instance) / "data", state.memory)


def cancel(instance: Instance) -> bool:
    """Remove the copy and all that was kept of the import. Whether there was anything. The instance is not touched."""
    there = _directory(instance).exists()
    Replica(instance, _directory(instance) / "data", 0).end()
    shutil.rmtree(_directory(instance), ignore_errors=True)
    return there


# -- Starting


def start(instance: Instance, source: SourceServer, *, over: bool) -> State:
    """Start a copy that follows the source, under the instance's lock. ``over`` is whether data here may be replaced.

    Raises Failure, with all that stands in the way, before anything is made.
    """
    journal.ensure_none(instance)
    there = read_state(instance)
    if there:
        raise Failure(f"an import from {there.source.name} is under way: redisctl import status; or cancel it first")
    cancel(instance)
    told = fetch_facts(source)
    problems = blockers(_target_facts(instance), told, source, over=over)
    if problems:
        raise Failure("; ".join(problems))
    check_rights(source)
    state = State(source, time.time(), over, max(told.memory, told.memory_peak))
    _directory(instance).mkdir(mode=0o700)
    try:
        _save_state(instance, state)
        replica_of(instance, state).begin(source)
    except BaseException:
        cancel(instance)
        raise
    return state


def _target_facts(instance: Instance) -> TargetFacts:
    with instance.connect(decode_responses=False) as redis:
        info: dict[str, Any] = redis.info("all")
        keys = count_keys(redis, info)
    here, data = (os.statvfs(path) for path in (instance.root, instance.live))
    return TargetFacts(
        run_id=str(info.get("run_id", "")),
        keys=keys,
        memory=int(info["used_memory"]),
        maxmemory=int(instance.config_value("maxmemory", "0")),
        databases=int(instance.config_value("databases", "16")),
        free_memory=scratch_redis.free_memory(),
        free_import=here.f_bavail * here.f_frsize,
        free_data=data.f_bavail * data.f_frsize,
        one_disk=instance.root.stat().st_dev == instance.live.stat().st_dev,
    )


def count_keys(redis: Redis, info: dict[str, Any]) -> int:
    """Keys in all databases, without those that the health check has for a moment."""
    count = sum(database["keys"] for database in keyspace(info).values())
    # It has one or two at most.
    if 0 < count <= 4 and set(keyspace(info)) == {"db0"}:
        return sum(not key.startswith(PREFIX.encode()) for key in redis.scan_iter(count=1000))
    return count


def blockers(own: TargetFacts, told: SourceFacts, source: SourceServer, *, over: bool) -> list[str]:
    """What stands in the way of an import, in words."""
    found = []
    if told.run_id and told.run_id == own.run_id:
        return [f"{source.name} is this instance itself"]
    if told.is_cluster:
        found.append(f"{source.name} is part of a cluster, and has only its slots: this is no way to bring all of them")
    highest = max((int(name[2:]) for name in told.databases), default=0)
    if highest >= own.databases:
        found.append(
            f"{source.name} has keys in db{highest}, and this instance has {own.databases} databases: "
            f"redis_databases = {highest + 1}, and deploy"
        )
    if own.maxmemory and told.memory > own.maxmemory:
        found.append(
            f"its data takes {size(told.memory)} of memory, and redis_maxmemory is {size(own.maxmemory)}: Redis would "
            "evict at once. Raise it and deploy"
        )
    # Beside the copy the instance grows to the same size.
    wanted = scratch_redis.memory_needed(max(told.memory, told.memory_peak)) + max(0, told.memory - own.memory)
    if wanted > own.free_memory:
        found.append(
            f"the copy and then this instance take {size(wanted)} more memory, and the host has "
            f"{size(own.free_memory)}: give it more for that time, or take the data as a file: redisctl restore FILE"
        )
    room = told.memory + create.DISK_MARGIN
    disks = {"free_import": room * (2 if own.one_disk else 1), "free_data": room * (2 if own.one_disk else 1)}
    for name, count in disks.items():
        if getattr(own, name) < count:
            found.append(f"the disk has {size(getattr(own, name))} free, and this takes up to {size(count)}: free some")
            break
    if own.keys and not over:
        found.append(
            f"this instance has {own.keys} keys already, which the import would replace: --overwrite where it shall; "
            "they are kept aside, and redisctl restore --undo brings them back"
        )
    return found


def wait_for_sync(instance: Instance, state: State, say: Callable[[str], None]) -> Progress:
    """Wait until the first copy is whole, and say how far it is. Raises Failure where it never will be: it is ended."""
    replica = replica_of(instance, state)
    last, since = "", time.monotonic()
    while True:
        try:
            seen = replica.read()
        except Failure:
            cancel(instance)
            raise
        if seen.stage == FOLLOWS:
            return seen
        if seen.trouble and is_final(seen.trouble):
            cancel(instance)
            raise Failure(
                f"{state.source.name} cannot be copied. Redis says: {seen.trouble}. "
                f"{next_step(state.source, seen.trouble)}"
            )
        if seen.stage == DOWN:
            if time.monotonic() - since > _LINKLESS:
                raise Failure(
                    f"no link to {state.source.name}: {seen.trouble or 'nothing is heard of it'}. It tries again by "
                    "itself: redisctl import status; or cancel"
                )
        else:
            since = time.monotonic()
            words = f"{seen.stage}: {seen.percent:.0f} %"
            if words != last:
                say(words)
            last = words
        time.sleep(_LOOK)


# -- How it is


def status(instance: Instance) -> MigrationStatus:
    """How the import is. Raises Failure where none is under way."""
    state = current_migration(instance)
    try:
        progress = replica_of(instance, state).read()
    except Failure as error:
        again = "redisctl import cancel, and start again"
        return MigrationStatus(state, None, None, None, f"the copy has ended: {error}", again)
    there, lag, silent = None, None, ""
    try:
        with state.source.connect() as redis:
            info = redis.info("all")
        there, lag = parse_facts(info), max(0, int(info["master_repl_offset"]) - progress.offset)
    except RedisError as error:
        silent = str(refusal(state.source, error))
    trouble = " / ".join(word for word in (progress.trouble, silent) if word)
    if progress.stage == FOLLOWS:
        step = "redisctl import finish compares and says what is in the way; with --yes it takes this instance's place"
    elif progress.stage == DOWN:
        step = next_step(state.source, trouble)
    else:
        step = "wait until it follows; nothing there or here waits for it"
    return MigrationStatus(state, progress, there, lag if progress.stage == FOLLOWS else None, trouble, step)


# -- The end


class WriteMonitor:
    """Tells what clients write to the source, from when it was made."""

    def __init__(self, source: SourceServer, replica: Replica) -> None:
        self.source, self.replica = source, replica
        self.since = time.monotonic()
        self.removed = self._removed()
        # What it removed until then has come to the copy.
        wait_until_synced(source, replica)
        self.before = replica.read()

    def _removed(self) -> int:
        with self.source.connect() as redis:
            told = redis.info("stats")
        return int(told["expired_keys"]) + int(told["evicted_keys"])

    def writes(self) -> dict[str, int]:
        """Commands by name. Keys that the source removed by itself are none."""
        wait_until_synced(self.source, self.replica)
        after = self.replica.read()
        return writes(self.before, after, self._removed() - self.removed)


def wait_until_synced(source: SourceServer, replica: Replica) -> None:
    """Wait until the copy has all that the source has now. Raises Failure where that takes too long."""
    with source.connect() as there, replica.client() as here:
        wait_for(there, here)


def wait_for(there: Redis, here: Redis) -> None:
    """Wait until a replica has all that its primary has now. Raises Failure where that takes too long."""
    wanted = int(there.info("replication")["master_repl_offset"])
    deadline = time.monotonic() + SYNC_TIMEOUT
    while True:
        told = here.info("replication")
        if told.get("master_link_status") == "up" and int(told["slave_repl_offset"]) >= wanted:
            return
        if time.monotonic() > deadline:
            raise Failure(f"the copy did not catch up within {SYNC_TIMEOUT} s: redisctl import status says how it is")
        time.sleep(0.01)


def rehearse(instance: Instance, state: State, *, full: bool, over: bool) -> tuple[WriteMonitor, ComparisonResult]:
    """Compare the copy with the source, and see what stands in the way of the end. Nothing is changed.

    Raises Failure where it cannot be compared.
    """
    replica = replica_of(instance, state)
    try:
        seen = replica.read()
        if seen.stage != FOLLOWS:
            raise Failure(f"the copy is not whole: {seen.stage}. {status(instance).next}")
        watch = WriteMonitor(state.source, replica)
        report = _compare(instance, state, replica, full=full)
        time.sleep(max(0.0, QUIET - (time.monotonic() - watch.since)))
        written = watch.writes()
        with state.source.connect() as redis:
            clients = int(redis.info("clients")["connected_clients"]) - 1
    except RedisError as error:
        raise refusal(state.source, error) from None
    return watch, ComparisonResult(
        _blockers(instance, replica.read(), state, report, over=over), written, clients, report
    )


def _compare(instance: Instance, state: State, replica: Replica, *, full: bool) -> Report:
    with state.source.connect() as there, replica.client() as here:
        pair = Pair(
            source=state.source.connect,
            copy=replica.client,
            wait_until_synced=lambda: wait_for(there, here),
            absolute_expiry=parse_facts(there.info("server")).has_absolute_expiry,
            patterns=(instance.session_keys, instance.queue_keys),
        )
        return compare(pair, full=full)


def _blockers(instance: Instance, seen: Progress, state: State, report: Report, *, over: bool) -> list[str]:
    own = _target_facts(instance)
    found = report.all_problems()
    if own.maxmemory and seen.memory > own.maxmemory:
        found.append(
            f"the copy takes {size(seen.memory)}, and redis_maxmemory is {size(own.maxmemory)}: raise it, deploy"
        )
    highest = max((int(name[2:]) for name in seen.databases), default=0)
    if highest >= own.databases:
        found.append(f"there are keys in db{highest}: redis_databases = {highest + 1}, and deploy")
    if own.keys and not (over or state.replace):
        found.append(
            f"this instance has {own.keys} keys by now, which would be replaced: --overwrite where they shall be"
        )
    return found


def cut_over(
    instance: Instance, state: State, watch: WriteMonitor, report: Report, *, allow_writes: bool
) -> dict[str, Any]:
    """Put the copy's data in the instance's place, and end the import. What came of it; times are in seconds.

    ``allow_writes`` is whether it is done while clients write to the source. Raises Failure: the copy still follows
    then.
    """
    replica = replica_of(instance, state)
    what = _what(state)
    try:
        wait_until_synced(state.source, replica)
        saved = replica.read()
        snapshot = replica.save()
        if (written := watch.writes()) and not allow_writes:
            raise Failure(f"{state.source.name} was written while the copy was saved: {describe_writes(written)}")
        # What is written from here on does not come along.
        watch.before = saved
        _save_state(instance, replace(state, stage=SWAPPING, previous=_previous_data(instance)))
        with staging_dir(instance) as place:
            layout.stage_rdb(instance, snapshot, place)
            down = swap_data(instance, place, lambda redis: _check(instance, redis, saved, report), what).downtime
        blocked = time.monotonic() - watch.since
        late = _late_writes(watch)
    except RedisError as error:
        raise refusal(state.source, error) from None
    cancel(instance)
    return {"keys": saved.keys, "down": round(down, 2), "blocked": round(blocked, 2), "late": late}


def _late_writes(watch: WriteMonitor) -> dict[str, int]:
    """What clients wrote to the source until the end. It is done by then, so nothing here may fail."""
    try:
        return watch.writes()
    except (RedisError, Failure):
        return {}


def _check(instance: Instance, redis: Redis, saved: Progress, report: Report) -> list[str]:
    """What is wrong with the data that serves now. Clients may have been at it already."""
    found = keyspace(redis.info("keyspace"))
    problems = []
    for name, told in saved.databases.items():
        # Those that end may have.
        wanted = told["keys"] - told["expires"]
        there = found.get(name, {"keys": 0, "expires": 0})
        if there["keys"] - there["expires"] < MIN_FOUND_RATIO * wanted:
            problems.append(f"of {wanted} keys without a TTL in {name}, {there['keys'] - there['expires']} are there")
    same = every = 0
    now = time.time() * 1000
    for number, kept in report.kept.items():
        lasting = {key: value for key, value in kept.items() if not 0 < value.expires_at <= now + QUIET * 1000}
        with instance.connect(decode_responses=False, db=number) as database:
            same += sum(map(lambda one, two: one == two, lasting.values(), fingerprints(database, list(lasting))))
        every += len(lasting)
    if same < MIN_FOUND_RATIO * every:
        problems.append(f"of {every} keys that were compared, {same} are here as they were")
    return problems


def _what(state: State) -> str:
    return f"the import from {state.source.name}"


def _previous_data(instance: Instance) -> list[str]:
    return [path.name for path in previous_data_dirs(instance)]


def recover(instance: Instance, state: State) -> bool:
    """Finish an interrupted end of this import. Returns whether the data had been replaced: then nothing is left to do.

    The verb has recovered the transaction by now. Raises Failure.
    """
    if state.stage == SWAPPING and set(_previous_data(instance)) - set(state.previous):
        cancel(instance)
        return True
    return False


def describe_writes(written: dict[str, int]) -> str:
    """Commands with their number."""
    return ", ".join(f"{name.upper()} {count}" for name, count in written.items())
