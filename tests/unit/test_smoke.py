"""The smoke run reboots no machine that it runs on, and takes no cut for one under load that was not."""

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


def test_a_host_with_this_machine_s_kernel_is_refused_by_whatever_name_it_is_reached(tmp_path: Path) -> None:
    target = Target(Entry(LOCAL), "local://", tmp_path / "ssh_config", False, load({}), Secrets({}, {}), None)
    smoke = Smoke("inventory.py", (), fleet=Fleet("inventory.py", tmp_path, {"local": target}))
    with pytest.raises(AssertionError, match="@local: its kernel is that of this machine"):
        smoke.boots()


@pytest.mark.parametrize("ended", [None, 100, 103])
def test_a_load_that_wrote_until_the_cut_was_under_way(ended: float | None) -> None:
    Load(Redis(), "key", acknowledged=[98, 99.5], ended=ended).assert_under_way(100)


@pytest.mark.parametrize(
    ("acknowledged", "ended", "why"),
    [
        ([99.5, 99.9], 99.9, "ended 0.1 s before the cut: ConnectionError"),
        ([92, 92.1], None, "2 writes, and then no more"),
        ([], None, "nothing was written"),
    ],
)
def test_a_load_that_came_to_an_end_before_the_cut_is_told(
    acknowledged: list[float], ended: float | None, why: str
) -> None:
    with pytest.raises(AssertionError, match=why):
        Load(Redis(), "key", acknowledged=acknowledged, ended=ended, why="ConnectionError").assert_under_way(100)
