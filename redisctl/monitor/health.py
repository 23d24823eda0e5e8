"""Health: readings in, verdicts out, each with what to do. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

from redisctl.core.aof_manifest import STARTED_EMPTY
from redisctl.core.formatting import ago, size
from redisctl.core.startup_errors import explain
from redisctl.monitor.status import DiskStatus, Status

# What monitors of Nagios's kind take for these words.
OK, WARNING, CRITICAL, UNKNOWN = "ok", "warning", "critical", "unknown"
EXIT_CODES = {OK: 0, WARNING: 1, CRITICAL: 2, UNKNOWN: 3}
# What cannot be told is worse than what is well, and hides nothing that is known to be ill.
_BY_WEIGHT = (OK, UNKNOWN, WARNING, CRITICAL)

# Shares of maxmemory, of the clients and of the container's limit.
MEMORY = (0.75, 0.90)
CLIENTS = (0.75, 0.90)
# Of memory that the system gave to memory that Redis uses. Above 1.5 defragmentation is worth a look (Redis's
# documentation of INFO); of little memory it says nothing.
FRAGMENTATION = (1.5, 3.0)
FRAGMENTATION_FROM = 100 * 1024**2
# Seconds. A snapshot of yesterday is what a restart without the AOF would bring back.
RDB_AGE = (86400, 3 * 86400)
# Days. A deploy renews a certificate in the last third of its life.
CERTIFICATE = (30, 7)
# Room for the next rewrite or snapshot, as parts of the data that is there.
FREE_SPACE_FACTOR = (2.0, 1.0)
# Seconds for which it is told that Redis lost the end of its log.
TRUNCATION_WARNING_SECONDS = 86400
KEEP_RUNNING_ADVICE = (
    "do not restart Redis: it serves, and the files would not load. BGREWRITEAOF as administrator (docs/operations.md) "
    "writes all of them anew"
)
# Seconds of a PING on the host itself: Redis does one thing at a time, and this one waited for another.
ROUND_TRIP = (0.1, 1.0)


@dataclass(frozen=True)
class Check:
    """What was looked at, the verdict, what was seen, and what to do about it where it is not well."""

    name: str
    verdict: str
    observed: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def overall(checks: list[Check]) -> str:
    """The verdict of all."""
    return max((check.verdict for check in checks), key=_BY_WEIGHT.index, default=UNKNOWN)


def run_checks(reading: Status) -> list[Check]:
    """Every check; only those of the container and of what lies on the disk where Redis does not answer."""
    checks = [_container(reading)]
    if reading.unreachable_reason:
        advice = "docker logs and logs/redis.log say why; docs/operations.md explains what the health check says"
        checks.append(Check("ping", CRITICAL, reading.unreachable_reason, advice))
    else:
        for look in _CHECKS:
            checks += look(reading)
    for look in (_aof_files, _disk, _backup_disk, _backup, _previous_data, _certificate):
        checks += look(reading)
    return checks


def _container(reading: Status) -> Check:
    seen = f"{reading.container_status}{f', {reading.health}' if reading.health else ''}, {reading.restarts} restarts"
    why = explain(reading.disk.last_words) if reading.unreachable_reason else None
    if why:
        return Check("container", CRITICAL, f"{seen}: {why.meaning}", why.remedy)
    if reading.container_status != "running" or reading.health == "unhealthy":
        what = "docker inspect shows what the check said"
        if reading.container_status != "running":
            # Not by hand while a replacement is broken off: it would start with whatever lies there by now.
            halfway = reading.disk.interrupted and not reading.disk.running
            what = "redisctl recover starts it" if halfway else "docker compose up -d --wait"
        return Check("container", CRITICAL, seen, what)
    if reading.killed_for_memory or reading.restarts:
        return Check(
            "container", WARNING, seen, "it ended by itself before: logs/redis.log, and dmesg for out of memory"
        )
    return Check("container", OK, seen)


def _ping(reading: Status) -> Iterator[Check]:
    yield _check_max(
        "ping", reading.round_trip, ROUND_TRIP, f"{reading.round_trip * 1000:.1f} ms", "redisctl slowlog; top"
    )


def _server(reading: Status) -> Iterator[Check]:
    info = reading.info
    name, version = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info["redis_version"])
    yield Check("version", OK, f"{name} {version}")
    yield Check("uptime", OK, ago(info["uptime_in_seconds"]))
    role = info["role"]
    replicas = f", {info['connected_slaves']} replicas" if info.get("connected_slaves") else ""
    if role == "master":
        yield Check("role", OK, f"primary{replicas}")
    else:
        link = info.get("master_link_status", "down")
        seen = f"replica of {info.get('master_host')}:{info.get('master_port')}, link {link}"
        yield Check("role", CRITICAL, seen, "somebody made it a replica: REPLICAOF NO ONE, and find out who")
    if info.get("loading"):
        yield Check("loading", WARNING, "loading the data set", "wait")


def _memory(reading: Status) -> Iterator[Check]:
    info = reading.info
    used, most = info["used_memory"], info["maxmemory"]
    advice = "redisctl memory shows what takes it; raise redis_maxmemory"
    if most:
        yield _check_max("memory", used / most, MEMORY, f"{size(used)} of {size(most)} ({used / most:.0%})", advice)
    else:
        yield Check("memory", WARNING, f"{size(used)}, no maxmemory", "set redis_maxmemory")
    if used >= FRAGMENTATION_FROM:
        ratio = info["mem_fragmentation_ratio"]
        yield _check_max(
            "fragmentation", ratio, FRAGMENTATION, f"{ratio:.2f}", "redis_activedefrag; a restart cures it, too"
        )
    else:
        yield Check("fragmentation", OK, f"means nothing below {size(FRAGMENTATION_FROM)}")
    evicted = info["evicted_keys"]
    yield Check(
        "evictions",
        WARNING if evicted else OK,
        f"{evicted} keys since the start",
        "sessions were ended early for want of memory: raise redis_maxmemory" if evicted else "",
    )


def _clients(reading: Status) -> Iterator[Check]:
    info = reading.info
    most = int(reading.config.get("maxclients", info.get("maxclients", 0)))
    now = info["connected_clients"]
    advice = "CLIENT LIST shows who; an application without a pool? redis_maxclients"
    yield _check_max("clients", now / most if most else 0, CLIENTS, f"{now} of {most}", advice)
    rejected = info["rejected_connections"]
    yield Check(
        "rejected connections",
        WARNING if rejected else OK,
        f"{rejected} since the start",
        "more clients came than redis_maxclients" if rejected else "",
    )


def _keyspace(reading: Status) -> Iterator[Check]:
    parts = [f"{name}: {db['keys']} keys, {db['expires']} with a TTL" for name, db in reading.keyspace.items()]
    yield Check("keyspace", OK, "; ".join(parts) or "no keys")


def _persistence(reading: Status) -> Iterator[Check]:
    info = reading.info
    disk = "disk full? owner of data/ not 999? logs/redis.log says"
    if reading.config.get("save"):
        age = reading.at - info["rdb_last_save_time"]
        unsaved = info["rdb_changes_since_last_save"]
        seen = f"{ago(age)} old, {unsaved} changes since"
        if info["rdb_last_bgsave_status"] != "ok":
            yield Check("rdb snapshot", CRITICAL, f"the last one failed; the one before is {seen}", disk)
        elif not unsaved:
            yield Check("rdb snapshot", OK, seen)
        else:
            yield _check_max("rdb snapshot", age, RDB_AGE, seen, "redis_save is too rare, or saves do not happen")
    else:
        yield Check("rdb snapshot", OK, "off")
    if not info["aof_enabled"]:
        yield Check("aof", OK, "off")
        return
    states = {name: info[f"aof_last_{name}_status"] for name in ("write", "bgrewrite")}
    failed = [name for name, state in states.items() if state != "ok"]
    size_now = size(info["aof_current_size"])
    yield Check(
        "aof",
        CRITICAL if failed else OK,
        f"{size_now}{', failed: ' + ', '.join(failed) if failed else ''}",
        disk if failed else "",
    )


def _slow(reading: Status) -> Iterator[Check]:
    yield Check("slow commands", OK, f"{reading.slow_commands} in the log")


_CHECKS: tuple[Callable[[Status], Iterator[Check]], ...] = (
    *(_ping, _server, _memory, _clients, _keyspace, _persistence, _slow),
)


def _disk(reading: Status) -> Iterator[Check]:
    # maxmemory is what an AOF rewrite may come to, whatever is there now.
    wanted = max(reading.data_size, reading.info.get("used_memory", 0)) or 1
    seen = f"{size(reading.disk_free)} free, the data takes {size(reading.data_size)}"
    yield _check_min(
        "disk", reading.disk_free / wanted, FREE_SPACE_FACTOR, seen, "a rewrite or a snapshot may not fit: free some"
    )


def _backup_disk(reading: Status) -> Iterator[Check]:
    kept = reading.disk
    if "backup disk" in kept.unknown:
        yield _unknown("backup disk", kept)
    if kept.backups_free is None:
        return
    wanted = max(kept.backup_size, reading.data_size, reading.info.get("used_memory", 0)) or 1
    seen = f"{size(kept.backups_free)} free, a backup takes about {size(wanted)}"
    yield _check_min(
        "backup disk",
        kept.backups_free / wanted,
        FREE_SPACE_FACTOR,
        seen,
        "the next may not fit: keep fewer, free some",
    )


def _aof_files(reading: Status) -> Iterator[Check]:
    kept = reading.disk
    for name in ("aof files", "redis log"):
        if name in kept.unknown:
            yield _unknown(name, kept)
    if kept.aof_problem:
        # While it serves it has them open, and a rewrite makes all of them anew.
        advice = (
            "redisctl repair"
            if reading.unreachable_reason or kept.aof_problem.startswith(STARTED_EMPTY)
            else KEEP_RUNNING_ADVICE
        )
        yield Check("aof files", CRITICAL, kept.aof_problem, advice)
    if kept.truncations:
        newest = reading.at - kept.truncations[-1]
        seen = f"Redis cut off a torn end by itself {_times(len(kept.truncations))}, {ago(newest)} ago"
        if newest < TRUNCATION_WARNING_SECONDS:
            advice = "mostly the last second before a power cut; redisctl sessions, queues say whether more is missing"
            yield Check("aof truncated", WARNING, seen, advice)
        else:
            yield Check("aof truncated", OK, seen)


def _backup(reading: Status) -> Iterator[Check]:
    kept = reading.disk
    if "backup" in kept.unknown:
        yield _unknown("backup", kept)
        return
    problems = [*_attempt(reading), *_bad(kept), _age(reading)]
    if kept.running.startswith("redisctl backup has"):
        problems.append((OK, kept.running, ""))
    verdict = max((verdict for verdict, _, _ in problems), key=_BY_WEIGHT.index)
    # The first of the worst: what to do about it mends the others, mostly.
    advice = next(advice for found, _, advice in problems if found == verdict)
    yield Check("backup", verdict, "; ".join(seen for _, seen, _ in problems), advice)


def _attempt(reading: Status) -> Iterator[tuple[str, str, str]]:
    attempt, kept = reading.disk.attempt, reading.disk
    if not attempt:
        return
    since = ago(reading.at - attempt["began"])
    if "ended" not in attempt:
        if not kept.running:
            yield CRITICAL, f"the last attempt, {since} ago, was cut off", "redisctl backup takes one now"
    elif attempt.get("error"):
        seen = f"the last attempt, {since} ago, failed: {attempt['error']}"
        yield CRITICAL, seen, "mend that, then: redisctl backup"


def _bad(kept: DiskStatus) -> Iterator[tuple[str, str, str]]:
    if kept.bad:
        advice = (
            "do not count on it: redisctl backup list says what is wrong. Remove its directory, take one: redisctl "
            "backup"
        )
        yield CRITICAL, f"verified and found bad: {', '.join(kept.bad)}", advice
    if kept.unreadable:
        yield WARNING, "; ".join(kept.unreadable), "look at it, and remove it where it is none"


def _age(reading: Status) -> tuple[str, str, str]:
    kept = reading.disk
    advice = "redisctl backup takes one now; when it ends well, see why it was not run: systemctl list-timers"
    none = f"none that was verified{f' of {kept.count}' if kept.count else ''}"
    since = kept.deployed if kept.verified is None else kept.verified
    seen = none if kept.verified is None else f"the newest good one is {ago(reading.at - kept.verified)} old"
    if not kept.scheduled:
        return OK, f"{seen}; not scheduled", ""
    late = (reading.at - since) / kept.max_age if kept.max_age else 0.0
    # Without any, it was never as good as with an old one; but it may be that somebody just began.
    worst_ = WARNING if kept.verified is None else CRITICAL
    verdict = worst_ if late >= 2 else WARNING if late >= 1 else OK
    return verdict, seen, "" if verdict == OK else advice


def _previous_data(reading: Status) -> Iterator[Check]:
    kept = reading.disk
    if "previous data" in kept.unknown:
        yield _unknown("previous data", kept)
    if kept.interrupted and not kept.running:
        advice = "redisctl recover puts back what was there before"
        yield Check("interrupted restore", CRITICAL, kept.interrupted, advice)
    if kept.upgrading:
        seen = "another version was started and is not healthy yet; the data of the former one is kept"
        yield Check("upgrade", CRITICAL, seen, "where no deploy is under way: deploy again, which ends it")
    if kept.previous:
        seen = (
            f"{size(kept.previous_size)} in data/previous, replaced at {', '.join(kept.previous)}: "
            "redisctl restore --undo puts it back, --discard-previous removes it"
        )
        yield Check("previous data", OK, seen)


def _unknown(name: str, kept: DiskStatus) -> Check:
    return Check(name, UNKNOWN, kept.unknown[name], "a deploy makes what is missing; what is damaged is to be removed")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times, last"


def _certificate(reading: Status) -> Iterator[Check]:
    if reading.certificate_ends is None:
        return
    left = (reading.certificate_ends - reading.at) / 86400
    day = datetime.fromtimestamp(reading.certificate_ends, timezone.utc).date()
    yield _check_min("certificate", left, CERTIFICATE, f"{int(left)} days left, until {day}", "a deploy renews it")


def _check_max(name: str, value: float, limits: tuple[float, float], seen: str, advice: str) -> Check:
    verdict = CRITICAL if value >= limits[1] else WARNING if value >= limits[0] else OK
    return Check(name, verdict, seen, "" if verdict == OK else advice)


def _check_min(name: str, value: float, limits: tuple[float, float], seen: str, advice: str) -> Check:
    verdict = CRITICAL if value <= limits[1] else WARNING if value <= limits[0] else OK
    return Check(name, verdict, seen, "" if verdict == OK else advice)
