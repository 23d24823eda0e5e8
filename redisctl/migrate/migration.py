"""Migration of another Redis: a copy replicates from it and replaces the data.

The other Redis serves until the end. ``ROOT/import/`` exists while an import is running: ``state.json`` with the
address and password of the source, readable only by root, and ``data/`` of the copy.
"""

import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from redisctl import paths
from redisctl.core import journal, scratch_redis
from redisctl.core.contents import Contents
from redisctl.core.counting import count_contents, list_functions
from redisctl.core.errors import Failure
from redisctl.core.files import write_json
from redisctl.core.fingerprint import Fingerprint, fingerprints
from redisctl.core.instance import Instance, error_text
from redisctl.core.keyspace import keyspace
from redisctl.core.untrusted_files import remove_tree
from redisctl.data import layout
from redisctl.data.swap import staging_dir, swap_data, unused_name
from redisctl.migrate.blockers import blockers, describe_shortage, function_blocker, switch_blockers, target_facts
from redisctl.migrate.compare import Pair, Report, compare
from redisctl.migrate.replica import DOWN, FOLLOWS, Progress, Replica, describe_writes, wait_for_offset
from redisctl.migrate.source import (
    SourceFacts,
    SourceServer,
    check_rights,
    fetch_facts,
    is_final,
    next_step,
    parse_facts,
    refusal,
)
from redisctl.migrate.write_monitor import WriteMonitor, wait_until_synced

# Seconds without writes before the switch.
QUIET = 3
# Seconds between two checks of the progress, and without a link until an error.
_PROGRESS_INTERVAL = 0.5
_LINK_TIMEOUT = 30
# Share of the compared keys that the new data must have: clients may already have changed some.
MIN_FOUND_RATIO = 0.9


@dataclass(frozen=True)
class State:
    """Contents of state.json. ``replaced`` is the switch's name of the previous data.

    ``memory`` is what the data took in the source, and ``limit`` what the copy may use, in bytes.
    """

    source: SourceServer
    started: float
    overwrite: bool
    memory: int
    replaced: str = ""
    limit: int = 0


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
    write_json(_directory(instance) / "state.json", asdict(state), (0, 0))


def current_migration(instance: Instance) -> State:
    """Return the running import. Raises Failure if there is none."""
    state = read_state(instance)
    if state is None:
        raise Failure("no import is running: redisctl import start --from HOST:PORT")
    return state


def replica_of(instance: Instance, state: State) -> Replica:
    """Return the copy of an import."""
    return Replica(instance, _directory(instance) / "data", state.memory, state.limit)


def cancel(instance: Instance) -> bool:
    """Remove the copy and the state of the import. Return whether there was one.

    The instance does not change.
    """
    existed = _directory(instance).exists()
    Replica(instance, _directory(instance) / "data", 0, 0).end()
    remove_tree(_directory(instance), ignore_errors=True)
    return existed


# -- Start


def start(instance: Instance, source: SourceServer, report: Callable[[str], None], *, overwrite: bool) -> State:
    """Start a copy that replicates from the source, under the instance's lock.

    ``overwrite`` allows replacing data of this instance. ``report`` gets a warning. Raises Failure with all blockers,
    before it creates anything.
    """
    journal.ensure_none(instance)
    current = read_state(instance)
    if current:
        raise Failure(
            f"an import from {current.source.name} is running: see redisctl import status, or cancel it first"
        )
    cancel(instance)
    facts = fetch_facts(source)
    own = target_facts(instance, overwrite=overwrite)
    problems = blockers(own, facts, source, overwrite=overwrite)
    if problems:
        raise Failure("; ".join(problems))
    check_rights(source)
    if shortage := describe_shortage(own, facts):
        report(f"warning: {shortage}")
    # The source may grow, and a copy cannot start again with more.
    limit = scratch_redis.memory_limits(None, 0, own.free_memory)[-1]
    state = State(source, time.time(), overwrite, facts.memory, limit=limit)
    _directory(instance).mkdir(mode=0o700)
    try:
        _save_state(instance, state)
        replica_of(instance, state).begin(source)
    except BaseException:
        cancel(instance)
        raise
    return state


def count_copy(instance: Instance, state: State) -> Contents:
    """Count what the copy contains. Raises Failure."""
    with replica_of(instance, state).client() as copy:
        try:
            return count_contents(copy)
        except RedisError as error:
            raise Failure(f"the copy answers: {error_text(error)}") from None


def wait_for_sync(instance: Instance, state: State, report: Callable[[str], None]) -> Progress:
    """Wait for the first copy and report its progress. Raises Failure if it fails."""
    replica = replica_of(instance, state)
    last, since = "", time.monotonic()
    while True:
        try:
            progress = replica.read()
        except scratch_redis.Ended:
            cancel(instance)
            raise
        except Failure as error:
            # A copy of hours is no less worth because Docker does not answer now.
            raise Failure(f"{error}. The copy was left alone: see redisctl import status") from None
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
    except scratch_redis.Ended as error:
        remedy = "run redisctl import cancel, and start again"
        return MigrationStatus(state, None, None, None, f"the copy has ended: {error}", remedy)
    facts, lag, refused = None, None, ""
    try:
        with state.source.connect() as redis:
            info = redis.info("all")
        facts, lag = parse_facts(info), max(0, int(info.get("master_repl_offset", 0)) - progress.offset)
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


def rehearse(
    instance: Instance, state: State, *, full: bool, overwrite: bool, with_functions: bool = False
) -> tuple[WriteMonitor, ComparisonResult]:
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
    problems = _blockers(instance, state, replica, overwrite=overwrite, with_functions=with_functions)
    return monitor, ComparisonResult([*report.all_problems(), *problems], written, clients, report)


def _blockers(
    instance: Instance, state: State, replica: Replica, *, overwrite: bool, with_functions: bool
) -> list[str]:
    """Return what keeps the copy, as it is now, from replacing this instance's data.

    Raises Failure if the copy does not answer.
    """
    with replica.client() as copy:
        try:
            libraries = list_functions(copy)
        except RedisError as error:
            raise Failure(f"the copy answers: {error_text(error)}") from None
    is_allowed = overwrite or state.overwrite
    return switch_blockers(instance, replica.read(), libraries, overwrite=is_allowed, with_functions=with_functions)


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


def cut_over(
    instance: Instance,
    state: State,
    monitor: WriteMonitor,
    report: Report,
    *,
    overwrite: bool,
    with_functions: bool,
    allow_writes: bool,
    discard_unsaved: bool = False,
) -> dict[str, Any]:
    """Replace the instance's data by the copy's, and end the import.

    Returns its contents, seconds, late writes and a warning. ``allow_writes`` accepts writes to the source,
    ``discard_unsaved`` that this instance cannot save its own. Raises Failure; the copy then still follows.

    The source may have sent everything again since the comparison, without a command that counts as a write. So this
    checks the copy again, and at last the data that the instance has loaded.
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
        problems = _blockers(instance, state, replica, overwrite=overwrite, with_functions=with_functions)
        if problems:
            raise Failure(f"not finished, the data has changed since the comparison: {'; '.join(problems)}")
        # Later writes are not in the snapshot.
        monitor.before = saved
        replaced = unused_name(instance)
        # If the switch is interrupted, this name shows whether the data was replaced.
        _save_state(instance, replace(state, replaced=replaced))
        check = functools.partial(_check, instance, saved, report, with_functions)
        operation = f"import from {state.source.name}"
        with staging_dir(instance) as staged:
            layout.stage_rdb(instance, snapshot, staged)
            swapped = swap_data(instance, staged, check, operation, discard_unsaved=discard_unsaved, previous=replaced)
        blocked = time.monotonic() - monitor.since
        late = _late_writes(monitor)
    except RedisError as error:
        raise refusal(state.source, error) from None
    contents = _count_imported(instance, state)
    cancel(instance)
    return {
        **contents,
        "downtime": round(swapped.downtime, 2),
        "writers_blocked": round(blocked, 2),
        "late_writes": late,
        "warning": swapped.warning,
    }


def _count_imported(instance: Instance, state: State) -> dict[str, Any]:
    """Count what was imported. Never fails, because the data has been replaced.

    This counts in the copy, where no client waits for it.
    """
    try:
        contents = count_copy(instance, state)
    except (Failure, KeyboardInterrupt):
        return {"keys": None, "contents": "an unknown number of keys"}
    return {**contents.as_dict(), "contents": contents.describe()}


def _late_writes(monitor: WriteMonitor) -> dict[str, int]:
    """Return what clients wrote to the source during the switch. Never fails."""
    try:
        return monitor.writes()
    except (RedisError, Failure):
        return {}


def _check(instance: Instance, saved: Progress, report: Report, with_functions: bool, redis: Redis) -> list[str]:
    """Return what is wrong with the new data. Clients may have changed some of it."""
    databases = keyspace(redis.info("keyspace"))
    libraries = list_functions(redis)
    problems = [function_blocker(libraries)] if libraries and not with_functions else []
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
            same += sum(map(Fingerprint.is_same, lasting.values(), fingerprints(database, list(lasting))))
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
