"""The slow log: commands that delayed all others.

Their arguments are private data.
"""

import re
from dataclasses import dataclass
from typing import Any

from redis import Redis

from redisctl.core.answers import reading_answers
from redisctl.core.formatting import words
from redisctl.core.instance import Instance

# Redis replaces the 32nd argument and all after it by this.
_MORE = re.compile(rb"\.\.\. \((\d+) more arguments\)")
_MOST_ARGUMENTS = 32


@dataclass(frozen=True)
class SlowCommand:
    """One entry of the slow log.

    ``at`` is its time by the host's clock; ``seconds`` is its execution time, without queues and network. ``arguments``
    are those that Redis stored: at most 30, of at most 128 bytes each. ``count`` counts all of them.
    """

    number: int
    at: int
    seconds: float
    command: str
    count: int
    arguments: tuple[str, ...]
    address: str
    client: str

    def as_dict(self, arguments: bool = False) -> dict[str, Any]:
        """Return the entry for JSON, with its arguments only on request."""
        return {
            "id": self.number,
            "at": self.at,
            "seconds": self.seconds,
            "command": self.command,
            "argument_count": self.count,
            **({"arguments": list(self.arguments)} if arguments else {}),
            "address": self.address,
            "client": self.client,
        }


@reading_answers()
def slow_commands(redis: Redis, last: int, names: dict[str, str]) -> list[SlowCommand]:
    """Return the last entries, newest first.

    ``redis`` does not decode; ``names`` come from ``original_names``. Raises RedisError and Failure.
    """
    # Not slowlog_get, which joins the words of a command, so that arguments with spaces cannot be separated.
    return [_entry(item, names) for item in redis.execute_command("SLOWLOG", "GET", last)]


def original_names(instance: Instance) -> dict[str, str]:
    """Return the original names of this instance's renamed commands.

    The keys are their secret names.
    """
    return {name.upper(): command for command, name in instance.renamed.items()}


def _entry(item: list[Any], names: dict[str, str]) -> SlowCommand:
    number, at, microseconds, (command, *arguments), address, client = item[:6]
    count = len(arguments)
    if len(arguments) == _MOST_ARGUMENTS - 1 and (more := _MORE.fullmatch(arguments[-1])):
        count += int(more[1]) - 1
    name = words(command).upper()
    return SlowCommand(
        number=number,
        at=at,
        seconds=microseconds / 1e6,
        command=names.get(name, name),
        count=count,
        arguments=tuple(words(argument) for argument in arguments),
        address=words(address),
        client=words(client),
    )
