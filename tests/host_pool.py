"""The disposable hosts that the modules of a test run share."""

import os
import sys
from contextlib import ExitStack
from typing import Any

from sandbox import hosts
from sandbox.hosts import Host
from sandbox.util import STATE

LOGS = STATE / "log"


class HostPool:
    """The started hosts by name.

    After a failed test, they are removed and later modules get new ones.
    """

    def __init__(self) -> None:
        self._started: dict[str, Host] = {}
        self._failures = 0
        self._worker = os.environ.get("PYTEST_XDIST_WORKER")

    def start(self, name: str, **options: Any) -> Host:
        """Return the host with this name. Starts it if no module of this run has done so."""
        assert name.startswith("lifecycle-"), name
        if name not in self._started:
            full_name = f"{name}-{self._worker}" if self._worker else name
            # A killed run may have left a host in any state.
            _remove(full_name)
            self._started[name] = hosts.up(full_name, **options)
        return self._started[name]

    def renew(self, failures: int) -> None:
        """Remove all hosts if the number of failed tests has grown.

        These tests may not have cleaned up. Saves the hosts' logs before.
        """
        if failures > self._failures:
            self._failures = failures
            self.close(save_logs=True)

    def close(self, *, save_logs: bool = False) -> None:
        """Remove all hosts, also if one cannot be removed."""
        names = {host.name for host in self._started.values()}
        self._started.clear()
        _remove(*names, save_logs=save_logs)


def _remove(*names: str, save_logs: bool = False) -> None:
    """Remove the hosts with these names that exist."""
    with ExitStack() as removals:
        for host in hosts.load():
            if host.name in names:
                removals.callback(host.down)
                if save_logs:
                    # Runs before the removal.
                    removals.callback(_save_log, host)


def _save_log(host: Host) -> None:
    try:
        host.save_log(LOGS)
    except Exception as error:
        # The host is removed all the same, and the next module must not fail.
        print(f"the log of {host.name} is not saved: {error}", file=sys.stderr)
