"""Copies off the host: what restic is told, and what is made of what it says."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from redisctl.backup import offsite
from redisctl.backup.offsite import CommandResult, Copy
from redisctl.core.errors import Failure
from redoubt.settings.load import load

SECRETS = Path("/srv/redis/secrets/repository")
NO_CONFIG = "unable to open config file: "


def test_restic_is_told_where_secrets_are_and_not_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTIC_PASSWORD", "of the caller")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the caller")
    given = {"password", "known", "aws_credentials", "ca_certificate"}
    command = offsite.command("s3:https://s3.example.com/redis", SECRETS, given, "snapshots", log="/tmp/log")
    assert command == [
        *("restic", "--repo", "s3:https://s3.example.com/redis", "--password-file", f"{SECRETS}/password"),
        *("--json", "--no-cache", "--cacert", f"{SECRETS}/ca_certificate", "snapshots"),
    ]
    environment = offsite.environment(SECRETS, given)
    assert environment.pop("PATH")
    assert environment == {"TZ": "UTC", "AWS_SHARED_CREDENTIALS_FILE": f"{SECRETS}/aws_credentials"}


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
def test_ssh_is_led_to_the_host_that_the_settings_name(repository: str, end: list[str], tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("ssh_key", "known_hosts")}
    for path in files.values():
        Path(path).touch()
    # What the settings take is what redisctl understands.
    settings = load({"redis_backup_restic_repository": repository, "redis_backup_repository_files": files})
    words = shlex.split(offsite.sftp(settings.redis_backup_restic_repository, SECRETS, "/tmp/log"))
    assert words[-2 - len(end) :] == [*end, "-s", "sftp"]
    assert words[:7] == ["ssh", "-F", "none", "-E", "/tmp/log", "-i", f"{SECRETS}/ssh_key"]
    for option in ("StrictHostKeyChecking=yes", "BatchMode=yes", f"UserKnownHostsFile={SECRETS}/known_hosts"):
        assert option in words


def test_a_repository_that_names_no_host_is_refused_in_words() -> None:
    with pytest.raises(Failure, match="names no host for SFTP"):
        offsite.sftp("sftp:/srv/backup", SECRETS, "/tmp/log")


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        # restic 0.14 ends with 1 whatever it is, 0.18 with 10 where there is none.
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
def test_a_place_without_a_repository_is_told_from_one_that_refuses(said: CommandResult, missing: bool) -> None:
    assert offsite.is_missing(said) == missing


def test_only_copies_of_the_instance_are_listed_the_newest_first_and_each_once() -> None:
    found: list[dict[str, Any]] = [
        {"id": "a1", "hostname": "one", "tags": ["redis", "20261123T030000Z"]},
        {"id": "a2", "hostname": "one", "tags": ["redis", "20261124T030000Z"]},
        {"id": "a3", "hostname": "one", "tags": ["redis", "20261124T030000Z"]},
        {"id": "b1", "hostname": "two", "tags": ["redis", "20261124T030000Z"]},
        {"id": "c1", "hostname": "one", "tags": ["queue", "20261124T030000Z"]},
        {"id": "d1", "hostname": "one", "tags": ["redis"]},
        {"id": "e1", "hostname": "one"},
    ]
    assert offsite.parse_copies(found, "redis") == [
        Copy("20261124T030000Z", "two", "b1"),
        Copy("20261124T030000Z", "one", "a3"),
        Copy("20261123T030000Z", "one", "a1"),
    ]
    assert offsite.parse_copies(None, "redis") == []


HERE = [Copy("20261124T030000Z", "one", "a3"), Copy("20261123T030000Z", "one", "a1")]
ELSEWHERE = [Copy("20261124T030000Z", "two", "b1")]


@pytest.mark.parametrize(
    ("there", "name", "host", "snapshot"),
    [
        (HERE, "latest", "", "a3"),
        (HERE, "20261123", "", "a1"),
        ([*ELSEWHERE, *HERE], "latest", "one", "a3"),
        ([*ELSEWHERE, *HERE], "20261124T030000Z", "two", "b1"),
    ],
)
def test_the_copy_that_is_meant_is_chosen(there: list[Copy], name: str, host: str, snapshot: str) -> None:
    assert offsite.choose_copy(there, name, host).restic_id == snapshot


@pytest.mark.parametrize(
    ("there", "name", "words"),
    [
        ([], "latest", "no copy of 'latest'"),
        (HERE, "2025", "no copy of '2025'"),
        (HERE, "2026", "20261124T030000Z of one, 20261123T030000Z of one: name one in full"),
        ([*ELSEWHERE, *HERE], "latest", "20261124T030000Z of two, 20261124T030000Z of one"),
        ([*ELSEWHERE, *HERE], "20261124T030000Z", "or its --host"),
    ],
)
def test_where_several_may_be_meant_none_is_chosen(there: list[Copy], name: str, words: str) -> None:
    with pytest.raises(Failure, match=words):
        offsite.choose_copy(there, name, "")


@pytest.mark.parametrize(
    ("errors", "words"),
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
def test_restic_s_words_are_shown_plain_or_from_json(errors: str, words: str) -> None:
    assert offsite.error_summary(errors) == words
