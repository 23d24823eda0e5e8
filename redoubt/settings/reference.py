"""The settings file and the table in the docs, printed from the model."""

from textwrap import wrap
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from redoubt.settings.model import EFFECTS, Settings, details, is_size
from redoubt.sizes import format_size


def _example(name: str, field: FieldInfo) -> str:
    value = field.default
    if value is None or value is PydanticUndefined:
        value = details(field)["example"]
    if isinstance(value, tuple):
        value = list(value)
    return repr(value).replace("'", '"')


def _sections() -> dict[str, list[tuple[str, FieldInfo]]]:
    sections: dict[str, list[tuple[str, FieldInfo]]] = {}
    for name, field in Settings.model_fields.items():
        sections.setdefault(str(details(field)["section"]), []).append((name, field))
    return sections


_FILE_HEADER = '''\
"""Settings of all hosts. Uncomment a line to change it; what it costs on a running host is in brackets.

A group's own file (group_data/<group>.py) and a host's data in the inventory come before this file.
docs/settings.md has the same list as a table. 'make settings' writes both from redoubt/settings/model.py.
"""

from redoubt.ssh_transport import transport

# Halves the time of a deploy: paramiko leaves Nagle's algorithm on.
ssh_paramiko_connect_kwargs = {"transport_factory": transport}
'''

_TABLE_HEADER = """\
# Settings

Written from `redoubt/settings/model.py` by `make settings`. Set them in `inventory/group_data/` or beside a host in the
inventory. Sizes of Redis are in its own notation (`1gb` is 1024^3 bytes, `1g` is 10^9), sizes of Docker in Docker's.
How settings depend on each other a deploy says, of all hosts at once, before it changes anything.
"""


def settings_file() -> str:
    """The text of ``inventory/group_data/all.py``: every setting with its default, commented out."""
    lines = []
    for section, fields in _sections().items():
        lines += ["", f"# -- {section}"]
        for name, field in fields:
            effect = EFFECTS[details(field)["effect"]]
            lines += ["", *wrap(f"# {field.description} [{effect}]", 110, subsequent_indent="# ")]
            lines += [f"# {name} = {_example(name, field)}"]
    return _FILE_HEADER + "\n".join(lines) + "\n"


# Files that only an operator can name.
_NO_DEFAULT = ("redis_image_archive", "redis_tls_cert", "redis_tls_key", "redis_tls_ca")


def _values(field: FieldInfo) -> str:
    """The values that a setting takes by itself, where a list or a range says it."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    bounds = {
        name: value
        for one in field.metadata
        for name in ("ge", "le")
        if (value := getattr(one, name, None)) is not None
    }
    told = {name: format_size(value) if is_size(field) else str(value) for name, value in bounds.items()}
    if "ge" not in told:
        return ""
    return f"{told['ge']} to {told['le']}" if "le" in told else f"from {told['ge']}"


def settings_table() -> str:
    """The settings as Markdown tables, a section each."""
    lines = []
    for section, fields in _sections().items():
        lines += [
            "",
            f"## {section}",
            "",
            "| setting | default | values | meaning | a change |",
            "|---|---|---|---|---|",
        ]
        for name, field in fields:
            default = "derived" if field.default is None else f"`{_example(name, field)}`"
            if field.default is None and name in _NO_DEFAULT:
                default = "none"
            values = _values(field)
            lines.append(
                f"| `{name}` | {default} | {values} | {field.description} | {EFFECTS[details(field)['effect']]} |"
            )
    return _TABLE_HEADER + "\n".join(lines) + "\n"


PRINTED = {"inventory/group_data/all.py": settings_file, "docs/settings.md": settings_table}
