"""Migration of another Redis: a copy replicates from it and replaces the data.

The other Redis serves until the end. ``ROOT/import/`` exists while an import is running: ``state.json`` with the
address and password of the source, readable only by root, and ``data/`` of the copy.
"""

import functools
import json
import operator
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from redisctl import paths
from redisctl.backup import create
from redisctl.core import journal, scratch_redis
from redisctl.core.errors import Failure
from redisctl.core.files import write_json
from redisctl.core.fingerprint import fingerprints
from redisctl.core.formatting import size
from redisctl.core.instance import Instance
from redisctl.core.keyspace import keyspace
from redisctl.data import layout
from redisctl.data.swap import staging_dir, swap_data, unused_name
from redisctl.migrate.compare import Pair, Report, compare
from redisctl.migrate.replica import DOWN, FOLLOWS, Progress, Replica, describe_writes, wait_for_offset, writes
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

# Seconds without writes before the switch.
QUIET = 3
# Seconds between two checks of the progress, and without a link until an error.
_PROGRESS_INTERVAL = 0.5
_LINK_TIMEOUT = 30
# Share of the compared keys that the new data must have: clients may already have changed some.
MIN_FOUND_RATIO = 0.9


@dataclass(frozen=True)
class State:
    """Contents of state.json. ``replaced`` is the switch's name of the previous data."""

    source: SourceServer
    started: float
    overwrite: bool
    memory: int
    replaced: str = ""


@dataclass(frozen=True)
class TargetFacts:
    """What an import needs to know of this instance and its host. Sizes are in bytes."""

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
    """State of an import. ``lag`` is in bytes of writes to receive, None if unknown."""

    state: State
    progress: Progress | None
    source_facts: SourceFacts | None
    lag: int | None
    problem: str
    next: str


@dataclass(frozen=True)
class ComparisonResult:
    """Blockers of the switch, writes during the comparison, and its result."""

    problems: list[str]
    written: dict[str, int]
    clients: int
    report: Report


# -- State


def _directory(instance: Instance) -> Path:
    return instance.root / paths.IMPORT


def read_state(instance: Instance) -> State | None:
    """Return the running import; None without one. Raises Failure if unreadable."""
    path = _directory(instance) / "state.json"
    try:
        values = json.loads(path.read_text())
        return State(**{**values, "source": SourceServer(**values["source"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        raise Failure(f"{path} cannot be read: run redisctl import cancel, and start again") from None


def _save_state(instance: Instance, state: State) -> None:
    write_json(_directory(instance) / "state.json", asdict(state), uid=0, gid=0)


def current_migration(instance: Instance) -> State:
    """Return the running import. Raises Failure if there is none."""
    state = read_state(instance)
    if state is None:
        raise Failure("no import is running: redisctl import start --from HOST:PORT")
    return state


def replica_of(instance: Instance, state: State) -> Replica:
    """Return the copy of an import."""
    return Replica(instance, _directory(instance) / "data", state.memory)


def cancel(instance: Instance) -> bool:
    """Remove the copy and the state of the import. Return whether there was one.

    The instance does not change.
    """
    existed = _directory(instance).exists()
    Replica(instance, _directory(instance) / "data", 0).end()
    shutil.rmtree(_directory(instance), ignore_errors=True)
    return existed


# -- Start


def start(instance: Instance, source: SourceServer, *, overwrite: bool) -> State:
    """Start a copy that replicates from the source, under the instance's lock.

    ``overwrite`` allows replacing data of this instance. Raises Failure with all blockers, before it creates anything.
    """
    journal.ensure_none(instance)
    current = read_state(instance)
    if current:
        raise Failure(
            f"an import from {current.source.name} is running: see redisctl import status, or cancel it first"
        )
    cancel(instance)
    facts = fetch_facts(source)
    problems = blockers(_target_facts(instance), facts, source, overwrite=overwrite)
    if problems:
        raise Failure("; ".join(problems))
    check_rights(source)
    state = State(source, time.time(), overwrite, max(facts.memory, facts.memory_peak))
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
    disk, data_disk = (os.statvfs(path) for path in (instance.root, instance.data))
    return TargetFacts(
        run_id=str(info.get("run_id", "")),
        keys=keys,
        memory=int(info["used_memory"]),
        maxmemory=int(instance.config_value("maxmemory", "0")),
        databases=int(instance.config_value("databases", "16")),
        free_memory=scratch_redis.free_memory(),
        free_import=disk.f_bavail * disk.f_frsize,
        free_data=data_disk.f_bavail * data_disk.f_frsize,
        one_disk=instance.root.stat().st_dev == instance.data.stat().st_dev,
    )


def count_keys(redis: Redis, info: dict[str, Any]) -> int:
    """Count the keys in all databases, without temporary ones of the health check."""
    count = sum(database["keys"] for database in keyspace(info).values())
    # The health check has at most two.
    if 0 < count <= 4 and set(keyspace(info)) == {"db0"}:
        return sum(not key.startswith(PREFIX.encode()) for key in redis.scan_iter(count=1000))
    return count


def blockers(own: TargetFacts, other: SourceFacts, source: SourceServer, *, overwrite: bool) -> list[str]:
    """Return the blockers of an import, each with a remedy."""
    problems = []
    if other.run_id and other.run_id == own.run_id:
        return [f"{source.name} is this instance itself"]
    if other.is_cluster:
        problems.append(
            f"{source.name} is part of a cluster and has only some of its keys: import does not support that"
        )
    highest = max((int(name[2:]) for name in other.databases), default=0)
    if highest >= own.databases:
        problems.append(
            f"{source.name} has keys in db{highest}, but this instance has {own.databases} databases: set "
            f"redis_databases = {highest + 1} and deploy"
        )
    if own.maxmemory and other.memory > own.maxmemory:
        problems.append(
            f"its data takes {size(other.memory)} of memory, but redis_maxmemory is {size(own.maxmemory)}, so Redis "
            "would evict keys: raise it and deploy"
        )
    # The copy, and the growth of this instance to the same size.
    needed = scratch_redis.memory_needed(max(other.memory, other.memory_peak)) + max(0, other.memory - own.memory)
    if needed > own.free_memory:
        problems.append(
            f"the copy and this instance need {size(needed)} more memory, but the host has {size(own.free_memory)}: "
            "add memory for the time of the import, or bring the data as a file (redisctl restore FILE)"
        )
    space = (other.memory + create.DISK_MARGIN) * (2 if own.one_disk else 1)
    free = min(own.free_import, own.free_data)
    if free < space:
        problems.append(f"the disk has {size(free)} free, but the import needs up to {size(space)}: free some space")
    if own.keys and not overwrite:
        problems.append(
            f"this instance has {own.keys} keys already, which the import would replace: --overwrite allows that; "
            "redisctl restore --undo brings them back"
        )
    return problems


def wait_for_sync(instance: Instance, state: State, report: Callable[[str], None]) -> Progress:
    """Wait for the first copy and report its progress. Raises Failure if it fails."""
    replica = replica_of(instance, state)
    last, since = "", time.monotonic()
    while True:
        try:
            progress = replica.read()
        except Failure:
            cancel(instance)
            raise
        if progress.stage == FOLLOWS:
            return progress
        if progress.errors and is_final(progress.errors):
            cancel(instance)
            raise Failure(
                f"{state.source.name} cannot be copied. Redis reports: {progress.errors}. "
                f"{next_step(state.source, progress.errors)}"
            )
        if progress.stage == DOWN:
            if time.monotonic() - since > _LINK_TIMEOUT:
                raise Failure(
                    f"no link to {state.source.name}: {progress.errors or 'it does not answer'}. The copy keeps "
                    "trying: see redisctl import status, or cancel"
                )
        else:
            since = time.monotonic()
            message = f"{progress.stage}: {progress.percent:.0f} %"
            if message != last:
                report(message)
            last = message
        time.sleep(_PROGRESS_INTERVAL)


# -- Status


def status(instance: Instance) -> MigrationStatus:
    """Return the status of the import. Raises Failure if there is none."""
    state = current_migration(instance)
    try:
        progress = replica_of(instance, state).read()
    except Failure as error:
        remedy = "run redisctl import cancel, and start again"
        return MigrationStatus(state, None, None, None, f"the copy has ended: {error}", remedy)
    facts, lag, refused = None, None, ""
    try:
        with state.source.connect() as redis:
            info = redis.info("all")
        facts, lag = parse_facts(info), max(0, int(info["master_repl_offset"]) - progress.offset)
    except RedisError as error:
        refused = str(refusal(state.source, error))
    problem = " / ".join(message for message in (progress.errors, refused) if message)
    if progress.stage == FOLLOWS:
        step = "redisctl import finish compares and reports blockers; with --yes it switches over"
    elif progress.stage == DOWN:
        step = next_step(state.source, problem)
    else:
        step = "wait until the copy follows; both servers keep serving"
    return MigrationStatus(state, progress, facts, lag if progress.stage == FOLLOWS else None, problem, step)


# -- Switch


class WriteMonitor:
    """Counts what clients write to the source, from its creation on."""

    def __init__(self, source: SourceServer, replica: Replica) -> None:
        self.source, self.replica = source, replica
        self.since = time.monotonic()
        self.removed = self._removed()
        # So that the copy has received every removal that was counted.
        wait_until_synced(source, replica)
        self.before = replica.read()

    def _removed(self) -> int:
        with self.source.connect() as redis:
            stats = redis.info("stats")
        return int(stats["expired_keys"]) + int(stats["evicted_keys"])

    def writes(self) -> dict[str, int]:
        """Return write commands by name, without removals of expired and evicted keys."""
        wait_until_synced(self.source, self.replica)
        after = self.replica.read()
        return writes(self.before, after, self._removed() - self.removed)


def wait_until_synced(source: SourceServer, replica: Replica) -> None:
    """Wait until the copy has everything that the source has now.

    Raises Failure if that takes too long.
    """
    with source.connect() as primary, replica.client() as copy:
        wait_for_offset(primary, copy)


def rehearse(instance: Instance, state: State, *, full: bool, overwrite: bool) -> tuple[WriteMonitor, ComparisonResult]:
    """Compare the copy with the source, and find the blockers of the switch.

    Changes nothing. Raises Failure if they cannot be compared.
    """
    replica = replica_of(instance, state)
    try:
        progress = replica.read()
        if progress.stage != FOLLOWS:
            raise Failure(f"the copy is not complete: {progress.stage}. Next: {status(instance).next}")
        monitor = WriteMonitor(state.source, replica)
        report = _compare(instance, state, replica, full=full)
        time.sleep(max(0.0, QUIET - (time.monotonic() - monitor.since)))
        written = monitor.writes()
        with state.source.connect() as redis:
            clients = int(redis.info("clients")["connected_clients"]) - 1
    except RedisError as error:
        raise refusal(state.source, error) from None
    return monitor, ComparisonResult(
        _blockers(instance, replica.read(), state, report, overwrite=overwrite), written, clients, report
    )


def _compare(instance: Instance, state: State, replica: Replica, *, full: bool) -> Report:
    with state.source.connect() as source, replica.client() as copy:
        pair = Pair(
            source=state.source.connect,
            copy=replica.client,
            wait_until_synced=lambda: wait_for_offset(source, copy),
            absolute_expiry=parse_facts(source.info("server")).has_absolute_expiry,
            patterns=(instance.session_keys, instance.queue_keys),
        )
        return compare(pair, full=full)


def _blockers(instance: Instance, copy: Progress, state: State, report: Report, *, overwrite: bool) -> list[str]:
    """Return what keeps the copy from replacing this instance's data."""
    own = _target_facts(instance)
    problems = report.all_problems()
    if own.maxmemory and copy.memory > own.maxmemory:
        problems.append(
            f"the copy takes {size(copy.memory)}, but redis_maxmemory is {size(own.maxmemory)}: raise it and deploy"
        )
    highest = max((int(name[2:]) for name in copy.databases), default=0)
    if highest >= own.databases:
        problems.append(f"there are keys in db{highest}: set redis_databases = {highest + 1} and deploy")
    if own.keys and not (overwrite or state.overwrite):
        problems.append(f"this instance has {own.keys} keys now, which would be replaced: --overwrite allows that")
    return problems


def cut_over(
    instance: Instance,
    state: State,
    monitor: WriteMonitor,
    report: Report,
    *,
    allow_writes: bool,
    discard_unsaved: bool = False,
) -> dict[str, Any]:
    """Replace the instance's data by the copy's, and end the import.

    Returns keys, seconds, late writes and a warning. ``allow_writes`` accepts writes to the source, ``discard_unsaved``
    that this instance cannot save its own. Raises Failure; the copy then still follows.
    """
    replica = replica_of(instance, state)
    try:
        wait_until_synced(state.source, replica)
        saved = replica.read()
        snapshot = replica.save()
        if (written := monitor.writes()) and not allow_writes:
            raise Failure(
                f"{state.source.name} got writes while the copy saved ({describe_writes(written)}): stop the writers"
            )
        # Later writes are not in the snapshot.
        monitor.before = saved
        replaced = unused_name(instance)
        # If the switch is interrupted, this name shows whether the data was replaced.
        _save_state(instance, replace(state, replaced=replaced))
        check = functools.partial(_check, instance, saved, report)
        operation = f"import from {state.source.name}"
        with staging_dir(instance) as staged:
            layout.stage_rdb(instance, snapshot, staged)
            swapped = swap_data(instance, staged, check, operation, discard_unsaved=discard_unsaved, previous=replaced)
        blocked = time.monotonic() - monitor.since
        late = _late_writes(monitor)
    except RedisError as error:
        raise refusal(state.source, error) from None
    cancel(instance)
    return {
        "keys": saved.keys,
        "downtime": round(swapped.downtime, 2),
        "writers_blocked": round(blocked, 2),
        "late_writes": late,
        "warning": swapped.warning,
    }


def _late_writes(monitor: WriteMonitor) -> dict[str, int]:
    """Return what clients wrote to the source during the switch. Never fails."""
    try:
        return monitor.writes()
    except (RedisError, Failure):
        return {}


def _check(instance: Instance, saved: Progress, report: Report, redis: Redis) -> list[str]:
    """Return what is wrong with the new data. Clients may have changed some of it."""
    databases = keyspace(redis.info("keyspace"))
    problems = []
    for name, database in saved.databases.items():
        # Keys with a TTL may have expired.
        expected = database["keys"] - database["expires"]
        current = databases.get(name, {"keys": 0, "expires": 0})
        present = current["keys"] - current["expires"]
        if present < MIN_FOUND_RATIO * expected:
            problems.append(f"of {expected} keys without a TTL in {name}, only {present} are present")
    same = compared = 0
    now = time.time() * 1000
    for number, samples in report.samples.items():
        lasting = {key: value for key, value in samples.items() if not 0 < value.expires_at <= now + QUIET * 1000}
        with instance.connect(decode_responses=False, db=number) as database:
            same += sum(map(operator.eq, lasting.values(), fingerprints(database, list(lasting))))
        compared += len(lasting)
    if same < MIN_FOUND_RATIO * compared:
        problems.append(f"of {compared} sample keys, only {same} are the same as in the copy")
    return problems


def recover(instance: Instance, state: State) -> bool:
    """Clean up after an interrupted switch. Return whether the import is done.

    It is done if the data had been replaced. The caller has recovered the transaction before. Raises Failure.
    """
    if state.replaced and (instance.previous / state.replaced).is_dir():
        cancel(instance)
        return True
    return False
