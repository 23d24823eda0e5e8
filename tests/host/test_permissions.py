"""Permissions around the instance, including the secret store on this machine.

On the host these are the directories above the instance and the files that root runs. test_directories.py checks the
files below the instance's root.
"""

import stat
from pathlib import Path, PurePosixPath

import pytest
from testinfra.host import Host

from redisctl import paths
from redoubt import secret_backends
from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, listed, quoted
from tests.host.inventory import PROJECT

pytestmark = pytest.mark.security("file permissions")


def test_directories_above_the_root_belong_to_root(host: Host, settings: Settings) -> None:
    """Only root can write to the directories above the instance's root.

    Another user could put another directory in the instance's place.
    """
    parents = [str(parent) for parent in PurePosixPath(settings.root).parents]
    listing = host.check_output(f"stat --dereference --format '%u %a %n' {quoted(*parents)}")
    assert [line for line in listing.splitlines() if _is_writable_by_others(*line.split()[:2])] == []


def test_files_that_root_executes_belong_to_root(host: Host, settings: Settings) -> None:
    """Only root can write to files that root reads or runs.

    logrotate, systemd and every boot read these files as root, and people run redisctl as root.
    """
    name = settings.redis_name
    recovery = (
        paths.unit(name, paths.RECOVER_PATH),
        paths.unit(name, paths.RECOVER_SERVICE),
        paths.unit(name, paths.RECOVER_FILES_SERVICE),
    )
    present = [f"/etc/logrotate.d/{name}", paths.command(name), *(f"{paths.SYSTEMD_UNITS}/{unit}" for unit in recovery)]
    optional = quoted(
        *("/etc/sysctl.d/99-redoubt.conf", "/etc/tmpfiles.d/00-redoubt.conf"),
        *(f"{paths.SYSTEMD_UNITS}/{unit}" for unit in set(paths.units(name)) - set(recovery)),
    )
    listing = host.check_output(
        f"stat --format '%u %a %n' {quoted(*present)} $(ls {optional} 2>/dev/null)"
    ).splitlines()
    assert len(listing) >= len(present)
    assert [line for line in listing if _is_writable_by_others(*line.split()[:2])] == []


def _is_writable_by_others(uid: str, mode: str) -> bool:
    """Return whether another user than root may write.

    The sticky bit of a directory such as /tmp does not help.
    """
    return uid != "0" or bool(int(mode, 8) & 0o022)


def test_files_grant_no_more_than_their_mode(host: Host, settings: Settings) -> None:
    """No file is setuid, a link, a device or has an access control list."""
    root = quoted(settings.root)
    find = f"find {root} -ignore_readdir_race \\( -perm /7000 -o ! -type d ! -type f \\) -printf '%P\\0'"
    # The socket gets the group of its directory, which remains without the socket: test_socket.py.
    assert set(listed(host, find)) - {"socket"} == ({"socket/redis.sock"} if settings.redis_unix_socket else set())
    # ls marks a file with an access control list by a plus.
    with_acl = host.run(f"LC_ALL=C ls -AlR {root} | grep -E '^[-a-zA-Z]{{10}}[+]'").stdout
    assert with_acl.splitlines() == []


def test_secret_store_belongs_to_its_owner(target: Target, settings: Settings) -> None:
    """Only its owner can read or replace the secret store of this machine.

    The store has all passwords in plain text.
    """
    backend = secret_backends.backend_for(settings, target.entry.name)
    # A skip, so that the report says "not proven": nothing is known of a store on another machine.
    if not isinstance(backend, secret_backends.FileSource):
        pytest.skip(f"the secrets are in another store ({backend})")
    file = PROJECT / backend.path
    if isinstance(backend, secret_backends.SopsSource):
        # Anybody may read an encrypted store.
        text = file.read_text()
        assert len([secret for secret in target.hidden() if secret in text]) == 0
        return
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    assert [str(path) for path in (file.parent, file.parent.parent) if _is_writable(path)] == []


def _is_writable(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o022)
