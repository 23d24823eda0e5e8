"""Settings from the inventory's data."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from redoubt.settings.model import Settings, is_size
from redoubt.settings.rules import CROSS_FIELD_RULES
from redoubt.sizes import format_size

PREFIX = "redis_"
# Of day-2 verbs (day2/), and no settings.
DAY2_KEYS = frozenset(
    {
        *("redis_run", "redis_remove_data", "redis_rotate_users", "redis_rotate_grace"),
        *("redis_certificate_for", "redis_certificate_to"),
    }
)


class SettingsError(ValueError):
    """Settings that cannot be deployed.

    ``problems`` lists each in words. ``valid_part`` has what is right, the rest at its default; ``invalid`` names the
    rest, so that the host can be checked against what is known all the same.
    """

    def __init__(self, problems: Iterable[str], valid_part: "Settings", invalid: Iterable[str]) -> None:
        self.problems = tuple(problems)
        self.valid_part = valid_part
        self.invalid = frozenset(invalid)
        super().__init__("\n".join(self.problems))


def load(data: Mapping[str, Any]) -> Settings:
    """The settings in an inventory's data, checked as a whole.

    Keys without the prefix ``redis_`` belong to pyinfra or to the user and are left alone, unless one is
    nearly the name of a setting. Raises SettingsError with every problem: unknown keys (with the nearest
    known one), wrong types, bounds and relations.
    """
    known = Settings.model_fields
    given = {key: value for key, value in data.items() if key.startswith(PREFIX) and key not in DAY2_KEYS}
    problems = [_unknown(key) for key in given if key not in known]
    problems += [
        f"{key}: unknown setting; did you mean {near[0]}?"
        for key in data
        if not key.startswith((PREFIX, "ssh_", "_")) and (near := get_close_matches(key, known, n=1, cutoff=0.85))
    ]

    values = {key: value for key, value in given.items() if key in known}
    invalid: set[str] = set()
    try:
        settings = Settings(**values)
    except ValidationError as error:
        for detail in error.errors():
            invalid.add(str(detail["loc"][0]))
            problems.append(_error_text(detail))
        # What is right still takes part in the relations; a wrong one stands at its default.
        settings = Settings(**{key: value for key, value in values.items() if key not in invalid})
    problems += [
        problem
        for fields, relation in CROSS_FIELD_RULES
        if not invalid & set(fields)
        if (problem := relation(settings)) is not None
    ]
    if problems:
        raise SettingsError(problems, settings, invalid)
    return settings


def _unknown(key: str) -> str:
    near = get_close_matches(key, [*Settings.model_fields, *DAY2_KEYS], n=1, cutoff=0.6)
    return f"{key}: unknown setting" + (f"; did you mean {near[0]}?" if near else "; docs/settings.md lists all")


def _error_text(detail: Any) -> str:
    """One of pydantic's complaints in the operator's words."""
    key, *inner = detail["loc"]
    where = key + "".join(f"[{part!r}]" for part in inner if part != "[key]")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "secret":
        return f"{where}: {message}"
    for bound, words in (("ge", "at least"), ("le", "at most")):
        if bound in (context := detail.get("ctx", {})):
            field = Settings.model_fields[key]
            message = f"must be {words} {format_size(context[bound]) if is_size(field) else context[bound]}"
    return f"{where} = {detail['input']!r}: {message[0].lower()}{message[1:]}"
