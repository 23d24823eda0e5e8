"""Kernel settings of the next boot are read from sysctl.d as systemd reads them."""

import pytest

from tests.host.sysctl import at_boot


@pytest.mark.parametrize(
    ("files", "value"),
    [
        ("vm.overcommit_memory = 1", "1"),
        ("vm.overcommit_memory=1\n# vm.overcommit_memory=0\n;vm.overcommit_memory=2", "1"),
        ("vm.overcommit_memory=1\nvm/overcommit_memory=0", "0"),
        ("vm.overcommit_memory=0\n  -vm.overcommit_memory =  1 ", "1"),
        ("vm.overcommit_memory=1\nvm.*=0", "1"),
        ("vm/overcommit_*=0\nvm.swappiness=1", "0"),
        ("-vm.overcommit_memory\nvm.*=0", None),
        ("vm.overcommit_memory_more=1", None),
        ("net.ipv4.conf.all.forwarding=1", None),
        ("", None),
    ],
)
def test_winning_assignment_is_found(files: str, value: str | None) -> None:
    assert at_boot(files, "vm.overcommit_memory") == value


def test_dot_after_a_slash_is_no_separator() -> None:
    assert at_boot("net/ipv4/conf/eth0.5/forwarding=1", "net.ipv4.conf.eth0/5.forwarding") == "1"
