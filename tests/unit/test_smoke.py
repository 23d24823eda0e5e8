"""The smoke run never reboots its own machine.

It recognises a load that ended before the power cut.
"""

from pathlib import Path

import pytest
from redis import Redis

from redoubt.secret_store import Secrets
from redoubt.settings.load import load
from tests.host.host_under_test import Target
from tests.host.hosts import Fleet
from tests.host.inventory import LOCAL, Entry
from tests.smoke.conftest import Smoke
from tests.smoke.load import Load


def test_host_with_this_machines_kernel_is_refused(tmp_path: Path) -> None:
    """The boot id shows it, whatever the name of the host."""
    target = Target(Entry(LOCAL), "local://", tmp_path / "ssh_config", False, load({}), Secrets({}, {}), None)
    smoke = Smoke("inventory.py", (), fleet=Fleet("inventory.py", tmp_path, {"local": target}))
    with pytest.raises(AssertionError, match="@local: its kernel is that of this machine"):
        smoke.boots()


@pytest.mark.parametrize("ended", [None, 100, 103])
def test_load_that_wrote_until_the_cut_is_accepted(ended: float | None) -> None:
    Load(Redis(), "key", acknowledged=[98, 99.5], ended=ended).assert_running_at(100)


@pytest.mark.parametrize(
    ("acknowledged", "ended", "message"),
    [
        ([99.5, 99.9], 99.9, "ended 0.1 s before the cut: ConnectionError"),
        ([92, 92.1], None, "2 writes, and then none"),
        ([], None, "nothing was written"),
    ],
)
def test_load_that_ended_before_the_cut_is_reported(
    acknowledged: list[float], ended: float | None, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        Load(Redis(), "key", acknowledged=acknowledged, ended=ended, error="ConnectionError").assert_running_at(100)
