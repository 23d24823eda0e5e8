"""The slow log: commands that kept all others waiting. Their arguments hold other people's data."""

import re
from dataclasses import dataclass
from typing import Any

from redis import Redis

from redisctl.core.formatting import words
from redisctl.core.instance import Instance

# What Redis puts in the place of the 32nd argument and of all after it.
_MORE = re.compile(rb"\.\.\. \((\d+) more arguments\)")
_MOST_ARGUMENTS = 32


@dataclass(frozen=True)
class SlowCommand:
    """One entry. ``at`` is when it ran, by the host's clock; ``seconds`` is how long, without waiting and the network.

    ``arguments`` are those that Redis kept: at most 30, and of each at most 128 bytes. ``count`` counts them all.
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
        """For JSON; without arguments unless they are asked for."""
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


def slow_commands(redis: Redis, last: int, names: dict[str, str]) -> list[SlowCommand]:
    """The last entries, newest first. ``redis`` answers in bytes; for ``names`` see ``real_names``."""
    # Not by slowlog_get, which joins a command's words: what has spaces cannot be told apart then.
    return [_entry(item, names) for item in redis.execute_command("SLOWLOG", "GET", last)]


def real_names(instance: Instance) -> dict[str, str]:
    """Redis's names of commands by those that they are called by on this instance, which are nobody's business."""
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
