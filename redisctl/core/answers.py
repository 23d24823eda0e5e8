"""What Redis answers, with a clear error where it is not what programs expect."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from redisctl.core.errors import Failure
from redisctl.core.resp import RespError

# Fields that redisctl calculates with. Redis has no larger numbers.
_NUMBERS = re.compile(
    r"""
    aof_(buffer_length|current_size|enabled|rewrite_in_progress|rewrite_scheduled)
    |rdb_(bgsave_in_progress|changes_since_last_save|last_save_time|saves)
    |used_memory(_lua|_peak|_rss|_scripts|_vm_total)?|mem_fragmentation_ratio|mem_not_counted_for_evict|maxmemory
    |(blocked|connected)_clients|connected_slaves|maxclients|rejected_connections
    |(evicted|expired)_keys|keyspace_(hits|misses)|number_of_cached_scripts
    |current_save_keys_processed|instantaneous_ops_per_sec|total_commands_processed|total_net_(input|output)_bytes
    |loading|loading_loaded_perc|server_time_usec|uptime_in_seconds
    |master_link_down_since_seconds|(master|slave)_repl_offset|master_sync_(in_progress|read_bytes|total_bytes)
    """,
    re.VERBOSE,
)
_MAX_NUMBER = 2**64


# What code raises that meets an answer of another form.
_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
# Characters of such an error that a message shows.
_MAX_ERROR = 200


class ImplausibleAnswer(RespError, Failure):
    """An answer that no Redis gives, as of one that was taken over."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the answers of Redis cannot be read: {reason}")


@contextmanager
def reading_answers() -> Iterator[None]:
    """Turn an error over an answer's form into ImplausibleAnswer.

    Decorates functions that read answers, too.
    """
    try:
        yield
    except _ERRORS as error:
        raise ImplausibleAnswer(f"{type(error).__name__}: {str(error)[:_MAX_ERROR]}") from None


class Info(dict[str, Any]):
    """INFO by field. A field that Redis does not report raises ImplausibleAnswer."""

    def __missing__(self, name: str) -> Any:
        raise ImplausibleAnswer(f"INFO has no valid {name}")


def parse_info(answer: Any) -> Info:
    """Return the answer to INFO, a text, as a dictionary.

    Numbers become numbers, and values such as ``keys=1,expires=0`` dictionaries. Leaves out what should be a number and
    is not. The first value of a name counts: a value may contain lines. Raises ImplausibleAnswer for another answer.
    """
    text = answer.decode(errors="backslashreplace") if isinstance(answer, bytes) else answer
    if not isinstance(text, str):
        raise ImplausibleAnswer("INFO is no text")
    info = Info()
    for line in text.split("\r\n"):
        name, separator, text_value = line.partition(":")
        # 7.4 is a version, not a number.
        value = text_value if name.endswith("_version") else _parse_value(text_value)
        if separator and not line.startswith("#") and (is_number(value) or not _NUMBERS.fullmatch(name)):
            info.setdefault(name, value)
    return info


def is_number(value: Any) -> bool:
    """Say whether a value is a number that Redis may report."""
    # Nor is one that compares with nothing.
    return isinstance(value, (int, float)) and abs(value) < _MAX_NUMBER


def _parse_value(text: str) -> Any:
    if "=" in text:
        return {name: _parse_number(value) for name, _, value in (part.partition("=") for part in text.split(","))}
    return _parse_number(text)


def _parse_number(text: str) -> int | float | str:
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text)
    return text
