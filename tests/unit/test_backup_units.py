"""Backups on a schedule: the units, and what restic needs on the host."""

from pathlib import Path

import pytest

from redoubt import backup_units, compose, host_files, recovery_units
from redoubt.filesystem import AbsentPath, DesiredDirectory, DesiredFile
from redoubt.secret_store import Secrets
from redoubt.settings.load import load

PASSWORD = "of-the-repository-0123456789"
SECRETS = Secrets(
    dict.fromkeys(("sessions", "queues", "health", "admin"), "x"), dict.fromkeys(("CONFIG", "SHUTDOWN"), "y")
)


def test_units_run_the_redisctl_of_their_instance() -> None:
    job, timer = backup_units.files(load({"redis_name": "queue", "redis_backup_schedule": "hourly"}))
    assert isinstance(job, DesiredFile)
    assert isinstance(timer, DesiredFile)
    assert (job.path, timer.path) == tuple(f"/etc/systemd/system/queue-backup.{kind}" for kind in ("service", "timer"))
    assert "ExecStart=/usr/local/sbin/redisctl-queue backup\n" in job.content
    assert "OnCalendar=hourly\n" in timer.content
    assert "RandomizedDelaySec=1800\n" in timer.content


def test_no_schedule_means_no_units() -> None:
    assert backup_units.files(load({"redis_backup_schedule": ""})) == [
        AbsentPath("/etc/systemd/system/redis-backup.service"),
        AbsentPath("/etc/systemd/system/redis-backup.timer"),
    ]


def test_timeout_grows_with_maxmemory() -> None:
    assert backup_units.backup_timeout(load({"redis_maxmemory": "1gb"})) == 3600 + 3 * 1024
    assert backup_units.backup_timeout(load({"redis_maxmemory": "64gb"})) == 3600 + 3 * 65536


def test_units_that_run_redisctl_have_a_memory_limit() -> None:
    """What Redis answers to them must not fill the memory of the host."""
    settings = load({"redis_backup_schedule": "hourly"})
    files = [*backup_units.files(settings), *recovery_units.files(settings)]
    jobs = [file.content for file in files if isinstance(file, DesiredFile) and "redisctl" in file.content]
    assert len(jobs) == 4
    assert all("\nMemoryMax=" in job for job in jobs)


@pytest.fixture
def repository_files(tmp_path: Path) -> dict[str, str]:
    """Files on the machine that deploys."""
    for name in ("ssh_key", "known_hosts"):
        # Without a line break at the end, as an editor may leave it.
        (tmp_path / name).write_text(f"what {name} holds")
    return {name: str(tmp_path / name) for name in ("ssh_key", "known_hosts")}


@pytest.mark.parametrize(
    ("repository", "packages"),
    [("", []), ("/mnt/backup", ["restic"]), ("sftp:nas:redis", ["restic", "openssh-client"])],
)
def test_repository_needs_restic(repository: str, packages: list[str], repository_files: dict[str, str]) -> None:
    files = repository_files if repository.startswith("sftp:") else {}
    settings = load({"redis_backup_restic_repository": repository, "redis_backup_repository_files": files})
    assert backup_units.packages(settings) == packages


def test_repository_files_are_for_root_alone(repository_files: dict[str, str]) -> None:
    settings = load(
        {"redis_backup_restic_repository": "sftp:nas:redis", "redis_backup_repository_files": repository_files}
    )
    entries = host_files.repository_files(settings, PASSWORD)
    files = {entry.path.rpartition("/")[2]: entry for entry in entries if isinstance(entry, DesiredFile)}
    assert {name: file.content for name, file in files.items()} == {
        "password": f"{PASSWORD}\n",
        "ssh_key": "what ssh_key holds\n",
        "known_hosts": "what known_hosts holds\n",
    }
    assert {(file.mode, file.uid, file.gid, file.secret) for file in files.values()} == {(0o400, 0, 0, True)}
    directory = "/srv/redis/secrets/repository"
    assert DesiredDirectory(directory, mode=0o700, uid=0, gid=0) in host_files.directories(settings)
    # Credentials of a previous repository go; what redisctl notes stays.
    absent = {entry.path for entry in entries if isinstance(entry, AbsentPath)}
    assert f"{directory}/aws_credentials" in absent
    assert not absent & {*(file.path for file in files.values()), f"{directory}/known", directory}


def test_unused_repository_files_are_removed() -> None:
    entries = host_files.repository_files(load({}), PASSWORD)
    assert all(isinstance(entry, AbsentPath) for entry in entries)
    paths = [entry.path.removeprefix("/srv/redis/secrets/repository") for entry in entries]
    assert paths[-1] == ""
    assert {"/password", "/known", "/ssh_key"} < set(paths)


def test_restic_password_is_only_in_its_file() -> None:
    """Neither among the users' files nor in what anybody may read."""
    settings = load({"redis_backup_restic_repository": "/mnt/backup"})
    secrets = Secrets(SECRETS.passwords, SECRETS.commands, repository=PASSWORD)
    texts = {
        entry.path: entry.content
        for entry in (
            *host_files.secret_files(settings, secrets),
            *host_files.config_files(settings),
            host_files.acl_file(settings, secrets),
            compose.compose_file(settings, selinux=False),
            *host_files.redisctl_program(settings),
            host_files.redisctl_config(settings),
            host_files.deployed_settings(settings),
            *backup_units.files(settings),
        )
        if isinstance(entry, DesiredFile)
    }
    assert [path for path, text in texts.items() if PASSWORD in text] == ["/srv/redis/secrets/repository/password"]
    assert PASSWORD not in repr(secrets)
