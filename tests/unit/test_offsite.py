"""Copies off the host: how restic is called, and how its answers are parsed."""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from redisctl.backup import offsite
from redisctl.backup.offsite import CommandResult, Copy
from redisctl.core import process
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redoubt.settings.load import load

SECRETS = Path("/srv/redis/secrets/repository")
NO_CONFIG = "unable to open config file: "


def test_restic_gets_paths_of_secrets_and_the_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the caller's environment it gets the proxies alone."""
    caller = {"RESTIC_PASSWORD": "x", "AWS_SECRET_ACCESS_KEY": "x", "https_proxy": "http://proxy:3128"}
    monkeypatch.setattr(os, "environ", caller)
    monkeypatch.setattr(process, "proxies", {})
    process.pin_environment()
    given = {"password", "known", "aws_credentials", "ca_certificate"}
    command = offsite.command("s3:https://s3.example.com/redis", SECRETS, given, "snapshots", log="/tmp/log")
    assert command == [
        *("restic", "--repo", "s3:https://s3.example.com/redis", "--password-file", f"{SECRETS}/password"),
        *("--json", "--no-cache", "--cacert", f"{SECRETS}/ca_certificate", "snapshots"),
    ]
    assert offsite.environment(SECRETS, given) == {
        "RESTIC_PROGRESS_FPS": "0.2",
        "PATH": process.ENVIRONMENT["PATH"],
        "TZ": "UTC",
        "https_proxy": "http://proxy:3128",
        "AWS_SHARED_CREDENTIALS_FILE": f"{SECRETS}/aws_credentials",
    }


@pytest.mark.parametrize(
    ("repository", "end"),
    [
        ("sftp:backup@nas.example.com:/redis-1", ["backup@nas.example.com"]),
        ("sftp:nas:redis/redis-1", ["nas"]),
        ("sftp://backup@nas:2222//srv/redis-1", ["-p", "2222", "backup@nas"]),
        ("sftp://backup@nas/srv/redis-1", ["backup@nas"]),
        ("sftp://backup@[2001:db8::1]:22//srv/redis-1", ["-p", "22", "backup@2001:db8::1"]),
    ],
)
def test_ssh_connects_to_the_host_of_the_settings(repository: str, end: list[str], tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("ssh_key", "known_hosts")}
    for path in files.values():
        Path(path).touch()
    # The settings accept what redisctl understands.
    settings = load({"redis_backup_restic_repository": repository, "redis_backup_repository_files": files})
    arguments = shlex.split(offsite.sftp(settings.redis_backup_restic_repository, SECRETS, "/tmp/log"))
    assert arguments[-2 - len(end) :] == [*end, "-s", "sftp"]
    assert arguments[:7] == ["ssh", "-F", "none", "-E", "/tmp/log", "-i", f"{SECRETS}/ssh_key"]
    for option in ("StrictHostKeyChecking=yes", "BatchMode=yes", f"UserKnownHostsFile={SECRETS}/known_hosts"):
        assert option in arguments


def test_repository_without_a_host_is_refused() -> None:
    with pytest.raises(Failure, match="names no host for SFTP"):
        offsite.sftp("sftp:/srv/backup", SECRETS, "/tmp/log")


@pytest.mark.parametrize(
    ("result", "missing"),
    [
        # restic 0.14 exits with 1 for every error, 0.18 with 10 if there is no repository.
        (
            CommandResult(1, "", f"{NO_CONFIG}stat /x/config: no such file or directory / Is there a repository at"),
            True,
        ),
        (CommandResult(1, "", f"{NO_CONFIG}Lstat: file does not exist / Is there a repository at"), True),
        (CommandResult(1, "", f"{NO_CONFIG}Stat: The specified key does not exist. / Is there a repository at"), True),
        (CommandResult(10, "", "repository does not exist"), True),
        (CommandResult(1, "", f"{NO_CONFIG}Head: dial tcp: connection refused / Is there a repository at"), False),
        (
            CommandResult(
                1, "", "ssh: Could not resolve hostname nas: no such host / unable to start the sftp session"
            ),
            False,
        ),
        (CommandResult(1, "", "Warning: Identity file /x not accessible: No such file or directory."), False),
        (CommandResult(12, "", "wrong password or no key found"), False),
        (CommandResult(1, "", "wrong password or no key found"), False),
        (CommandResult(0, "", ""), False),
    ],
)
def test_missing_repository_differs_from_one_that_fails(result: CommandResult, missing: bool) -> None:
    assert offsite.is_missing(result) == missing


def test_copies_of_the_instance_are_listed_newest_first() -> None:
    snapshots: list[dict[str, Any]] = [
        {"id": "a1", "hostname": "one", "tags": ["redis", "20261123T030000Z"]},
        {"id": "a2", "hostname": "one", "tags": ["redis", "20261124T030000Z"]},
        {"id": "a3", "hostname": "one", "tags": ["redis", "20261124T030000Z"]},
        {"id": "b1", "hostname": "two", "tags": ["redis", "20261124T030000Z"]},
        {"id": "c1", "hostname": "one", "tags": ["queue", "20261124T030000Z"]},
        {"id": "d1", "hostname": "one", "tags": ["redis"]},
        {"id": "e1", "hostname": "one"},
    ]
    assert offsite.parse_copies(snapshots, "redis") == [
        Copy("20261124T030000Z", "two", "b1"),
        Copy("20261124T030000Z", "one", "a3"),
        Copy("20261123T030000Z", "one", "a1"),
    ]
    assert offsite.parse_copies(None, "redis") == []


ONE_HOST = [Copy("20261124T030000Z", "one", "a3"), Copy("20261123T030000Z", "one", "a1")]
OTHER_HOST = [Copy("20261124T030000Z", "two", "b1")]


@pytest.mark.parametrize(
    ("copies", "name", "host", "restic_id"),
    [
        (ONE_HOST, "latest", "", "a3"),
        (ONE_HOST, "20261123", "", "a1"),
        ([*OTHER_HOST, *ONE_HOST], "latest", "one", "a3"),
        ([*OTHER_HOST, *ONE_HOST], "20261124T030000Z", "two", "b1"),
    ],
)
def test_copy_is_chosen_by_name_and_host(copies: list[Copy], name: str, host: str, restic_id: str) -> None:
    assert offsite.choose_copy(copies, name, host).restic_id == restic_id


@pytest.mark.parametrize(
    ("copies", "name", "message"),
    [
        ([], "latest", "no copy of 'latest'"),
        (ONE_HOST, "2025", "no copy of '2025'"),
        (ONE_HOST, "2026", "20261124T030000Z of one, 20261123T030000Z of one"),
        ([*OTHER_HOST, *ONE_HOST], "latest", "20261124T030000Z of two, 20261124T030000Z of one"),
        ([*OTHER_HOST, *ONE_HOST], "20261124T030000Z", "give the full name, or --host"),
    ],
)
def test_ambiguous_copy_is_refused(copies: list[Copy], name: str, message: str) -> None:
    with pytest.raises(Failure, match=message):
        offsite.choose_copy(copies, name, "")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ('{"total_size":1000000000000000}', "free, and backup 20261124T030000Z takes up to"),
        ("{}", "not report the size"),
    ],
)
def test_copy_without_room_is_not_fetched(
    size: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def restic(_: Instance, command: str, *arguments: str, **__: object) -> CommandResult:
        commands.append(command)
        return CommandResult(0, size if command == "stats" else "", "")

    monkeypatch.setattr(offsite, "_restic", restic)
    monkeypatch.setattr(offsite, "list_copies", lambda _: ONE_HOST)
    instance = Instance("redis", tmp_path, "")
    instance.backups.mkdir()
    with pytest.raises(Failure, match=message):
        offsite.fetch(instance, "latest")
    assert commands == ["stats"]
    assert list(instance.backups.iterdir()) == []


@pytest.mark.parametrize(
    ("errors", "summary"),
    [
        ("", ""),
        ("Fatal: wrong password or no key found\n", "wrong password or no key found"),
        (
            '{"message_type":"exit_error","code":10,"message":"Fatal: repository does not exist\\nIs there one?"}\n',
            "repository does not exist / Is there one?",
        ),
        ('{"message_type":"error","error":{"message":"disk full"},"during":"archival"}\nplain\n', "disk full / plain"),
        ("1\n2\n3\n4\n5\n", "2 / 3 / 4 / 5"),
        ("[]\nnull\n", "[] / null"),
    ],
)
def test_errors_of_restic_are_summarised(errors: str, summary: str) -> None:
    assert offsite.error_summary(errors) == summary
