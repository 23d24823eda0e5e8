"""Names and paths: unique for each instance, and complete for a removal."""

from pathlib import Path, PurePosixPath

import pytest

from redisctl import paths
from redoubt.settings.load import load

NAMES = ("redis", "queue", "redis-backup", "a")


def names_of(name: str) -> set[str]:
    """Return everything outside the root that is named after an instance."""
    return {
        paths.lock_file(name),
        paths.history_file(name),
        paths.command(name),
        *(f"{paths.SYSTEMD_UNITS}/{unit}" for unit in paths.units(name)),
        *map(str, paths.removable(name, Path(f"/srv/{name}"), data=True)),
    }


def test_two_instances_share_no_path() -> None:
    used: set[str] = set()
    for name in NAMES:
        assert not used & names_of(name)
        used |= names_of(name)


def test_command_of_an_instance_is_named_after_it() -> None:
    assert paths.command("redis") == "/usr/local/sbin/redisctl"
    assert paths.command("queue") == "/usr/local/sbin/redisctl-queue"


def test_unit_that_starts_another_comes_first() -> None:
    """A unit comes before the unit that it starts.

    A removal disables units in this order, so that none is started again in between.
    """
    units = paths.units("redis")
    assert len(units) == len(set(units))
    for starter, started in (
        (paths.unit("redis", paths.BACKUP_TIMER), paths.unit("redis", paths.BACKUP_SERVICE)),
        (paths.unit("redis", paths.RECOVER_PATH), paths.unit("redis", paths.RECOVER_SERVICE)),
    ):
        assert units.index(starter) < units.index(started)


def test_root_working_data_is_outside_the_container() -> None:
    """Root's working data is next to LIVE, which Redis sees as /data.

    It is on the same disk as the data.
    """
    live = PurePosixPath(paths.LIVE)
    for path in (paths.PREVIOUS, paths.STAGING, paths.ROLLBACK_DATA, paths.JOURNAL):
        assert PurePosixPath(path).parent == live.parent == PurePosixPath(paths.DATA)


@pytest.mark.parametrize("data", [True, False])
def test_removal_stays_in_its_own_directories(data: bool) -> None:
    root = Path(load({}).root)
    for path in paths.removable("redis", root, data=data):
        assert path != root
        assert path.is_relative_to(root) or "redis" in path.name
        assert ".." not in path.parts


def test_removal_keeps_data_unless_asked() -> None:
    kept = {Path("/srv/redis") / name for name in paths.KEPT}
    assert kept == {Path("/srv/redis/data"), Path("/srv/redis/backups")}
    without = set(paths.removable("redis", Path("/srv/redis"), data=False))
    assert not [path for path in without for top in kept if path.is_relative_to(top)]
    with_data = set(paths.removable("redis", Path("/srv/redis"), data=True))
    # The marker lets the next deploy use the root with the data.
    assert with_data - without == {*kept, Path("/srv/redis") / paths.MARKER}


def test_removal_deletes_the_program_last() -> None:
    """As long as it is there, an interrupted removal can be run again."""
    removable = [str(path) for path in paths.removable("redis", Path("/srv/redis"), data=True)]
    assert removable[-4:-2] == ["/srv/redis/redisctl", "/srv/redis/.redoubt"]
    assert removable[-2:] == ["/run/redoubt-srv-redis.modules", "/usr/local/sbin/redisctl"]


def test_removal_deletes_only_files_that_a_deploy_checks() -> None:
    """Outside the root. What others have written there is not the instance's."""
    removable = {str(path) for path in paths.removable("redis", Path("/srv/redis"), data=True)}
    removable = {path for path in removable if not path.startswith(("/srv/redis/", "/run/redoubt-"))}
    links = {path for path in removable if "/system/" in path and ".wants/" in path}
    assert removable - links == set(paths.outside_root("redis"))
    assert {f"{paths.SYSTEMD_UNITS}/{PurePosixPath(link).name}" for link in links} <= set(paths.outside_root("redis"))


def test_removal_keeps_the_history_and_the_lock() -> None:
    removable = paths.removable("redis", Path("/srv/redis"), data=True)
    assert Path(paths.history_file("redis")) not in removable
    assert Path(paths.lock_file("redis")) not in removable
