"""What a plan says of hosts, for a program that reads it: lines of JSON in a file, where the environment names one."""

import json
import os
from typing import Literal

# Names the file, for the pyinfra command that makes the plan.
FILE = "REDOUBT_PLANNED"

# A host that is to be looked at; one that was and is fit for a deploy; why something would change on it.
Event = Literal["named", "ready", "differs"]


def note(host: str, event: Event, why: str = "") -> None:
    """Add a line to the file; nothing where none is asked for."""
    if path := os.environ.get(FILE):
        with open(path, "a") as file:
            file.write(json.dumps({"host": host, "event": event, "why": why}) + "\n")
