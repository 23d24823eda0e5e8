"""Text from hosts on the terminal of the machine that deploys.

Names of processes, lines of logs and errors on a host may be written by a Redis or a user that was taken over.
"""

import re

from redisctl.core.formatting import printable

# What stays: lines, tabs, and the styles that pyinfra and redoubt use. Other colours could hide the rest of a line.
_KEPT = re.compile(r"(\x1b\[(?:[01]|3[1-6])m|[\n\t])")


def escaped(text: str) -> str:
    """Replace characters that could control a terminal.

    Keeps lines, tabs and visible colours.
    """
    return "".join(part if index % 2 else printable(part) for index, part in enumerate(_KEPT.split(text)))
