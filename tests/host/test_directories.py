"""The instance's files on the host: who owns them and who can read them.

Redis runs as uid 999 without any capability, so it cannot even start unless the owners are right. Owners and modes are
also what protects the data from other users of the host, and root's working data from Redis.
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
class Attributes:
    """The kind, owner and mode of a path on the host."""

    kind: str
    owner: tuple[int, int]
    mode: int


@pytest.fixture(scope="module")
def tree(host: Host, settings: Settings) -> dict[str, Attributes]:
    """Return the attributes of everything below the root, by path relative to it."""
    listing = host.check_output(f"find {quoted(settings.root)} -ignore_readdir_race -printf '%y %U %G %m %P\\n'")
    attributes = {}
    for line in listing.splitlines():
        kind, uid, gid, mode, path = line.split(" ", 4)
        attributes[path] = Attributes(kind, (int(uid), int(gid)), int(mode, 8))
    return attributes


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        # Anybody may enter it to run 'docker compose'; only root may change it.
        ("", ROOT, 0o755),
        ("config", REDIS, 0o750),
        # Root's working data: previous and staged data, the journal.
        ("data", ROOT, 0o700),
        ("data/live", REDIS, 0o700),
        ("backups", REDIS, 0o750),
        ("logs", REDIS, 0o750),
        ("secrets", REDIS, 0o700),
    ],
)
def test_directory_has_its_owner_and_mode(
    tree: dict[str, Attributes], path: str, owner: tuple[int, int], mode: int
) -> None:
    """Each directory has its owner, by number, and its mode.

    The host may have another name for uid 999 than the container.
    """
    assert tree[path] == Attributes("d", owner, mode)


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        # Names the files of secrets and contains no secret.
        ("compose.yml", ROOT, 0o644),
        # Root runs it, so only root may change it.
        ("redisctl", ROOT, 0o755),
        ("redisctl.json", ROOT, 0o644),
        ("config/redis.conf", REDIS, 0o640),
        ("config/activedefrag.conf", REDIS, 0o640),
        ("config/healthcheck.sh", REDIS, 0o550),
        # Contains password hashes.
        ("config/users.acl", REDIS, 0o400),
    ],
)
def test_file_has_its_owner_and_mode(tree: dict[str, Attributes], path: str, owner: tuple[int, int], mode: int) -> None:
    """Only Redis and root can read the configuration."""
    assert tree[path] == Attributes("f", owner, mode)


def test_redis_owns_its_data_and_logs(tree: dict[str, Attributes]) -> None:
    """Redis cannot replace a file of another owner: a save or its start would fail."""
    foreign = {
        path: entry.owner
        for path, entry in tree.items()
        if path.startswith(("data/live/", "logs/")) and entry.owner != REDIS
    }
    assert not foreign


def test_root_owns_the_data_next_to_live(tree: dict[str, Attributes]) -> None:
    """Root owns its working data in ROOT/data, next to live/.

    Redis owns no directory or journal there.
    """
    entries = {path: entry for path, entry in tree.items() if path.startswith("data/") and path.count("/") == 1}
    assert entries.pop("data/live").owner == REDIS
    assert not {path: entry for path, entry in entries.items() if entry.owner != ROOT or entry.mode & 0o077}


def test_backups_are_private_and_read_only(tree: dict[str, Attributes]) -> None:
    """Backups belong to Redis, with mode 700 for directories and 400 for files.

    Incomplete backups have a name with a dot and are not checked. Redis cannot write to backups: test_service.py.
    """
    backups = {path: entry for path, entry in tree.items() if path.startswith("backups/") and path[8] != "."}
    expected = (Attributes("d", REDIS, 0o700), Attributes("f", REDIS, 0o400))
    assert not {path: entry for path, entry in backups.items() if entry not in expected}


def test_no_other_user_can_write_below_the_root(tree: dict[str, Attributes]) -> None:
    """Only owners can write below the root.

    A writable file would give any user of the host access to Redis's configuration or data.
    """
    writable = {path: oct(entry.mode) for path, entry in tree.items() if entry.kind != "l" and entry.mode & 0o022}
    # The settings choose its group: test_socket.py.
    writable.pop("socket/redis.sock", None)
    assert not writable


def test_other_users_can_read_only_public_files(target: Target, settings: Settings) -> None:
    """Other users of the host can read only the public files.

    The test reads as such a user, because the modes of parent directories count as well.
    """
    other_user = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    readable = target.run(f"{other_user} find {quoted(settings.root)} -readable -type f").stdout.split()
    public = [settings.ca_file] if settings.redis_tls != "off" else []
    assert sorted(readable) == [
        *public,
        *(f"{settings.root}/{name}" for name in ("compose.yml", "redisctl", "redisctl.json")),
    ]
