"""Health: readings in, verdicts out, each with what to do. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

from redisctl.endings import explained
from redisctl.readings import Kept, Reading
from redisctl.sizes import ago, size

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
SNAPSHOT_AGE = (86400, 3 * 86400)
# Days. A deploy renews a certificate in the last third of its life.
CERTIFICATE = (30, 7)
# Room for the next rewrite or snapshot, as parts of the data that is there.
ROOM = (2.0, 1.0)
# Seconds for which it is told that Redis lost the end of its log.
MENDED = 86400
SERVES_STILL = (
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
    seen: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def worst(checks: list[Check]) -> str:
    """The verdict of all."""
    return max((check.verdict for check in checks), key=_BY_WEIGHT.index, default=UNKNOWN)


def judge(reading: Reading) -> list[Check]:
    """Every check; only those of the container and of what lies on the disk where Redis does not answer."""
    checks = [_container(reading)]
    if reading.silent:
        advice = "docker logs and logs/redis.log say why; docs/operations.md explains what the health check says"
        checks.append(Check("ping", CRITICAL, reading.silent, advice))
    else:
        for look in _LOOKS:
            checks += look(reading)
    for look in (_log_files, _room, _room_of_backups, _backup, _set_aside, _certificate):
        checks += look(reading)
    return checks


def _container(reading: Reading) -> Check:
    seen = f"{reading.status}{f', {reading.health}' if reading.health else ''}, {reading.restarts} restarts"
    why = explained(reading.kept.last_words) if reading.silent else None
    if why:
        return Check("container", CRITICAL, f"{seen}: {why.means}", why.advice)
    if reading.status != "running" or reading.health == "unhealthy":
        what = "docker inspect shows what the check said"
        if reading.status != "running":
            # Not by hand while a replacement is broken off: it would start with whatever lies there by now.
            halfway = reading.kept.interrupted and not reading.kept.running
            what = "redisctl restore --recover starts it" if halfway else "docker compose up -d --wait"
        return Check("container", CRITICAL, seen, what)
    if reading.killed_for_memory or reading.restarts:
        return Check(
            "container", WARNING, seen, "it ended by itself before: logs/redis.log, and dmesg for out of memory"
        )
    return Check("container", OK, seen)


def _ping(reading: Reading) -> Iterator[Check]:
    yield _high("ping", reading.round_trip, ROUND_TRIP, f"{reading.round_trip * 1000:.1f} ms", "redisctl slowlog; top")


def _server(reading: Reading) -> Iterator[Check]:
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


def _memory(reading: Reading) -> Iterator[Check]:
    info = reading.info
    used, most = info["used_memory"], info["maxmemory"]
    advice = "redisctl memory shows what takes it; raise redis_maxmemory"
    if most:
        yield _high("memory", used / most, MEMORY, f"{size(used)} of {size(most)} ({used / most:.0%})", advice)
    else:
        yield Check("memory", WARNING, f"{size(used)}, no maxmemory", "set redis_maxmemory")
    if used >= FRAGMENTATION_FROM:
        ratio = info["mem_fragmentation_ratio"]
        yield _high(
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


def _clients(reading: Reading) -> Iterator[Check]:
    info = reading.info
    most = int(reading.config.get("maxclients", info.get("maxclients", 0)))
    now = info["connected_clients"]
    advice = "CLIENT LIST shows who; an application without a pool? redis_maxclients"
    yield _high("clients", now / most if most else 0, CLIENTS, f"{now} of {most}", advice)
    rejected = info["rejected_connections"]
    yield Check(
        "rejected connections",
        WARNING if rejected else OK,
        f"{rejected} since the start",
        "more clients came than redis_maxclients" if rejected else "",
    )


def _keyspace(reading: Reading) -> Iterator[Check]:
    parts = [f"{name}: {db['keys']} keys, {db['expires']} with a TTL" for name, db in reading.keyspace.items()]
    yield Check("keyspace", OK, "; ".join(parts) or "no keys")


def _persistence(reading: Reading) -> Iterator[Check]:
    info = reading.info
    disk = "disk full? owner of data/ not 999? logs/redis.log says"
    if reading.config.get("save"):
        age = reading.at - info["rdb_last_save_time"]
        unsaved = info["rdb_changes_since_last_save"]
        seen = f"{ago(age)} old, {unsaved} changes since"
        if info["rdb_last_bgsave_status"] != "ok":
            yield Check("snapshot", CRITICAL, f"the last one failed; the one before is {seen}", disk)
        elif not unsaved:
            yield Check("snapshot", OK, seen)
        else:
            yield _high("snapshot", age, SNAPSHOT_AGE, seen, "redis_save is too rare, or saves do not happen")
    else:
        yield Check("snapshot", OK, "off")
    if not info["aof_enabled"]:
        yield Check("log of writes", OK, "off")
        return
    states = {name: info[f"aof_last_{name}_status"] for name in ("write", "bgrewrite")}
    failed = [name for name, state in states.items() if state != "ok"]
    size_now = size(info["aof_current_size"])
    yield Check(
        "log of writes",
        CRITICAL if failed else OK,
        f"{size_now}{', failed: ' + ', '.join(failed) if failed else ''}",
        disk if failed else "",
    )


def _slow(reading: Reading) -> Iterator[Check]:
    yield Check("slow commands", OK, f"{reading.slow_commands} in the log")


_LOOKS: tuple[Callable[[Reading], Iterator[Check]], ...] = (
    *(_ping, _server, _memory, _clients, _keyspace, _persistence, _slow),
)


def _room(reading: Reading) -> Iterator[Check]:
    # maxmemory is what an AOF rewrite may come to, whatever is there now.
    wanted = max(reading.data_size, reading.info.get("used_memory", 0)) or 1
    seen = f"{size(reading.disk_free)} free, the data takes {size(reading.data_size)}"
    yield _low("disk", reading.disk_free / wanted, ROOM, seen, "a rewrite or a snapshot may not fit: free some")


def _room_of_backups(reading: Reading) -> Iterator[Check]:
    kept = reading.kept
    if "disk of backups" in kept.unknown:
        yield _unknown("disk of backups", kept)
    if kept.backups_free is None:
        return
    wanted = max(kept.backup_size, reading.data_size, reading.info.get("used_memory", 0)) or 1
    seen = f"{size(kept.backups_free)} free, a backup takes about {size(wanted)}"
    yield _low("disk of backups", kept.backups_free / wanted, ROOM, seen, "the next may not fit: keep fewer, free some")


def _log_files(reading: Reading) -> Iterator[Check]:
    kept = reading.kept
    for name in ("files of the log", "own log"):
        if name in kept.unknown:
            yield _unknown(name, kept)
    if kept.log_problem:
        # While it serves it has them open, and a rewrite makes all of them anew.
        advice = "redisctl repair" if reading.silent or "Redis began anew" in kept.log_problem else SERVES_STILL
        yield Check("files of the log", CRITICAL, kept.log_problem, advice)
    if kept.mended:
        newest = reading.at - kept.mended[-1]
        seen = f"Redis cut off a torn end by itself {_times(len(kept.mended))}, {ago(newest)} ago"
        if newest < MENDED:
            advice = "mostly the last second before a power cut; redisctl sessions, queues say whether more is missing"
            yield Check("torn log", WARNING, seen, advice)
        else:
            yield Check("torn log", OK, seen)


def _backup(reading: Reading) -> Iterator[Check]:
    kept = reading.kept
    if "backup" in kept.unknown:
        yield _unknown("backup", kept)
        return
    problems = [*_attempt(reading), *_bad(kept), _age(reading)]
    if kept.running.startswith("redisctl backup"):
        problems.append((OK, kept.running, ""))
    verdict = max((verdict for verdict, _, _ in problems), key=_BY_WEIGHT.index)
    # The first of the worst: what to do about it mends the others, mostly.
    advice = next(advice for found, _, advice in problems if found == verdict)
    yield Check("backup", verdict, "; ".join(seen for _, seen, _ in problems), advice)


def _attempt(reading: Reading) -> Iterator[tuple[str, str, str]]:
    attempt, kept = reading.kept.attempt, reading.kept
    if not attempt:
        return
    since = ago(reading.at - attempt["began"])
    if "ended" not in attempt:
        if not kept.running:
            yield CRITICAL, f"the last attempt, {since} ago, was cut off", "redisctl backup takes one now"
    elif attempt.get("error"):
        seen = f"the last attempt, {since} ago, failed: {attempt['error']}"
        yield CRITICAL, seen, "mend that, then: redisctl backup"


def _bad(kept: Kept) -> Iterator[tuple[str, str, str]]:
    if kept.bad:
        advice = (
            "do not count on it: redisctl backups says what is wrong. Remove its directory, take one: redisctl backup"
        )
        yield CRITICAL, f"verified and found bad: {', '.join(kept.bad)}", advice
    if kept.unreadable:
        yield WARNING, "; ".join(kept.unreadable), "look at it, and remove it where it is none"


def _age(reading: Reading) -> tuple[str, str, str]:
    kept = reading.kept
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


def _set_aside(reading: Reading) -> Iterator[Check]:
    kept = reading.kept
    if "data set aside" in kept.unknown:
        yield _unknown("data set aside", kept)
    if kept.interrupted and not kept.running:
        advice = "redisctl restore --recover puts back what was there before"
        yield Check("replacement of data", CRITICAL, kept.interrupted, advice)
    if kept.upgrading:
        seen = "another version was started and is not healthy yet; the data of the former one is kept"
        yield Check("upgrade", CRITICAL, seen, "where no deploy is under way: deploy again, which ends it")
    if kept.former:
        seen = (
            f"{size(kept.former_size)} in data/former, replaced at {', '.join(kept.former)}: "
            "redisctl restore --undo puts it back, --forget removes it"
        )
        yield Check("data set aside", OK, seen)


def _unknown(name: str, kept: Kept) -> Check:
    return Check(name, UNKNOWN, kept.unknown[name], "a deploy makes what is missing; what is damaged is to be removed")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times, last"


def _certificate(reading: Reading) -> Iterator[Check]:
    if reading.certificate_ends is None:
        return
    left = (reading.certificate_ends - reading.at) / 86400
    day = datetime.fromtimestamp(reading.certificate_ends, timezone.utc).date()
    yield _low("certificate", left, CERTIFICATE, f"{int(left)} days left, until {day}", "a deploy renews it")


def _high(name: str, value: float, limits: tuple[float, float], seen: str, advice: str) -> Check:
    verdict = CRITICAL if value >= limits[1] else WARNING if value >= limits[0] else OK
    return Check(name, verdict, seen, "" if verdict == OK else advice)


def _low(name: str, value: float, limits: tuple[float, float], seen: str, advice: str) -> Check:
    verdict = CRITICAL if value <= limits[1] else WARNING if value <= limits[0] else OK
    return Check(name, verdict, seen, "" if verdict == OK else advice)
