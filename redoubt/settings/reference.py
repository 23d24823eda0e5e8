"""The settings file and docs/settings.md, written from the declared settings."""

from textwrap import wrap
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from redoubt.settings.field import EFFECTS, details, is_size
from redoubt.settings.model import SECTIONS
from redoubt.sizes import format_size

_FILE_HEADER = '''\
"""Settings of all hosts. To change a setting, uncomment its line.

The brackets say what a change costs. A group's file (group_data/<group>.py) and a host's data in the inventory take
precedence over this file. docs/settings.md shows the same settings as tables. 'make settings' writes both from
redoubt/settings/sections/.
"""

from redoubt.ssh_transport import transport

# Saves about 40 ms for each SSH command on a fast link: paramiko does not turn Nagle's algorithm off.
ssh_paramiko_connect_kwargs = {"transport_factory": transport}
'''

_TABLE_HEADER = """\
# Settings

`make settings` writes this page from `redoubt/settings/sections/`. Set them in `inventory/group_data/` or next to a
host in the inventory. Sizes for Redis use its own notation (`1gb` is 1024^3 bytes, `1g` is 10^9), sizes for Docker use
Docker's. A deploy checks how settings depend on each other and reports all problems on all hosts before it changes
anything.
"""

# Files that only the operator can name: None stands for no file, not for a derived value.
_NOT_DERIVED = (
    "redis_image_archive",
    "redis_image_archive_digest",
    "redis_tls_cert",
    "redis_tls_key",
    "redis_tls_ca",
    "redis_tls_client_cert",
    "redis_tls_client_key",
)


def settings_file() -> str:
    """Return the text of ``inventory/group_data/all.py``.

    It has every setting with its default, commented out.
    """
    lines = []
    for section in SECTIONS:
        lines += ["", f"# -- {section.title}"]
        for name, field in section.model_fields.items():
            effect = EFFECTS[details(field)["effect"]]
            lines += ["", *wrap(f"# {field.description} [{effect}]", 110, subsequent_indent="# ")]
            lines += [f"# {name} = {_example(field)}"]
    return _FILE_HEADER + "\n".join(lines) + "\n"


def settings_table() -> str:
    """Return the text of ``docs/settings.md``: a table for each section."""
    lines = []
    for section in SECTIONS:
        lines += [
            "",
            f"## {section.title}",
            "",
            "| setting | default | values | meaning | a change |",
            "|---|---|---|---|---|",
        ]
        for name, field in section.model_fields.items():
            cells = (f"`{name}`", _default(name, field), _values(field), field.description)
            lines.append(f"| {' | '.join(map(str, cells))} | {EFFECTS[details(field)['effect']]} |")
    return _TABLE_HEADER + "\n".join(lines) + "\n"


def _example(field: FieldInfo) -> str:
    value = details(field)["example"] if field.default is None else field.default
    return repr(list(value) if isinstance(value, tuple) else value).replace("'", '"')


def _default(name: str, field: FieldInfo) -> str:
    if field.default is None:
        return "none" if name in _NOT_DERIVED else "derived"
    return f"`{_example(field)}`"


def _values(field: FieldInfo) -> str:
    """Return the choices or the bounds of a setting; empty if it has none."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    bounds = {
        name: format_size(value) if is_size(field) else str(value)
        for item in field.metadata
        for name in ("ge", "le")
        if (value := getattr(item, name, None)) is not None
    }
    if "ge" not in bounds:
        return ""
    return f"{bounds['ge']} to {bounds['le']}" if "le" in bounds else f"from {bounds['ge']}"


PRINTED = {"inventory/group_data/all.py": settings_file, "docs/settings.md": settings_table}
