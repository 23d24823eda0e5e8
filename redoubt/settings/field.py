"""Declaration of a setting: default, description, effect of a change, bounds."""

from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from redoubt.sizes import parse_docker_size, parse_redis_size

Effect = Literal["none", "live", "restart", "new instance"]

# What a change of the setting costs, as the settings file and docs/settings.md say it.
EFFECTS: dict[Effect, str] = {
    "none": "no restart",
    "live": "applied live",
    "restart": "restarts Redis",
    "new instance": "creates a new instance next to the old one",
}


class Section(BaseModel):
    """Settings that belong together.

    ``title`` is their heading in the settings file and in docs/settings.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    title: ClassVar[str]


def setting(default: Any, description: str, *, effect: Effect = "restart", example: Any = None, **bounds: Any) -> Any:
    """Declare a setting.

    ``example`` stands for a default of None in the settings file; ``bounds`` are pydantic's.
    """
    return Field(default, description=description, json_schema_extra={"effect": effect, "example": example}, **bounds)


def details(field: FieldInfo) -> dict[str, Any]:
    """Return the effect and the example of a setting."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return extra


def is_size(field: FieldInfo) -> bool:
    """Say whether a setting is a size in bytes."""
    metadata = [*field.metadata, *(item for part in get_args(field.annotation) for item in _metadata(part))]
    return any(getattr(item, "func", None) in (parse_redis_size, parse_docker_size) for item in metadata)


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__metadata__", ())
