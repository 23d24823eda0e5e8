"""Settings of the Redis server.

They cover memory, persistence, clients, logs, and directives without a setting of their own.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from redoubt.settings.field import Section, setting
from redoubt.settings.types import (
    DockerSize,
    Int,
    Line,
    RedisSize,
    check_keyspace_events,
    check_save_points,
    matching,
)
from redoubt.sizes import KIB, MIB

# Connections that Redis accepts in addition to redis_maxclients: for the health check, redisctl and admin. Redis cannot
# reserve connections for a user, so the limit for clients is enforced in front of it.
RESERVED_CONNECTIONS = 32


class MemorySection(Section):
    """Memory and eviction."""

    title: ClassVar[str] = "Memory and eviction"

    redis_maxmemory: RedisSize = setting(
        "1gb",
        "Memory for data. Choose the size of the instance by this setting. Redis notation: 1gb is 1024^3 bytes.",
        effect="live",
        ge=16 * MIB,
    )
    redis_maxmemory_policy: Literal[
        "volatile-lru",
        "volatile-lfu",
        "volatile-ttl",
        "volatile-random",
        "allkeys-lru",
        "allkeys-lfu",
        "allkeys-random",
        "noeviction",
    ] = setting(
        "volatile-lru",
        "Which keys Redis evicts when memory is full. volatile-*: only keys with a TTL (sessions), never RQ's queues "
        "and jobs.",
        effect="live",
    )
    redis_maxmemory_samples: Int = setting(
        10, "Keys that Redis compares for each eviction. More is closer to true LRU.", effect="live", ge=1, le=64
    )
    redis_hash_max_listpack_entries: Int = setting(
        1024, "Maximum number of fields of a hash that Redis stores compactly.", effect="live", ge=0, le=65536
    )
    redis_hash_max_listpack_value: Int = setting(
        256, "Maximum length of the values of such a hash, in bytes.", effect="live", ge=0, le=65536
    )
    redis_list_max_listpack_size: Int = setting(
        -1,
        "Size of the nodes of a list. -1: 4 KiB, -2: 8 KiB, up to -5: 64 KiB. A positive number counts elements.",
        effect="live",
        ge=-5,
        le=65536,
    )
    redis_lazyfree: bool = setting(
        True, "Free the memory of evicted, expired and deleted keys in a background thread.", effect="live"
    )
    redis_activedefrag: Literal["auto", "yes", "no"] = setting(
        "auto",
        "Defragment memory while Redis runs. auto: yes if the build in the image supports it. yes: refuse the deploy "
        "if it does not.",
        effect="live",
    )


class PersistenceSection(Section):
    """RDB snapshots and the AOF."""

    title: ClassVar[str] = "Persistence"

    redis_save: Annotated[str, AfterValidator(check_save_points)] = setting(
        "900 1 300 10 60 10000 30 100000",
        "When Redis writes RDB snapshots: pairs of '<seconds> <changes>'. '' turns them off.",
        effect="live",
    )
    redis_appendonly: bool = setting(True, "Write every change to the append-only file (AOF).", effect="live")
    redis_appendfsync: Literal["always", "everysec", "no"] = setting(
        "everysec",
        "When Redis flushes the AOF to disk. everysec: a power cut loses about one second of writes at most.",
        effect="live",
    )
    redis_auto_aof_rewrite_percentage: Int = setting(
        100,
        "Growth since the last rewrite at which Redis rewrites the AOF (percent, 0: never).",
        effect="live",
        ge=0,
        le=10000,
    )
    redis_auto_aof_rewrite_min_size: RedisSize = setting(
        "64mb", "Minimum size of the AOF for a rewrite.", effect="live", ge=MIB
    )
    redis_aof_timestamps: bool = setting(
        True,
        "Write timestamps into the AOF, which point-in-time restores need. Redis 7.0 and newer, and Valkey.",
        effect="live",
    )
    redis_incremental_fsync: bool = setting(
        True,
        "Flush RDB snapshots and AOF rewrites to disk in small portions, which avoids latency spikes.",
        effect="live",
    )


class ClientsSection(Section):
    """Connections of clients."""

    title: ClassVar[str] = "Clients"

    redis_maxclients: Int = setting(
        10000,
        "Maximum number of connections of clients over TCP. Redis accepts 32 more, a reserve for the health check, "
        "redisctl, and admin on the socket.",
        ge=10,
        le=1_000_000,
    )
    redis_maxclients_per_source: Int | None = setting(
        None,
        "Maximum number of connections from one address. All programs on the host that use 127.0.0.1 count as one. "
        "Default: half of redis_maxclients.",
        effect="live",
        ge=1,
        le=1_000_000,
        example=5000,
    )
    redis_client_memory: RedisSize | None = setting(
        None,
        "Memory for the requests and replies of all clients together, in addition to redis_maxmemory. Above it, Redis "
        "disconnects the clients that use most. One reply may use half of it. Default: 1/8 of redis_maxmemory, at "
        "least 16mb and 4 x redis_max_value (see docs/sizing.md).",
        effect="live",
        example="128mb",
        ge=4 * MIB,
    )
    redis_max_value: RedisSize | None = setting(
        None,
        "Maximum size of one value in a request. A transaction may have twice as much. Redis answers more with an "
        "error and closes the connection. Default: 1/4 of redis_client_memory, which is also the maximum.",
        effect="live",
        example="32mb",
        ge=MIB,
        le=512 * MIB,
    )
    redis_timeout: Int = setting(
        300,
        "Close a connection that was idle for this long (seconds, 0: never). Subscribers and blocked workers are "
        "exempt.",
        effect="live",
        ge=0,
        le=86400,
    )
    redis_tcp_keepalive: Int = setting(
        60, "Seconds between TCP keepalive probes, which detect dead peers.", effect="live", ge=0, le=86400
    )
    redis_tcp_backlog: Int = setting(511, "Connections that may wait to be accepted.", ge=1, le=65535)
    redis_databases: Int = setting(16, "Number of databases. A deploy refuses fewer than have keys.", ge=1, le=1024)
    redis_notify_keyspace_events: Annotated[str, AfterValidator(check_keyspace_events)] = setting(
        "Ex",
        "Keyspace events that Redis publishes. Ex: expired keys, on the channel __keyevent@<db>__:expired.",
        effect="live",
    )


class LogsSection(Section):
    """Redis's log, the container's output, the slow log and the latency monitor."""

    title: ClassVar[str] = "Logs"

    redis_loglevel: Literal["debug", "verbose", "notice", "warning"] = setting(
        "notice", "How much Redis logs.", effect="live"
    )
    redis_logfile_max_size: DockerSize = setting(
        "10M",
        "Size above which redis.log is rotated, at most once an hour. It is also rotated daily.",
        effect="none",
        ge=64 * KIB,
    )
    redis_logfile_rotations: Int = setting(14, "Number of rotated log files to keep.", effect="none", ge=1, le=3650)
    redis_container_log_max_size: DockerSize = setting(
        "10M", "Maximum size of a log file with the container's output (json-file).", ge=64 * KIB
    )
    redis_container_log_max_file: Int = setting(
        3, "Number of log files with the container's output to keep.", ge=1, le=100
    )
    redis_slowlog_log_slower_than: Int = setting(
        10000,
        "Commands that take longer than this go to the slow log (microseconds; -1: none, 0: all).",
        effect="live",
        ge=-1,
        le=3_600_000_000,
    )
    redis_slowlog_max_len: Int = setting(256, "Number of entries in the slow log.", effect="live", ge=0, le=1_000_000)
    redis_latency_monitor_threshold: Int = setting(
        100,
        "The latency monitor records events that take longer than this (milliseconds; 0: off).",
        effect="live",
        ge=0,
        le=3_600_000,
    )


class ExtraConfigSection(Section):
    """Directives without a setting of their own."""

    title: ClassVar[str] = "Further directives"

    redis_extra_config: dict[
        Annotated[str, matching(r"[a-z][a-z0-9-]*", "the name of a directive in lower case")], Line
    ] = setting(
        {},
        "Directives of redis.conf that have no setting of their own. Refused are directives that Redoubt manages, "
        "names of data files (dbfilename, appendfilename, appenddirname), with which Redis would start empty, and "
        "directives that change its role (replicaof, cluster-enabled).",
        example={"io-threads": "2"},
    )
