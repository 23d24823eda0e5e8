"""Permissions around the instance: the way to it, what root runs because of it, and the store on this machine.

What is below the root is looked at by test_directories.py.
"""

import stat
from pathlib import Path, PurePosixPath

import pytest
from testinfra.host import Host

from redoubt import secret_backends
from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, quoted
from tests.host.inventory import PROJECT

pytestmark = pytest.mark.security("file permissions")


_UNITS = ("backup.service", "backup.timer", "network.service")


def test_the_way_to_the_root_belongs_to_root(host: Host, settings: Settings) -> None:
    """Who may write to a directory above can put another tree in its place."""
    parents = [str(parent) for parent in PurePosixPath(settings.root).parents]
    listing = host.check_output(f"stat --dereference --format '%u %a %n' {quoted(*parents)}")
    open_to_others = [line for line in listing.splitlines() if _changed_by_others(*line.split()[:2])]
    assert open_to_others == []


def test_what_root_runs_because_of_the_instance_is_roots(host: Host, settings: Settings) -> None:
    """logrotate and systemd do as their files say, people run redisctl, and every boot reads the kernel's settings."""
    program = "redisctl" if settings.redis_name == "redis" else f"redisctl-{settings.redis_name}"
    files = quoted(f"/etc/logrotate.d/{settings.redis_name}", f"/usr/local/sbin/{program}")
    others = "/etc/sysctl.d/99-redoubt.conf /etc/tmpfiles.d/00-redoubt.conf "
    others += " ".join(f"/etc/systemd/system/{settings.redis_name}-{unit}" for unit in _UNITS)
    listing = host.check_output(f"stat --format '%u %a %n' {files} $(ls {others} 2>/dev/null)").splitlines()
    assert len(listing) >= 2, "logrotate has instructions, and people a command"
    assert [line for line in listing if _changed_by_others(*line.split()[:2])] == []


def _changed_by_others(uid: str, mode: str) -> bool:
    """Whether anybody but root may write; a sticky directory such as /tmp is no wall here."""
    return uid != "0" or bool(int(mode, 8) & 0o022)


def test_nothing_below_the_root_grants_more_than_its_mode_says(host: Host, settings: Settings) -> None:
    """No program with its owner's rights, no link or device that leads elsewhere, no list of further users."""
    root = quoted(settings.root)
    odd = host.check_output(
        f"find {root} -ignore_readdir_race \\( -perm /7000 -o ! -type d ! -type f \\) -printf '%P\\n'"
    )
    # A socket takes the group of its directory, which stays when the socket goes: test_socket.py.
    assert set(odd.splitlines()) - {"socket"} == ({"socket/redis.sock"} if settings.redis_unix_socket else set())
    # ls marks a file that has an access control list by a plus.
    with_lists = host.run(f"LC_ALL=C ls -AlR {root} | grep -E '^[-a-zA-Z]{{10}}[+]'").stdout
    assert with_lists.splitlines() == []


def test_the_store_on_this_machine_is_its_owners(target: Target, settings: Settings) -> None:
    """The passwords of all users stand there in full: read by nobody else, and put in place by nobody else."""
    source = secret_backends.backend_for(settings, target.entry.name)
    # Skipped and not left out: of a store that is not here the report can only say that nothing is proven.
    if not isinstance(source, secret_backends.FileSource):
        pytest.skip(f"kept elsewhere ({source})")
    file = PROJECT / source.path
    if isinstance(source, secret_backends.SopsSource):
        # Encrypted, it may be read by anybody.
        text = file.read_text()
        assert len([word for word in target.hidden() if word in text]) == 0
        return
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    assert [str(path) for path in (file.parent, file.parent.parent) if _open(path)] == []


def _open(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o022)
