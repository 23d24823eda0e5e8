"""What differs between the settings of two deploys, as the plan reports it."""

from collections.abc import Mapping
from typing import Any

from redoubt.settings.field import Effect, is_size
from redoubt.settings.model import Settings
from redoubt.sizes import format_size


def changed_settings(settings: Settings, deployed: Mapping[str, Any], effect: Effect) -> list[str]:
    """Return a line for each changed setting with this effect.

    ``deployed`` are settings by ``Settings.with_effect``. A setting that it does not have is not a change.
    """
    return [
        f"{name}: {_format(name, deployed[name])} becomes {_format(name, value)}"
        for name, value in settings.with_effect(effect).items()
        if name in deployed and deployed[name] != value
    ]


def _format(name: str, value: Any) -> str:
    if is_size(Settings.model_fields[name]) and isinstance(value, int):
        return format_size(value)
    return "derived" if value is None else repr(value)
