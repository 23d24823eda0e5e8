"""The values that systemd-sysctl sets at the next boot."""

import re
from fnmatch import fnmatchcase


def at_boot(files: str, name: str) -> str | None:
    """Return the value of a name such as ``vm.swappiness``; None if no file sets it.

    ``files`` is the output of ``systemd-sysctl --cat-config``. By sysctl.d(5), both . and / separate parts, the last
    assignment wins, and an assignment or exclusion (``-name``) by name wins over patterns.
    """
    path = _path(name)
    by_name: list[str | None] = []
    by_pattern = []
    for line in map(str.strip, files.splitlines()):
        if not line or line[0] in "#;":
            continue
        key, assigns, value = line.partition("=")
        pattern = _path(key.strip().removeprefix("-"))
        if pattern == path:
            by_name.append(value.strip() if assigns else None)
        elif assigns and fnmatchcase(path, pattern):
            by_pattern.append(value.strip())
    return next(reversed(by_name or by_pattern), None)


def _path(name: str) -> str:
    """Return the path below /proc/sys.

    The first of . and / in a name is its separator.
    """
    first = re.search(r"[./]", name)
    return name.translate(str.maketrans("./", "/.")) if first and first[0] == "." else name
