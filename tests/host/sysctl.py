"""What systemd-sysctl makes of the files of sysctl.d at the next boot."""

import re
from fnmatch import fnmatchcase


def at_boot(files: str, name: str) -> str | None:
    """The value that a name (``vm.swappiness``) is given, None for none; ``files`` is ``systemd-sysctl --cat-config``.

    By sysctl.d(5): either of . and / separates, the last assignment wins, and one that names the value wins over
    patterns, as does a name that is excluded from them (``-name``).
    """
    path = _path(name)
    named: list[str | None] = []
    matched = []
    for line in map(str.strip, files.splitlines()):
        if not line or line[0] in "#;":
            continue
        key, assigns, value = line.partition("=")
        pattern = _path(key.strip().removeprefix("-"))
        if pattern == path:
            named.append(value.strip() if assigns else None)
        elif assigns and fnmatchcase(path, pattern):
            matched.append(value.strip())
    return next(reversed(named or matched), None)


def _path(name: str) -> str:
    """A name below /proc/sys: the separator that comes first is the separator."""
    first = re.search(r"[./]", name)
    return name.translate(str.maketrans("./", "/.")) if first and first[0] == "." else name
