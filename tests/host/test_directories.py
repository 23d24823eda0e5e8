"""The instance's files on the host: who owns them and who can read them.

Redis runs as a number without any capability, so it cannot even start unless the owners are right. Owners and modes are
also what protects the data from other users of the host, and root's working data from Redis.
"""

from dataclasses import dataclass

import pytest
from testinfra.host import Host

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, listed, quoted

pytestmark = pytest.mark.security("file permissions")

ROOT = (0, 0)
# What others than Redis and root may read or enter below the root, with the mode. Nothing else has rights for others.
OPEN = {
    # Anybody may enter it to run 'docker compose'; only root may change it.
    "": 0o755,
    # Names the files of secrets and contains no secret.
    "compose.yml": 0o644,
    # Root runs it, so only root may change it.
    "redisctl": 0o755,
    "redisctl.json": 0o644,
    # Clients verify the server with it.
    "ca.crt": 0o644,
    # The group of redis_unix_socket_gid uses the socket.
    "socket": 0o2750,
    "socket/redis.sock": 0o770,
}


@dataclass(frozen=True)
class Attributes:
    """The kind, owner and mode of a path on the host."""

    kind: str
    owner: tuple[int, int]
    mode: int


@pytest.fixture(scope="module")
def tree(host: Host, settings: Settings) -> dict[str, Attributes]:
    """Return the attributes of everything below the root, by path relative to it."""
    attributes = {}
    for entry in listed(host, f"find {quoted(settings.root)} -ignore_readdir_race -printf '%y %U %G %m %P\\0'"):
        kind, uid, gid, mode, path = entry.split(" ", 4)
        attributes[path] = Attributes(kind, (int(uid), int(gid)), int(mode, 8))
    return attributes


@pytest.fixture(scope="module")
def redis(settings: Settings) -> tuple[int, int]:
    """Return the user and the group of Redis.

    The host may have other names for them than the image.
    """
    return settings.redis_uid, settings.redis_gid


@pytest.mark.parametrize(
    ("path", "kind", "owner", "mode"),
    [
        ("", "d", "root", 0o755),
        ("config", "d", "redis", 0o700),
        # Root's working data: previous and staged data, the journal.
        ("data", "d", "root", 0o700),
        ("data/live", "d", "redis", 0o700),
        ("backups", "d", "redis", 0o700),
        ("logs", "d", "redis", 0o700),
        ("secrets", "d", "redis", 0o700),
        (".redoubt", "f", "root", 0o600),
        ("compose.yml", "f", "root", 0o644),
        ("redisctl", "f", "root", 0o755),
        ("redisctl.json", "f", "root", 0o644),
        ("config/redis.conf", "f", "redis", 0o600),
        ("config/activedefrag.conf", "f", "redis", 0o600),
        ("config/healthcheck.sh", "f", "redis", 0o500),
        # Contains password hashes.
        ("config/users.acl", "f", "redis", 0o400),
    ],
)
def test_path_has_its_kind_owner_and_mode(
    tree: dict[str, Attributes], redis: tuple[int, int], *, path: str, kind: str, owner: str, mode: int
) -> None:
    """Owners are compared by number. Only Redis and root can read the configuration."""
    assert tree[path] == Attributes(kind, redis if owner == "redis" else ROOT, mode)


def test_only_listed_paths_have_rights_for_others(tree: dict[str, Attributes]) -> None:
    """No group and no other user has rights, except on the paths of one list.

    So it does not matter which group of the host has the number of Redis's group.
    """
    is_open = {path: entry.mode for path, entry in tree.items() if entry.kind != "l" and entry.mode & 0o077}
    assert {path: oct(mode) for path, mode in is_open.items() if OPEN.get(path) != mode} == {}
    assert {entry.owner for path, entry in tree.items() if path in OPEN and not path.startswith("socket")} == {ROOT}


def test_redis_creates_private_files(tree: dict[str, Attributes], settings: Settings) -> None:
    """What Redis itself creates has mode 600 for files and 700 for directories.

    These are its log, its RDB snapshots and its AOF. The host may rotate the log.
    """
    created = {path: entry for path, entry in tree.items() if path.startswith(("data/live/", "logs/"))}
    modes = {"d": 0o700, "f": 0o600}
    assert {path: entry for path, entry in created.items() if entry.mode != modes.get(entry.kind)} == {}
    assert "logs/redis.log" in created
    if settings.redis_appendonly:
        assert {entry.kind for path, entry in created.items() if path.startswith("data/live/appendonlydir")} == {
            "d",
            "f",
        }


def test_redis_owns_its_data_and_logs(tree: dict[str, Attributes], redis: tuple[int, int]) -> None:
    """Redis cannot replace a file of another owner: a save or its start would fail."""
    foreign = {
        path: entry.owner
        for path, entry in tree.items()
        if path.startswith(("data/live/", "logs/")) and entry.owner != redis
    }
    assert not foreign


def test_root_owns_the_data_next_to_live(tree: dict[str, Attributes], redis: tuple[int, int]) -> None:
    """Root owns its working data in ROOT/data, next to live/.

    Redis owns no directory or journal there.
    """
    entries = {path: entry for path, entry in tree.items() if path.startswith("data/") and path.count("/") == 1}
    assert entries.pop("data/live").owner == redis
    assert not {path: entry for path, entry in entries.items() if entry.owner != ROOT or entry.mode & 0o077}


def test_backups_are_private_and_read_only(tree: dict[str, Attributes], redis: tuple[int, int]) -> None:
    """Backups belong to Redis, with mode 700 for directories and 400 for files.

    Incomplete backups have a name with a dot and are not checked, nor is lost+found of a disk of their own. Redis
    cannot write to backups: test_service.py.
    """
    names = {path: entry for path, entry in tree.items() if path.startswith("backups/") and path[8] != "."}
    backups = {path: entry for path, entry in names.items() if not path.startswith("backups/lost+found")}
    expected = (Attributes("d", redis, 0o700), Attributes("f", redis, 0o400))
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
    assert _readable(target, "--reuid 65534 --regid 65534 --clear-groups") == _public(settings)


def test_members_of_redis_group_read_no_more(target: Target, settings: Settings) -> None:
    """A member of the group with Redis's number reads only the public files.

    On Debian 13 that group is systemd-journal. The test reads as a user of its own that is in the group, and as each
    account of the host that is.
    """
    gid = settings.redis_gid
    listing = target.host.run(f"getent group {gid}; getent passwd").stdout.splitlines()
    entries = [line.split(":") for line in listing]
    members = {name for fields in entries if len(fields) == 4 for name in fields[3].split(",") if name}
    primary = {fields[0] for fields in entries if len(fields) == 7 and fields[3] == str(gid)}
    accounts = [
        f"--reuid {quoted(name)} --regid {gid} --init-groups" for name in sorted((members | primary) - {"root"})
    ]
    for identity in (f"--reuid 65534 --regid 65534 --groups {gid}", *accounts):
        assert _readable(target, identity) == _public(settings), identity


def test_no_account_has_the_uid_of_redis(target: Target, settings: Settings) -> None:
    """No account of the host has Redis's number, which owns the data.

    The host may have a group with its number, because the group has no rights.
    """
    accounts = target.host.run(f"getent passwd {settings.redis_uid}").stdout
    assert accounts.splitlines() == []


def _readable(target: Target, identity: str) -> list[str]:
    """Return the files that a user can read; ``identity`` are options of setpriv."""
    # find would fail at a directory that this user cannot enter, and at that of the login.
    closed = r"-type d ! \( -readable -executable \) -prune"
    find = f"find {quoted(target.settings.root)} {closed} -o -readable -type f -print0"
    return sorted(listed(target.host, f"cd / && setpriv {identity} {find}"))


def _public(settings: Settings) -> list[str]:
    names = (*(["ca.crt"] if settings.redis_tls != "off" else []), "compose.yml", "redisctl", "redisctl.json")
    return [f"{settings.root}/{name}" for name in names]
