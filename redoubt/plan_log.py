"""Notes of a plan for programs, as lines of JSON.

They are in a file that the environment names.
"""

import json
import os
from typing import Literal

# The variable that names the file for the pyinfra command.
FILE = "REDOUBT_PLAN_LOG"

# A host of the run; a host that is ready for a deploy; a reason for a change on a host; what only a person can repair.
Event = Literal["named", "ready", "differs", "warning"]


def note(host: str, event: Event, reason: str = "") -> None:
    """Add a line to the file, if the environment names one."""
    if path := os.environ.get(FILE):
        with open(path, "a") as file:
            file.write(json.dumps({"host": host, "event": event, "reason": reason}) + "\n")
