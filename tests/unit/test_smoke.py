"""The smoke run reboots no machine that it runs on."""

from pathlib import Path

import pytest

from redoubt.secretstore import Secrets
from redoubt.settings import load
from tests.host.bridge import LOCAL, Entry
from tests.host.fleet import Fleet
from tests.host.target import Target
from tests.smoke.conftest import Smoke


def test_a_host_with_this_machine_s_kernel_is_refused_by_whatever_name_it_is_reached(tmp_path: Path) -> None:
    target = Target(Entry(LOCAL), "local://", tmp_path / "ssh_config", False, load({}), Secrets({}, {}))
    smoke = Smoke("inventory.py", (), fleet=Fleet("inventory.py", tmp_path, {"local": target}))
    with pytest.raises(AssertionError, match="@local: its kernel is that of this machine"):
        smoke.boots()
