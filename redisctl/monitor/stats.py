"""The numbers of one moment, for programs and for people. Pure."""

from collections.abc import Iterator
from typing import Any

from redisctl.core.formatting import ago, size
from redisctl.monitor.status import Status


def stats_of(status: Status) -> dict[str, Any]:
    """Return the numbers of a status.

    They are bytes, seconds, rates per second, and ratios between 0 and 1.
    """
    info = status.info
    reads = info["keyspace_hits"] + info["keyspace_misses"]
    return {
        "at": round(status.at, 3),
        "version": info.get("valkey_version", info["redis_version"]),
        "uptime": info["uptime_in_seconds"],
        "memory_used": info["used_memory"],
        "memory_peak": info["used_memory_peak"],
        "memory_resident": info["used_memory_rss"],
        "maxmemory": info["maxmemory"],
        "maxmemory_policy": info["maxmemory_policy"],
        "fragmentation": info["mem_fragmentation_ratio"],
        "clients": info["connected_clients"],
        "clients_blocked": info["blocked_clients"],
        "operations_rate": info["instantaneous_ops_per_sec"],
        "operations": info["total_commands_processed"],
        "hit_ratio": round(info["keyspace_hits"] / reads, 4) if reads else None,
        "evicted": info["evicted_keys"],
        "expired": info["expired_keys"],
        "rejected_connections": info["rejected_connections"],
        "keys": sum(db["keys"] for db in status.keyspace.values()),
        "keys_with_ttl": sum(db["expires"] for db in status.keyspace.values()),
        "snapshot_age": int(status.at - info["rdb_last_save_time"]),
        "changes_since_snapshot": info["rdb_changes_since_last_save"],
        "aof_size": info.get("aof_current_size", 0) if info["aof_enabled"] else None,
        "slow_commands": status.slow_commands,
        "round_trip": round(status.round_trip, 6),
        "disk_free": status.disk_free,
        "data_size": status.data_size,
    }


def rows(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the numbers for people, as names and values."""
    limit = f" of {size(values['maxmemory'])}" if values["maxmemory"] else ""
    ratio = values["hit_ratio"]
    hits = "no reads yet" if ratio is None else f"{ratio:.1%} of reads found their key"
    yield "server", f"{values['version']}, up {ago(values['uptime'])}"
    yield (
        "memory",
        f"{size(values['memory_used'])}{limit}, peak {size(values['memory_peak'])}, {values['maxmemory_policy']}",
    )
    yield "resident", f"{size(values['memory_resident'])}, fragmentation {values['fragmentation']:.2f}"
    yield "clients", f"{values['clients']}, {values['clients_blocked']} of them blocked"
    yield "operations", f"{values['operations_rate']} per second now, {values['operations']} since Redis started"
    yield "hits", hits
    yield "keys", f"{values['keys']}, {values['keys_with_ttl']} with a TTL"
    yield "lost", f"{values['evicted']} evicted, {values['rejected_connections']} connections rejected"
    yield "expired", str(values["expired"])
    yield "rdb snapshot", f"{ago(values['snapshot_age'])} old, {values['changes_since_snapshot']} changes since"
    yield "aof", "off" if values["aof_size"] is None else size(values["aof_size"])
    if values["disk_free"] is not None:
        yield "disk", f"{size(values['disk_free'])} free, the data takes {size(values['data_size'])}"
    slow = f"{values['slow_commands']} in the slow log"
    yield "slow commands", f"{slow}; a PING takes {values['round_trip'] * 1000:.2f} ms"
