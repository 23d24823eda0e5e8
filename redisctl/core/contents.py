"""What a Redis contains, as reports say it. Pure.

Live keys and keys with a TTL by database, and functions. ``counting`` counts them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from redisctl.core.formatting import words

Databases = dict[str, dict[str, int]]

# Libraries that a text names.
MAX_NAMES = 8


@dataclass(frozen=True)
class Contents:
    """What a Redis contains.

    ``databases`` has the live keys and those with a TTL by database, without databases that have none. ``functions``
    are the names of functions by library, and ``kinds`` the live keys of each prefix that was asked for.
    """

    databases: Databases
    functions: dict[str, list[str]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)

    @property
    def keys(self) -> int:
        """Return the number of live keys in all databases."""
        return sum(database["keys"] for database in self.databases.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        return {"keys": self.keys, "databases": self.databases, "functions": self.functions, **self.kinds}

    def describe(self) -> str:
        """Return the counts for people.

        For example ``5 keys (db0: 3, db5: 2), 1 with a TTL, functions of lib``.
        """
        by_database = ", ".join(f"{name}: {counts['keys']}" for name, counts in self.databases.items())
        where = f" ({by_database})" if set(self.databases) - {"db0"} else ""
        expires = sum(counts["expires"] for counts in self.databases.values())
        libraries = list(self.functions)
        more = f" and {len(libraries) - MAX_NAMES} more" if len(libraries) > MAX_NAMES else ""
        functions = f", functions of {', '.join(libraries[:MAX_NAMES])}{more}" if libraries else ""
        return f"{self.keys} keys{where}, {expires} with a TTL{functions}"


def from_dict(values: Mapping[str, Any]) -> Contents | None:
    """Return the contents that ``as_dict`` gave; None if they cannot be read."""
    try:
        databases = {
            f"db{int(name.removeprefix('db'))}": {"keys": int(counts["keys"]), "expires": int(counts["expires"])}
            for name, counts in values["databases"].items()
        }
        libraries = {
            words(library.encode()): [words(name.encode()) for name in names]
            for library, names in values["functions"].items()
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return Contents(databases, libraries)


def key_prefixes(session_keys: str) -> dict[str, bytes]:
    """Return the prefixes of sessions and jobs.

    ``session_keys`` is a pattern that ends in a star.
    """
    return {"sessions": session_keys.rstrip("*").replace("\\", "").encode(), "jobs": b"rq:job:"}
