"""Removal: what there is of an instance is read right, and what stands against taking it away is said in words."""

from dataclasses import replace
from typing import Any

import pytest

from redoubt import compose, host_files, removal
from redoubt.facts.units import InstancePresence, parse_instance_state
from redoubt.filesystem import AbsentPath
from redoubt.removal import left, paths, refusals
from redoubt.secret_store import Secrets
from redoubt.settings.load import load

SETTINGS = load({})
PRESENT = parse_instance_state(
    [
        "active redis-backup.timer",
        "enabled redis-backup.timer",
        "container /redis running healthy",
        "container /redis-web-1 exited",
        "network redis_backend",
        "path 12288 /srv/redis/data",
        "path 4 /srv/redis/compose.yml",
        "replacing ",
    ]
)


def test_what_the_host_says_is_read() -> None:
    assert (
        InstancePresence(
            active=frozenset({"redis-backup.timer"}),
            enabled=frozenset({"redis-backup.timer"}),
            containers=(("redis", "running"), ("redis-web-1", "exited")),
            healthy=frozenset({"redis"}),
            networks=("redis_backend",),
            paths=(("/srv/redis/data", 12288), ("/srv/redis/compose.yml", 4)),
        )
        == PRESENT
    )
    assert PRESENT.running == ["redis"]


def test_data_is_named_among_what_goes_only_where_it_is_asked_for() -> None:
    assert left(SETTINGS, PRESENT, data=False) == [
        "container redis",
        "container redis-web-1",
        "network redis_backend",
        "unit redis-backup.timer",
        "/srv/redis/compose.yml",
    ]
    assert removal.kept(SETTINGS, PRESENT) == ["/srv/redis/data (12.0 MiB)"]
    assert "/srv/redis/data" in left(SETTINGS, PRESENT, data=True)
    assert left(SETTINGS, InstancePresence(paths=(("/srv/redis/data", 4),)), data=False) == []


def test_every_file_of_an_instance_is_removed() -> None:
    """In a directory that goes, or by its own name."""
    settings = load({"redis_name": "queue", "redis_backup_restic_repository": "/srv/copies", "redis_unix_socket": True})
    secrets = Secrets(
        dict.fromkeys(("sessions", "queues", "health", "admin", "default"), "x"), {"CONFIG": "c", "SHUTDOWN": "s"}
    )
    made = [
        *host_files.config_files(settings),
        *host_files.redisctl_files(settings),
        *host_files.secret_files(settings, secrets),
        *host_files.directories(settings),
        compose.compose_file(settings, selinux=False),
        host_files.logrotate_file(settings),
        host_files.acl_file(settings, secrets),
    ]
    gone = paths(settings, data=True)
    there = {entry.path for entry in made if not isinstance(entry, AbsentPath)} - {settings.root}
    assert [path for path in there if not any(path == one or path.startswith(f"{one}/") for one in gone)] == []
    assert not {"/srv/queue/data", "/srv/queue/backups"} & set(paths(settings, data=False))


@pytest.mark.parametrize(
    ("asked", "changes", "words"),
    [
        ("yes", {}, 'say --data redis_remove_data="delete the data of redis"'),
        ("delete the data of queue", {}, "removes nothing"),
        ("", {"running_verb": "backup"}, "redisctl backup works on the data of redis"),
        ("", {"interrupted_restore": "restore of latest"}, "restore of latest was broken off"),
        ("", {"upgrading": True}, "an upgrade of redis was not ended"),
    ],
)
def test_what_stands_against_a_removal_is_said(asked: str, changes: dict[str, Any], words: str) -> None:
    (found,) = refusals(SETTINGS, replace(PRESENT, **changes), asked)
    assert words in found
    assert refusals(SETTINGS, PRESENT, removal.sentence(SETTINGS)) == refusals(SETTINGS, PRESENT, "") == []
