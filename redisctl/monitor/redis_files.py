"""Files in the directories in which Redis can write, for the health check.

A Redis that was taken over, a crash or a person may leave other files there, and fill the disk. No limit prevents that,
because the AOF and the log have no fixed size, so the health check reports it.
"""

import re
import stat
from collections.abc import Iterable
from typing import Any

from redisctl import paths
from redisctl.core.aof_manifest import DIRECTORY
from redisctl.core.files import RDB_FILE
from redisctl.core.instance import LOG_FILE, Instance
from redisctl.core.untrusted_files import UntrustedDirectory, disk_usage

# Data, one AOF rewrite and one RDB snapshot, each up to the size of maxmemory, as a deploy requires of the disk. The
# bytes in addition are for a small maxmemory: an AOF below 64 MiB is not rewritten.
DATA_FACTOR, DATA_MARGIN = 3, 256 * 1024**2
# Directories whose contents are counted.
_MAX_COUNTED = 10

# The names that Redis and Valkey give: src/rdb.c, src/aof.c and src/replication.c. logrotate adds those of the log.
_TEMPORARY = r"temp-\d+(\.\d+)?\.rdb|temp-rewriteaof(-bg)?-\d+\.aof"
_LOGS = rf"{re.escape(LOG_FILE)}(\.\d+(\.gz)?)?"


def read(instance: Instance) -> dict[str, Any]:
    """Return the unexpected files, and how large the log and the data may be.

    Raises OSError, also for more names than are read, and Failure.
    """
    unexpected: list[str] = []
    size = directories = 0
    for directory, names, pattern in _directories(instance):
        files = UntrustedDirectory(instance.root / directory)
        for name in unexpected_names(files.list_names(*names), pattern):
            path = "/".join((directory, *names, name))
            try:
                status = files.status(*names, name)
            except FileNotFoundError:
                # A temporary file.
                continue
            unexpected.append(path)
            if stat.S_ISDIR(status.st_mode) and directories < _MAX_COUNTED:
                directories += 1
                size += disk_usage(instance.root / path)
            else:
                size += status.st_blocks * 512
    maxmemory = int(instance.config_value("maxmemory", "0"))
    return {
        "unexpected_files": tuple(sorted(unexpected)),
        "unexpected_size": size,
        "log_size": instance.log_size(),
        "log_limit": 2 * instance.log_max_size,
        "data_limit": DATA_FACTOR * maxmemory + DATA_MARGIN if maxmemory else 0,
    }


def unexpected_names(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that Redis does not give."""
    return [name for name in names if not re.fullmatch(pattern, name)]


def patterns(rdb: str, aof: str, aof_directory: str) -> tuple[str, str]:
    """Return the patterns of the names in the data directory, and in that of the AOF.

    The arguments are the names that redis.conf gives.
    """
    file = re.escape(aof)
    parts = rf"{file}\.\d+\.(base|incr)\.(rdb|aof)|{file}\.manifest|temp-{file}\.manifest"
    return rf"{re.escape(rdb)}|{re.escape(aof_directory)}|{_TEMPORARY}", rf"{parts}|{_TEMPORARY}"


def _directories(instance: Instance) -> list[tuple[str, tuple[str, ...], str]]:
    """Return Redis's directories, with the pattern of the names in them."""
    aof_directory = instance.config_value("appenddirname", DIRECTORY)
    live, aof = patterns(
        instance.config_value("dbfilename", RDB_FILE),
        instance.config_value("appendfilename", "appendonly.aof"),
        aof_directory,
    )
    return [
        (paths.LIVE, (), live),
        (paths.LIVE, (aof_directory,), aof),
        (paths.LOGS, (), _LOGS),
        *([(paths.SOCKET, (), r"redis\.sock")] if (instance.root / paths.SOCKET).is_dir() else []),
    ]
