"""Counts what a Redis contains, without expired keys.

INFO counts expired keys until Redis deletes them, and a scratch Redis never deletes them. SCAN leaves them out. Every
report of a backup, a restore, an import or a repair counts in this way.
"""

from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from redisctl.core.answers import reading_answers
from redisctl.core.contents import Contents
from redisctl.core.formatting import words
from redisctl.core.keyspace import keyspace
from redisctl.core.scan import scan


def count_contents(redis: Redis, prefixes: Mapping[str, bytes] | None = None) -> Contents:
    """Count what a Redis contains to which no client writes.

    While Redis deletes many keys, it may return some of the others twice, and they count twice. A scratch Redis deletes
    none. Reads the names of all keys; ``kinds`` gets how many begin with each of ``prefixes``. The client must not
    decode. Raises RedisError, Failure.
    """
    databases: dict[str, dict[str, int]] = {}
    kinds = dict.fromkeys(prefixes or {}, 0)
    stored = keyspace(redis.info("keyspace"))
    for number in sorted(int(name[2:]) for name in stored):
        live = 0
        # SCAN leaves out expired keys, also where Redis does not delete them.
        for keys in scan(redis, database=number):
            live += len(keys)
            for kind, prefix in (prefixes or {}).items():
                kinds[kind] += sum(key.startswith(prefix) for key in keys)
        if live:
            counts = stored[f"db{number}"]
            # Every expired key had a TTL.
            databases[f"db{number}"] = {"keys": live, "expires": counts["expires"] - (counts["keys"] - live)}
    return Contents(databases, list_functions(redis), kinds)


@reading_answers()
def list_functions(redis: Redis) -> dict[str, list[str]]:
    """Return the names of the functions of a server, by library.

    There are none before Redis 7. Raises RedisError, also if the user may not list them.
    """
    try:
        libraries = [_pairs(library) for library in redis.execute_command("FUNCTION", "LIST")]
    except ResponseError as error:
        if "unknown command" not in str(error).lower():
            raise
        return {}
    return {
        words(library[b"library_name"]): sorted(words(_pairs(entry)[b"name"]) for entry in library[b"functions"])
        for library in libraries
    }


def _pairs(answer: Any) -> dict[bytes, Any]:
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
