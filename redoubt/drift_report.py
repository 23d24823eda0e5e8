"""Whether the hosts of an inventory still are what the settings say: python -m redoubt.drift_report INVENTORY

Plans a deploy as ``pyinfra INVENTORY deploy.py --dry`` does, and changes nothing on any host. Options that it does not
know are pyinfra's (--limit, --data). Ends with 0 where nothing differs, with 1 where something does, and with 2 where
that is not known of a host: it was not reached, or a deploy to it would be refused.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redoubt import plan_log

PROJECT = Path(__file__).resolve().parent.parent
AS_WANTED, DIFFERS, UNKNOWN = "as wanted", "differs", "unknown"
CODES = {AS_WANTED: 0, DIFFERS: 1, UNKNOWN: 2}


@dataclass(frozen=True)
class Found:
    """What was found out about a host: what differs in words, and the operations of a deploy that would mend it."""

    state: str
    differences: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()


def found(plan: Sequence[Mapping[str, Any]], notes: Iterable[Mapping[str, str]]) -> dict[str, Found]:
    """What pyinfra's plan and the notes beside it say of each host that was named."""
    ready: set[str] = set()
    differences: dict[str, list[str]] = {}
    for note in notes:
        whys = differences.setdefault(note["host"], [])
        if note["event"] == "ready":
            ready.add(note["host"])
        elif note["event"] == "differs" and note["why"] not in whys:
            whys.append(note["why"])
    result = {}
    for host, whys in differences.items():
        operations = tuple(entry["name"] for entry in plan if host in entry["hosts_with_change"])
        if host not in ready:
            result[host] = Found(UNKNOWN)
        elif operations:
            result[host] = Found(DIFFERS, tuple(whys), operations)
        else:
            # Where an operation looked closer and found nothing to do.
            result[host] = Found(AS_WANTED)
    return result


def code(result: Mapping[str, Found]) -> int:
    """The exit code for all hosts: the worst of theirs, and not known where there is none."""
    return max((CODES[one.state] for one in result.values()), default=CODES[UNKNOWN])


def look(inventory: str, options: Sequence[str]) -> tuple[dict[str, Found], str]:
    """What differs on the hosts of an inventory, and what pyinfra said where it did not come to an end."""
    pyinfra = str(Path(sys.executable).with_name("pyinfra"))
    with tempfile.TemporaryDirectory(prefix="redoubt-drift-") as directory:
        notes = Path(directory, "notes")
        notes.touch()
        done = subprocess.run(
            [pyinfra, "--dry", "--json", *options, inventory, str(PROJECT / "deploy.py")],
            env={**os.environ, plan_log.FILE: str(notes)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in notes.read_text().splitlines()]
    if done.stdout.startswith("{"):
        return found(json.loads(done.stdout)["plan"], lines), done.stderr if done.returncode else ""
    # Nothing was planned for anybody, whoever it failed for.
    return {line["host"]: Found(UNKNOWN) for line in lines}, done.stderr


def main() -> None:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m redoubt.drift_report", description=__doc__.partition("\n")[0])
    parser.add_argument("inventory", help="as pyinfra takes it")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments, options = parser.parse_known_args()
    result, said = look(arguments.inventory, options)
    if said:
        print(said, file=sys.stderr)
    if arguments.json:
        hosts = {host: asdict(one) for host, one in result.items()}
        print(json.dumps({"as_wanted": code(result) == 0, "hosts": hosts}, indent=2))
    else:
        for host, one in result.items():
            print(f"{host}: {one.state}", *one.differences, sep="\n  ")
    sys.exit(code(result))


if __name__ == "__main__":
    main()
