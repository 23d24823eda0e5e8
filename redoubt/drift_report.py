"""Compares hosts with their settings: python -m redoubt.drift_report INVENTORY

Plans a deploy as ``pyinfra INVENTORY deploy.py --dry`` does and changes no host. Other options (--limit, --data) go to
pyinfra. The exit code is 0 if all hosts are up to date, 1 if a host differs, and 2 if a host is unknown: it cannot be
reached, or a deploy to it would be refused.
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
from redoubt.terminal import escaped

PROJECT = Path(__file__).resolve().parent.parent
UP_TO_DATE, DIFFERS, UNKNOWN = "up to date", "differs", "unknown"
EXIT_CODES = {UP_TO_DATE: 0, DIFFERS: 1, UNKNOWN: 2}


@dataclass(frozen=True)
class HostReport:
    """The state of a host, and its differences.

    ``operations`` are those of a deploy that would repair the differences. A person has to repair the others.
    """

    state: str
    differences: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()


def reports(plan: Sequence[Mapping[str, Any]], notes: Iterable[Mapping[str, str]]) -> dict[str, HostReport]:
    """Return the report of each host.

    ``plan`` is pyinfra's plan, ``notes`` are those that the deploy wrote.
    """
    ready: set[str] = set()
    differences: dict[str, list[str]] = {}
    warnings: dict[str, list[str]] = {}
    for note in notes:
        reasons = differences.setdefault(note["host"], [])
        if note["event"] == "ready":
            ready.add(note["host"])
        elif note["event"] == "warning":
            warnings.setdefault(note["host"], []).append(note["reason"])
        elif note["event"] == "differs" and note["reason"] not in reasons:
            reasons.append(note["reason"])
    result = {}
    for host, reasons in differences.items():
        operations = tuple(entry["name"] for entry in plan if host in entry["hosts_with_change"])
        if host not in ready:
            result[host] = HostReport(UNKNOWN)
        elif operations or host in warnings:
            found = [*(reasons if operations else ()), *warnings.get(host, ())]
            result[host] = HostReport(DIFFERS, tuple(found), operations)
        else:
            # An operation may note a reason, inspect the host further, and change nothing.
            result[host] = HostReport(UP_TO_DATE)
    return result


def exit_code(result: Mapping[str, HostReport]) -> int:
    """Return the highest exit code of all hosts.

    Without hosts it is the code of an unknown host.
    """
    return max((EXIT_CODES[report.state] for report in result.values()), default=EXIT_CODES[UNKNOWN])


def compare(inventory: str, options: Sequence[str]) -> tuple[dict[str, HostReport], str]:
    """Return the reports of an inventory's hosts, and pyinfra's output if it failed."""
    pyinfra = str(Path(sys.executable).with_name("pyinfra"))
    with tempfile.TemporaryDirectory(prefix="redoubt-drift-") as directory:
        notes = Path(directory, "notes")
        notes.touch()
        process = subprocess.run(
            [pyinfra, "--dry", "--json", *options, inventory, str(PROJECT / "deploy.py")],
            env={**os.environ, plan_log.FILE: str(notes)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in notes.read_text().splitlines()]
    if process.stdout.startswith("{"):
        plan = json.loads(process.stdout)["plan"]
        return reports(plan, lines), process.stderr if process.returncode else ""
    # pyinfra plans nothing for any host if it fails for one.
    return {line["host"]: HostReport(UNKNOWN) for line in lines}, process.stderr


def main() -> None:
    """Run the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m redoubt.drift_report", description=__doc__.partition("\n")[0])
    parser.add_argument("inventory", help="an inventory of pyinfra")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    arguments, options = parser.parse_known_args()
    result, errors = compare(arguments.inventory, options)
    if errors:
        print(errors, file=sys.stderr)
    if arguments.json:
        hosts = {host: asdict(report) for host, report in result.items()}
        print(json.dumps({"up_to_date": exit_code(result) == 0, "hosts": hosts}, indent=2))
    else:
        for host, report in result.items():
            print(f"{host}: {report.state}", *map(escaped, report.differences), sep="\n  ")
    sys.exit(exit_code(result))


if __name__ == "__main__":
    main()
