"""Memory sizes in the two notations that meet here.

Redis counts ``1m`` as 1,000,000 and ``1mb`` as 1,048,576 bytes (redis.conf, "Note on units").
Docker counts every unit in powers of 1024, with or without ``b`` or ``iB`` (docker/go-units
``RAMInBytes``). A size is therefore read by the notation of the program it is meant for.
"""

import re

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_REDIS = re.compile(r"(\d+)([kmg]?)(b?)", re.IGNORECASE)
_DOCKER = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(?:i?b)?", re.IGNORECASE)

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def parse_redis_size(value: object) -> int:
    """Bytes in a size as redis.conf writes it: ``1gb``, ``512mb``, ``100m``, ``1048576``.

    Raises ValueError when it is not one.
    """
    match = _REDIS.fullmatch(_text(value))
    if match is None:
        raise ValueError(f"{value!r} is not a size; write it as Redis does, for example 512mb or 1gb")
    number, unit, b = match.groups()
    return int(number) * int((1024 if b else 1000) ** _POWERS[unit.lower()])


def parse_docker_size(value: object) -> int:
    """Bytes in a size as Docker and Compose write it: ``512M``, ``1.5g``, ``1536MiB``.

    Raises ValueError when it is not one.
    """
    match = _DOCKER.fullmatch(_text(value))
    if match is None:
        raise ValueError(f"{value!r} is not a size; write it as Docker does, for example 512M or 1.5G")
    number, unit = match.groups()
    return int(float(number) * 1024 ** _POWERS[unit.lower()])


def format_size(size: int) -> str:
    """A size in the largest unit that holds it exactly, in a notation both programs read alike.

    ``gb``, ``mb`` and ``kb`` mean powers of 1024 to Redis and to Docker.
    """
    for unit, factor in (("gb", GIB), ("mb", MIB), ("kb", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return ""
    return str(value).strip()
