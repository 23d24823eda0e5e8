"""The instance's files on the host: who owns them and who may read them.

Redis runs as uid 999 without any capability, so ownership by number is what lets it start at all; what others of
the host may read is all that stands between them and the data.
"""

from dataclasses import dataclass

import pytest
from testinfra.host import Host

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, quoted

pytestmark = pytest.mark.security("file permissions")

REDIS = (999, 999)
ROOT = (0, 0)


@dataclass(frozen=True)
class Found:
    """A path as the host has it."""

    kind: str
    owner: tuple[int, int]
    mode: int


@pytest.fixture(scope="module")
def tree(host: Host, settings: Settings) -> dict[str, Found]:
    """Everything below the root, by path relative to it."""
    listing = host.check_output(f"find {quoted(settings.root)} -ignore_readdir_race -printf '%y %U %G %m %P\\n'")
    found = {}
    for line in listing.splitlines():
        kind, uid, gid, mode, path = line.split(" ", 4)
        found[path] = Found(kind, (int(uid), int(gid)), int(mode, 8))
    return found


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        # Entered by whoever runs 'docker compose' there; changed by root alone.
        ("", ROOT, 0o755),
        ("config", REDIS, 0o750),
        # Root works here: staged and previous data, the journal.
        ("data", ROOT, 0o700),
        ("data/live", REDIS, 0o700),
        ("backups", REDIS, 0o750),
        ("logs", REDIS, 0o750),
        ("secrets", REDIS, 0o700),
    ],
)
def test_directories_belong_to_redis_by_number(
    tree: dict[str, Found], path: str, owner: tuple[int, int], mode: int
) -> None:
    """The host may call uid 999 anything: the number is what the container has."""
    assert tree[path] == Found("d", owner, mode)


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        # Names secrets by file and holds none: readable, and written by root alone.
        ("compose.yml", ROOT, 0o644),
        # What root runs, and nobody else changes.
        ("redisctl", ROOT, 0o755),
        ("redisctl.json", ROOT, 0o644),
        ("config/redis.conf", REDIS, 0o640),
        ("config/activedefrag.conf", REDIS, 0o640),
        ("config/healthcheck.sh", REDIS, 0o550),
        # Holds the passwords' hashes.
        ("config/users.acl", REDIS, 0o400),
    ],
)
def test_files_are_readable_by_those_who_need_them(
    tree: dict[str, Found], path: str, owner: tuple[int, int], mode: int
) -> None:
    """Configuration is for Redis and root; nobody else of the host reads it."""
    assert tree[path] == Found("f", owner, mode)


def test_redis_owns_all_of_its_data_and_logs(tree: dict[str, Found]) -> None:
    """A file of another owner in them is one that Redis cannot replace: a failed save, or no start."""
    foreign = {
        path: found.owner
        for path, found in tree.items()
        if path.startswith(("data/live/", "logs/")) and found.owner != REDIS
    }
    assert not foreign


def test_backups_are_kept_from_others_and_from_changes(tree: dict[str, Found]) -> None:
    """Nothing rewrites one. What is being made has a dot before its name. That Redis cannot: test_service.py."""
    own = {path: found for path, found in tree.items() if path.startswith("backups/") and path[8] != "."}
    right = (Found("d", REDIS, 0o700), Found("f", REDIS, 0o400))
    assert not {path: found for path, found in own.items() if found not in right}


def test_nobody_else_can_write_below_the_root(tree: dict[str, Found]) -> None:
    """A writable file there is a way to Redis's configuration or data for any user of the host."""
    writable = {path: oct(found.mode) for path, found in tree.items() if found.kind != "l" and found.mode & 0o022}
    # Its group is the setting's: test_socket.py.
    writable.pop("socket/redis.sock", None)
    assert not writable


def test_other_users_cannot_read_data(target: Target, settings: Settings) -> None:
    """Asked as such a user, not by mode: a parent directory's mode decides as well."""
    nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    readable = target.run(f"{nobody} find {quoted(settings.root)} -readable -type f").stdout.split()
    public = [settings.ca_file] if settings.redis_tls != "off" else []
    assert sorted(readable) == [
        *public,
        *(f"{settings.root}/{name}" for name in ("compose.yml", "redisctl", "redisctl.json")),
    ]
