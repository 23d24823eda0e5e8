"""Reads and checks the settings in an inventory's data."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from redoubt.settings.field import is_size
from redoubt.settings.model import Settings
from redoubt.settings.rules import CROSS_FIELD_RULES
from redoubt.sizes import format_size

PREFIX = "redis_"
# Arguments of the day-2 verbs (day2/). They are not settings.
DAY2_KEYS = frozenset(
    {
        *("redis_run", "redis_remove_data", "redis_rotate_users", "redis_rotate_grace"),
        *("redis_certificate_for", "redis_certificate_to"),
    }
)

# The types of settings in the operator's words, by the beginning of pydantic's error types.
_TYPE_NAMES = {
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "string": "a text in quotes",
    "tuple": "a list",
    "dict": "a dictionary",
    "model": "a dictionary",
}


class SettingsError(ValueError):
    """The settings cannot be deployed.

    ``problems`` are messages for the operator. ``valid_part`` has the valid settings and defaults for those in
    ``invalid``, so that the host can be checked against the valid ones.
    """

    def __init__(self, problems: Iterable[str], valid_part: Settings, invalid: Iterable[str]) -> None:
        self.problems = tuple(problems)
        self.valid_part = valid_part
        self.invalid = frozenset(invalid)
        super().__init__("\n".join(self.problems))


def load(data: Mapping[str, Any]) -> Settings:
    """Read and check the settings in an inventory's data.

    Ignores keys without the prefix ``redis_`` unless one is almost the name of a setting. Raises SettingsError with
    every problem: unknown keys, wrong types, exceeded bounds and violated rules.
    """
    fields = Settings.model_fields
    data = {str(key): value for key, value in data.items()}
    given = {key: value for key, value in data.items() if key.startswith(PREFIX) and key not in DAY2_KEYS}
    problems = [_unknown_setting(key) for key in given if key not in fields]
    problems += [
        f"{key}: unknown setting; did you mean {name}?"
        for key in data
        if not key.startswith((PREFIX, "ssh_", "_")) and (name := _closest(key, fields, cutoff=0.85))
    ]

    values = {key: value for key, value in given.items() if key in fields}
    invalid: set[str] = set()
    try:
        settings = Settings(**values)
    except ValidationError as error:
        for detail in error.errors():
            invalid.add(str(detail["loc"][0]))
            problems.append(_error_text(detail))
        # The rules still check the valid settings.
        settings = Settings(**{key: value for key, value in values.items() if key not in invalid})
    problems += [
        problem
        for names, rule in CROSS_FIELD_RULES
        if not invalid & set(names)
        if (problem := rule(settings)) is not None
    ]
    if problems:
        raise SettingsError(problems, settings, invalid)
    return settings


def _unknown_setting(key: str) -> str:
    name = _closest(key, [*Settings.model_fields, *DAY2_KEYS], cutoff=0.6)
    hint = f"did you mean {name}?" if name else "docs/settings.md lists all settings"
    return f"{key}: unknown setting; {hint}"


def _closest(key: str, names: Iterable[str], *, cutoff: float) -> str:
    """Return the name that a misspelt one means; empty if none is similar.

    A name with exchanged letters comes first.
    """
    matches = get_close_matches(key, list(names), n=3, cutoff=cutoff)
    return min(matches, key=lambda name: sorted(name) != sorted(key), default="")


def _error_text(detail: Any) -> str:
    """Return an error of pydantic as a message for the operator."""
    key, *inner = detail["loc"]
    place = key + "".join(f"[{part!r}]" for part in inner if part != "[key]")
    if detail["type"] == "extra_forbidden":
        names = get_args(Settings.model_fields[key].annotation)[-1].model_fields
        return f"{place}: unknown name; the names are {', '.join(names)}"
    if detail["type"] == "missing":
        return f"{place} is missing"
    # Never repeat what may contain a password: the values of type "secret", and whole services of the application.
    if detail["type"] == "secret" or isinstance(detail["input"], dict):
        return f"{place}: {_reason(key, detail)}"
    value, reason = repr(detail["input"]), _reason(key, detail)
    # A check of our own begins its message with the value.
    return f"{place} = {reason}" if reason.startswith(value) else f"{place} = {value}: {reason}"


def _reason(key: str, detail: Any) -> str:
    """Return what is wrong with a value."""
    context = detail.get("ctx", {})
    for bound, words in (("ge", "at least"), ("le", "at most")):
        if bound in context:
            limit = format_size(context[bound]) if is_size(Settings.model_fields[key]) else context[bound]
            return f"must be {words} {limit}"
    if detail["type"] == "literal_error":
        return f"must be {context['expected']}"
    if detail["type"] == "tuple_type" and isinstance(detail["input"], str):
        return f"must be a list: [{detail['input']!r}]"
    type_name = _TYPE_NAMES.get(detail["type"].partition("_")[0])
    return f"must be {type_name}" if type_name else str(detail["msg"]).removeprefix("Value error, ")
