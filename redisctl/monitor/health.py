"""The checks of the health report: pure functions from a status to verdicts.

Each verdict comes with a remedy.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

from redisctl.core.answers import ImplausibleAnswer, reading_answers
from redisctl.core.formatting import ago, size
from redisctl.core.server_changes import LOCKED_OUT_ADVICE
from redisctl.core.startup_errors import explain
from redisctl.monitor.status import DiskStatus, Status

# The exit codes of Nagios plugins.
OK, WARNING, CRITICAL, UNKNOWN = "ok", "warning", "critical", "unknown"
EXIT_CODES = {OK: 0, WARNING: 1, CRITICAL: 2, UNKNOWN: 3}
# 'unknown' ranks above ok and below warning, so it never hides a known problem.
_BY_WEIGHT = (OK, UNKNOWN, WARNING, CRITICAL)

# Where warning and critical begin: shares of maxmemory and of maxclients.
MEMORY = (0.75, 0.90)
CLIENTS = (0.75, 0.90)
# Memory from the system divided by memory that Redis uses. Redis recommends defragmentation above 1.5; with little
# memory the ratio means nothing.
FRAGMENTATION = (1.5, 3.0)
FRAGMENTATION_FROM = 100 * 1024**2
# Memory of loaded scripts and functions, as a share of maxmemory. Every Redis uses some.
SCRIPTS = (0.05, 0.25)
SCRIPTS_FROM = 8 * 1024**2
# Seconds. Without the AOF, a restart brings back the last RDB snapshot.
RDB_AGE = (86400, 3 * 86400)
# Days. A deploy renews a certificate in the last third of its life.
CERTIFICATE = (30, 7)
# Free space for the next rewrite or snapshot, as a multiple of the data.
FREE_SPACE_FACTOR = (2.0, 1.0)
# Names of unexpected files that the report shows.
MAX_NAMED = 5
# Seconds during which a truncation of the AOF is a warning.
TRUNCATION_WARNING_SECONDS = 86400
# Seconds of a PING on the host itself: Redis executes one command at a time, so a slow PING waited for another command.
ROUND_TRIP = (0.1, 1.0)

KEEP_RUNNING_ADVICE = (
    "do not restart Redis: it serves from memory, and its files would not load. BGREWRITEAOF as admin writes new files "
    "(docs/operations.md)"
)


@dataclass(frozen=True)
class Check:
    """A check's verdict, the observed value, and a remedy if the verdict is not ok."""

    name: str
    verdict: str
    observed: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the check for JSON."""
        return asdict(self)


def overall(checks: list[Check]) -> str:
    """Return the worst verdict; unknown without checks."""
    return max((check.verdict for check in checks), key=_BY_WEIGHT.index, default=UNKNOWN)


def run_checks(status: Status) -> list[Check]:
    """Run every check; if Redis does not answer, only those of the host."""
    checks = [_container(status)]
    if status.unreachable_reason:
        checks.append(Check("ping", CRITICAL, status.unreachable_reason, _ping_remedy(status.unreachable_reason)))
    else:
        for check in _REDIS_CHECKS:
            checks += _judge(check, status)
    for check in _HOST_CHECKS:
        checks += check(status)
    return checks


def _judge(check: Callable[[Status], Iterator[Check]], status: Status) -> list[Check]:
    """Run a check of what Redis answers.

    What it cannot read is a verdict: a Redis that was taken over must not hide what the host reports.
    """
    try:
        with reading_answers():
            return list(check(status))
    except ImplausibleAnswer as error:
        name = check.__name__.strip("_").replace("_", " ")
        remedy = "find out whether someone took over Redis: it answers as no Redis does"
        return [Check(name, CRITICAL, str(error), remedy)]


def _container(status: Status) -> Check:
    health = f", {status.health}" if status.health else ""
    observed = f"{status.container_status}{health}, {status.restarts} restarts"
    error = explain(status.disk.start_log) if status.unreachable_reason else None
    if error:
        return Check("container", CRITICAL, f"{observed}: {error.meaning}", error.remedy)
    if status.container_status != "running":
        return Check("container", CRITICAL, observed, _start_remedy(status))
    if status.health == "unhealthy":
        return Check("container", CRITICAL, observed, "docker inspect shows the output of the health check")
    if status.killed_for_memory or status.restarts:
        return Check(
            "container", WARNING, observed, "Redis exited by itself: redisctl log shows why, or dmesg for out of memory"
        )
    return Check("container", OK, observed)


def _start_remedy(status: Status) -> str:
    if status.container_status == "paused":
        return "docker unpause, after you know who paused it"
    # During an interrupted restore, a start would load whatever data is in place at that moment.
    is_interrupted = status.disk.interrupted and not status.disk.lock_holder
    return "redisctl recover finishes the interrupted change" if is_interrupted else "redisctl start"


def _ping_remedy(reason: str) -> str:
    if reason.startswith("BUSY"):
        kill = "FUNCTION KILL" if "FUNCTION KILL" in reason else "SCRIPT KILL"
        return f"{kill} as admin stops the script. docs/operations.md says how, and what to do if it has written"
    if reason.startswith(("WRONGPASS", "NOPERM", "NOAUTH")):
        return f"deploy again, which restarts Redis. If it comes back, {LOCKED_OUT_ADVICE}"
    return "redisctl log and redisctl log --container show why; docs/operations.md explains the health check"


def _ping(status: Status) -> Iterator[Check]:
    observed = f"{status.round_trip * 1000:.1f} ms"
    yield _check_max("ping", status.round_trip, ROUND_TRIP, observed, "redisctl slowlog and redisctl top show why")


def _server(status: Status) -> Iterator[Check]:
    info = status.info
    name, version = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info["redis_version"])
    yield Check("version", OK, f"{name} {version}")
    yield Check("uptime", OK, ago(info["uptime_in_seconds"]))
    replicas = f", {info['connected_slaves']} replicas" if info.get("connected_slaves") else ""
    if info["role"] == "master" and not status.unexpected.primary:
        yield Check("role", OK, f"primary{replicas}")
    else:
        link = info.get("master_link_status", "down")
        primary = status.unexpected.primary or f"{info.get('master_host')}:{info.get('master_port')}"
        observed = f"replica of {primary}, link {link}"
        yield Check(
            "role",
            CRITICAL,
            observed,
            "a person or its data made it a replica: find out who. A deploy makes it a primary again; so does redisctl "
            "restart",
        )
    if info.get("loading"):
        yield Check("loading", WARNING, "Redis is loading its data", "wait")


def _memory(status: Status) -> Iterator[Check]:
    info = status.info
    used, limit = info["used_memory"], info["maxmemory"]
    if limit:
        observed = f"{size(used)} of {size(limit)} ({used / limit:.0%})"
        remedy = "redisctl memory shows which keys use it; raise redis_maxmemory"
        yield _check_max("memory", used / limit, MEMORY, observed, remedy)
    else:
        yield Check("memory", WARNING, f"{size(used)}, no maxmemory", "set redis_maxmemory")
    if used >= FRAGMENTATION_FROM:
        ratio = info["mem_fragmentation_ratio"]
        # A deploy turns it on if the build in the image supports it (redis_activedefrag).
        if status.config.get("activedefrag") == "yes":
            remedy = "Redis defragments while it runs: wait. If the ratio stays, restart Redis"
        else:
            remedy = "restart Redis. Only some builds of Redis defragment while they run (redis_activedefrag)"
        yield _check_max("fragmentation", ratio, FRAGMENTATION, f"{ratio:.2f}", remedy)
    else:
        yield Check("fragmentation", OK, f"not meaningful below {size(FRAGMENTATION_FROM)}")
    remedy = "Redis ran out of memory and removed sessions early: raise redis_maxmemory"
    yield _count("evictions", info["evicted_keys"], "keys since Redis started", remedy)


def _scripts(status: Status) -> Iterator[Check]:
    info = status.info
    used = info.get("used_memory_scripts", 0) + info.get("used_memory_vm_total", info.get("used_memory_lua", 0))
    count = info.get("number_of_cached_scripts", 0)
    remedy = (
        "an application loads a new script for each call: let it pass values as arguments. SCRIPT FLUSH as admin "
        "removes them; RQ and redis-py load theirs again"
    )
    share = used / info["maxmemory"] if info["maxmemory"] and used >= SCRIPTS_FROM else 0
    yield _check_max("scripts", share, SCRIPTS, f"{count} loaded, {size(used)}", remedy)


def _changes(status: Status) -> Iterator[Check]:
    """Report what the files of the deploy do not explain in the server."""
    unexpected = status.unexpected
    if unexpected.unknown:
        yield Check("changes", UNKNOWN, unexpected.unknown, "wait until Redis has loaded its data, or deploy again")
    elif unexpected.users and status.disk.lock_holder:
        # A deploy changes the file and the server one after the other.
        remedy = f"look again after this: {status.disk.lock_holder}"
        yield Check("changes", WARNING, f"other users than config/users.acl: {unexpected.users}", remedy)
    elif unexpected.users:
        remedy = "deploy again, which names and undoes it. If it comes back at a restart, Redis was taken over"
        yield Check("changes", CRITICAL, f"other users than config/users.acl: {unexpected.users}", remedy)
    elif status.undone:
        yield Check("changes", WARNING, status.undone[0], status.undone[-1])
    else:
        yield Check("changes", OK, "the users are those of config/users.acl")
    if unexpected.functions:
        remedy = "find out who loaded it. FUNCTION DELETE as admin removes a library"
        yield Check("functions", WARNING, f"no user may run {unexpected.functions}", remedy)


def _clients(status: Status) -> Iterator[Check]:
    info = status.info
    limit = int(status.config.get("maxclients", info.get("maxclients", 0)))
    count = info["connected_clients"]
    remedy = "CLIENT LIST shows who is connected: is there an application without a pool? Or raise redis_maxclients"
    yield _check_max("clients", count / limit if limit else 0, CLIENTS, f"{count} of {limit}", remedy)
    remedy = "more clients connected than redis_maxclients allows"
    yield _count("rejected connections", info["rejected_connections"], "since Redis started", remedy)


def _keyspace(status: Status) -> Iterator[Check]:
    parts = [f"{name}: {db['keys']} keys, {db['expires']} with a TTL" for name, db in status.keyspace.items()]
    yield Check("keyspace", OK, "; ".join(parts) or "no keys")


def _persistence(status: Status) -> Iterator[Check]:
    info = status.info
    remedy = "redisctl log shows why: is the disk full, or data/live not owned by Redis's uid?"
    if status.config.get("save"):
        age = status.at - info["rdb_last_save_time"]
        changes = info["rdb_changes_since_last_save"]
        observed = f"{ago(age)} old, {changes} changes since"
        if info["rdb_last_bgsave_status"] != "ok":
            yield Check("rdb snapshot", CRITICAL, f"the last save failed; the newest snapshot is {observed}", remedy)
        elif not changes:
            yield Check("rdb snapshot", OK, observed)
        else:
            advice = "redis_save saves too rarely, or saves do not run: see redisctl log"
            yield _check_max("rdb snapshot", age, RDB_AGE, observed, advice)
    else:
        yield Check("rdb snapshot", OK, "off")
    if not info["aof_enabled"]:
        yield Check("aof", OK, "off")
        return
    failed = [name for name in ("write", "bgrewrite") if info[f"aof_last_{name}_status"] != "ok"]
    observed = size(info["aof_current_size"])
    if failed:
        yield Check("aof", CRITICAL, f"{observed}, failed: {', '.join(failed)}", remedy)
    else:
        yield Check("aof", OK, observed)


def _slow_commands(status: Status) -> Iterator[Check]:
    yield Check("slow commands", OK, f"{status.slow_commands} in the slow log")


def _disk(status: Status) -> Iterator[Check]:
    if status.disk_free is None or status.data_size is None:
        yield Check("disk", UNKNOWN, "data/live cannot be read", "run the deploy again, which creates what is missing")
        return
    # An AOF rewrite may need as much as Redis has in memory.
    needed = max(status.data_size, status.info.get("used_memory", 0)) or 1
    observed = f"{size(status.disk_free)} free, the data takes {size(status.data_size)}"
    remedy = "free some space: the next AOF rewrite or RDB snapshot may not fit"
    yield _check_min("disk", status.disk_free / needed, FREE_SPACE_FACTOR, observed, remedy)


def _backup_disk(status: Status) -> Iterator[Check]:
    disk = status.disk
    yield from _unknown("backup disk", disk)
    if disk.backups_free is None:
        return
    needed = max(disk.backup_size, status.data_size or 0, status.info.get("used_memory", 0)) or 1
    observed = f"{size(disk.backups_free)} free, a backup takes about {size(needed)}"
    remedy = "the next backup may not fit: keep fewer backups (redis_backup_keep), or free some space"
    yield _check_min("backup disk", disk.backups_free / needed, FREE_SPACE_FACTOR, observed, remedy)


def _aof_files(status: Status) -> Iterator[Check]:
    disk = status.disk
    yield from _unknown("aof files", disk)
    yield from _unknown("redis log", disk)
    if disk.aof_problem:
        # A running Redis has the files open, and a rewrite replaces all of them. It cannot help if it started empty.
        needs_repair = status.unreachable_reason or disk.aof_ignored
        remedy = "redisctl repair" if needs_repair else KEEP_RUNNING_ADVICE
        yield Check("aof files", CRITICAL, disk.aof_problem, remedy)
    if disk.truncations:
        age = status.at - disk.truncations[-1]
        times = "once" if len(disk.truncations) == 1 else f"{len(disk.truncations)} times, last"
        observed = f"Redis removed an incomplete end {times} {ago(age)} ago"
        remedy = ""
        if age < TRUNCATION_WARNING_SECONDS:
            remedy = (
                "a power cut usually costs the last second of writes: redisctl sessions and redisctl queues show "
                "whether more is missing"
            )
        yield Check("aof truncated", WARNING if remedy else OK, observed, remedy)


def _redis_files(status: Status) -> Iterator[Check]:
    """Report what fills the disk in the directories in which Redis can write."""
    disk = status.disk
    yield from _unknown("files of redis", disk)
    if disk.unexpected_files:
        named, more = disk.unexpected_files[:MAX_NAMED], len(disk.unexpected_files) - MAX_NAMED
        rest = f" and {more} more" if more > 0 else ""
        observed = f"Redis does not write {', '.join(named)}{rest} ({size(disk.unexpected_size)})"
        remedy = "find out what wrote them: a person, or someone who took over Redis. Then remove them"
        yield Check("files of redis", WARNING, observed, remedy)
    if 0 < disk.log_limit < disk.log_size:
        observed = f"redis.log has {size(disk.log_size)}, and should be rotated at {size(disk.log_limit // 2)}"
        remedy = "redisctl log shows what fills it; systemctl list-timers shows whether the -logs timer runs"
        yield Check("redis log", WARNING, observed, remedy)
    if disk.data_limit and (status.data_size or 0) > disk.data_limit:
        observed = f"data/live takes {size(status.data_size or 0)}; the settings explain {size(disk.data_limit)}"
        remedy = "du data/live shows which file: BGREWRITEAOF as admin shrinks an AOF (docs/operations.md)"
        yield Check("data files", WARNING, observed, remedy)


def _backup(status: Status) -> Iterator[Check]:
    disk = status.disk
    if "backup" in disk.unknown:
        yield from _unknown("backup", disk)
        return
    parts = [*_last_attempt(status), *_damaged_backups(disk), _backup_age(status)]
    if disk.lock_verb == "backup":
        parts.append(Check("backup", OK, disk.lock_holder))
    verdict = overall(parts)
    # The first of the worst: its remedy usually resolves the others.
    remedy = next(part.remedy for part in parts if part.verdict == verdict)
    yield Check("backup", verdict, "; ".join(part.observed for part in parts), remedy)


def _last_attempt(status: Status) -> Iterator[Check]:
    attempt = status.disk.attempt
    if not attempt:
        return
    since = ago(status.at - attempt.started)
    if attempt.ended is None:
        if not status.disk.lock_holder:
            yield Check("backup", CRITICAL, f"the last attempt, {since} ago, was interrupted", "redisctl backup")
    elif attempt.error:
        observed = f"the last attempt, {since} ago, failed: {attempt.error}"
        yield Check("backup", CRITICAL, observed, "fix that, then redisctl backup")


def _damaged_backups(disk: DiskStatus) -> Iterator[Check]:
    if disk.bad:
        remedy = (
            "do not rely on it: redisctl backup list shows what is wrong. Remove its directory, then redisctl backup"
        )
        yield Check("backup", CRITICAL, f"verification found damage in {', '.join(disk.bad)}", remedy)
    if disk.unreadable:
        yield Check("backup", WARNING, "; ".join(disk.unreadable), "remove the directory if it is not a backup")


def _backup_age(status: Status) -> Check:
    disk = status.disk
    if disk.verified is None:
        observed = f"no verified backup{f' among {disk.count}' if disk.count else ''}"
        since = disk.deployed
    else:
        observed = f"the newest good one is {ago(status.at - disk.verified)} old"
        since = disk.verified
    if not disk.scheduled:
        return Check("backup", OK, f"{observed}; not scheduled")
    late = (status.at - since) / disk.max_age if disk.max_age else 0.0
    # Without any verified backup, the instance may be new.
    worst = WARNING if disk.verified is None else CRITICAL
    verdict = worst if late >= 2 else WARNING if late >= 1 else OK
    remedy = "redisctl backup creates one now; systemctl list-timers shows whether the schedule runs"
    return Check("backup", verdict, observed, "" if verdict == OK else remedy)


def _previous_data(status: Status) -> Iterator[Check]:
    disk = status.disk
    yield from _unknown("previous data", disk)
    if disk.interrupted and not disk.lock_holder:
        yield Check("interrupted change", CRITICAL, disk.interrupted, "redisctl recover finishes it")
    if disk.upgrading:
        observed = "the new version is not healthy yet; the previous version's data is kept"
        yield Check("upgrade", CRITICAL, observed, "if no deploy is running: deploy again")
    if disk.previous:
        observed = (
            f"{size(disk.previous_size)} in data/previous, replaced at {', '.join(disk.previous)}: "
            "redisctl restore --undo restores it, --discard-previous removes it"
        )
        yield Check("previous data", OK, observed)


def _certificate(status: Status) -> Iterator[Check]:
    if status.certificate_ends is None:
        return
    days = (status.certificate_ends - status.at) / 86400
    end = datetime.fromtimestamp(status.certificate_ends, timezone.utc).date()
    yield _check_min("certificate", days, CERTIFICATE, f"{int(days)} days left, until {end}", "a deploy renews it")


def _network(status: Status) -> Iterator[Check]:
    network = status.network
    if network.differences:
        remedy = "wait 30 s, then deploy again; systemctl status shows why the -network unit could not load it"
        yield Check("network filter", CRITICAL, "; ".join(network.differences), remedy)
    elif not network.watched:
        yield Check("network filter", WARNING, "loaded, but the units that watch it do not run", "deploy again")
    else:
        yield Check("network filter", OK, "loaded and watched")
    if network.limit_differences:
        remedy = "wait 30 s, then deploy again; journalctl shows what the -network-watch unit could not load"
        yield Check("connection limits", WARNING, "; ".join(network.limit_differences), remedy)
    elif status.container_status == "running":
        # They are in the container's network, which is gone when it stops.
        yield Check("connection limits", OK, "loaded")
    refused = ", ".join(f"{count} above {setting}" for setting, count in network.refused.items() if count)
    if refused:
        remedy = "CLIENT LIST as admin shows who is connected: is there an application without a pool? Or raise a limit"
        yield Check("refused packets", WARNING, f"{refused}, since the limits were loaded", remedy)
    if network.published and not network.translated:
        observed = (
            "Docker's rules are missing: other hosts may not reach it, other clients go through docker-proxy, and a "
            "restart of Redis may fail"
        )
        remedy = "systemctl restart docker creates them, and stops and starts all containers"
        yield Check("published port", WARNING, observed, remedy)


_REDIS_CHECKS: tuple[Callable[[Status], Iterator[Check]], ...] = (
    *(_ping, _server, _memory, _scripts, _changes, _clients, _keyspace, _persistence, _slow_commands),
)
_HOST_CHECKS: tuple[Callable[[Status], Iterator[Check]], ...] = (
    *(_aof_files, _redis_files, _disk, _backup_disk, _backup, _previous_data, _network, _certificate),
)


def _unknown(name: str, disk: DiskStatus) -> Iterator[Check]:
    if name in disk.unknown:
        remedy = "remove what is damaged; a deploy creates what is missing"
        yield Check(name, UNKNOWN, disk.unknown[name], remedy)


def _count(name: str, count: int, what: str, remedy: str) -> Check:
    return Check(name, WARNING, f"{count} {what}", remedy) if count else Check(name, OK, f"{count} {what}")


def _check_max(name: str, value: float, limits: tuple[float, float], observed: str, remedy: str) -> Check:
    verdict = CRITICAL if value >= limits[1] else WARNING if value >= limits[0] else OK
    return Check(name, verdict, observed, "" if verdict == OK else remedy)


def _check_min(name: str, value: float, limits: tuple[float, float], observed: str, remedy: str) -> Check:
    verdict = CRITICAL if value <= limits[1] else WARNING if value <= limits[0] else OK
    return Check(name, verdict, observed, "" if verdict == OK else remedy)
