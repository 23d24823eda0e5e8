"""Memory sizes in the notations of Redis and Docker, which differ.

To Redis ``1m`` is 1,000,000 and ``1mb`` is 1,048,576 bytes (redis.conf, "Note on units"). Docker uses powers of 1024
for every unit, with or without ``b`` or ``iB`` (docker/go-units ``RAMInBytes``).
"""

import re

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_REDIS = re.compile(r"(\d+)([kmg]?)(b?)", re.IGNORECASE)
_DOCKER = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(?:i?b)?", re.IGNORECASE)

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def parse_redis_size(value: object) -> int:
    """Return the bytes of a size in Redis's notation.

    Examples are ``1gb``, ``512mb``, ``100m`` and ``1048576``. Raises ValueError.
    """
    match = _REDIS.fullmatch(_text(value))
    if match is None:
        raise ValueError(f"{value!r} is not a size in Redis's notation, for example 512mb or 1gb")
    number, unit, binary = match.groups()
    return int(number) * int((1024 if binary else 1000) ** _POWERS[unit.lower()])


def parse_docker_size(value: object) -> int:
    """Return the bytes of a size in Docker's notation.

    Examples are ``512M``, ``1.5g`` and ``1536MiB``. Raises ValueError.
    """
    match = _DOCKER.fullmatch(_text(value))
    if match is None:
        raise ValueError(f"{value!r} is not a size in Docker's notation, for example 512M or 1.5G")
    number, unit = match.groups()
    return int(float(number) * 1024 ** _POWERS[unit.lower()])


def format_size(size: int) -> str:
    """Format a size exactly, in a notation that means the same to both programs.

    Units are powers of 1024.
    """
    for unit, factor in (("gb", GIB), ("mb", MIB), ("kb", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return ""
    return str(value).strip()
