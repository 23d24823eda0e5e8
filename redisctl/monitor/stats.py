"""One reading in numbers, for programs and for people. Pure."""

from collections.abc import Iterator
from typing import Any

from redisctl.core.formatting import ago, size
from redisctl.monitor.status import Status


def stats_of(reading: Status) -> dict[str, Any]:
    """The numbers. Sizes are bytes, times are seconds, rates are per second, ratios between 0 and 1."""
    info = reading.info
    asked = info["keyspace_hits"] + info["keyspace_misses"]
    return {
        "at": round(reading.at, 3),
        "version": info.get("valkey_version", info["redis_version"]),
        "uptime": info["uptime_in_seconds"],
        "memory_used": info["used_memory"],
        "memory_peak": info["used_memory_peak"],
        "memory_resident": info["used_memory_rss"],
        "memory_most": info["maxmemory"],
        "policy": info["maxmemory_policy"],
        "fragmentation": info["mem_fragmentation_ratio"],
        "clients": info["connected_clients"],
        "clients_blocked": info["blocked_clients"],
        "operations_rate": info["instantaneous_ops_per_sec"],
        "operations": info["total_commands_processed"],
        "hit_ratio": round(info["keyspace_hits"] / asked, 4) if asked else None,
        "evicted": info["evicted_keys"],
        "expired": info["expired_keys"],
        "rejected_connections": info["rejected_connections"],
        "keys": sum(db["keys"] for db in reading.keyspace.values()),
        "keys_with_ttl": sum(db["expires"] for db in reading.keyspace.values()),
        "snapshot_age": int(reading.at - info["rdb_last_save_time"]),
        "changes_since_snapshot": info["rdb_changes_since_last_save"],
        "aof_size": info.get("aof_current_size", 0) if info["aof_enabled"] else None,
        "slow_commands": reading.slow_commands,
        "round_trip": round(reading.round_trip, 6),
        "disk_free": reading.disk_free,
        "data_size": reading.data_size,
    }


def rows(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The same for people."""
    most = f" of {size(values['memory_most'])}" if values["memory_most"] else ""
    ratio = (
        "nothing asked yet" if values["hit_ratio"] is None else f"{values['hit_ratio']:.1%} of reads found their key"
    )
    log = "off" if values["aof_size"] is None else size(values["aof_size"])
    yield "server", f"{values['version']}, up {ago(values['uptime'])}"
    yield "memory", f"{size(values['memory_used'])}{most}, peak {size(values['memory_peak'])}, {values['policy']}"
    yield "of the system", f"{size(values['memory_resident'])}, fragmentation {values['fragmentation']:.2f}"
    yield "clients", f"{values['clients']}, {values['clients_blocked']} of them waiting"
    yield "operations", f"{values['operations_rate']} a second now, {values['operations']} since the start"
    yield "hits", ratio
    yield "keys", f"{values['keys']}, {values['keys_with_ttl']} with a TTL"
    yield "lost", f"{values['evicted']} evicted, {values['rejected_connections']} connections rejected"
    yield "expired", str(values["expired"])
    yield "rdb snapshot", f"{ago(values['snapshot_age'])} old, {values['changes_since_snapshot']} changes since"
    yield "aof", log
    yield "disk", f"{size(values['disk_free'])} free, the data takes {size(values['data_size'])}"
    yield "slow commands", f"{values['slow_commands']} in the log; a PING takes {values['round_trip'] * 1000:.2f} ms"
