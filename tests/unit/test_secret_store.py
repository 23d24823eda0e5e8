"""The secret store: generated once, private, and refused if it is damaged.

The refusal is a clear error.
"""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from redoubt import secret_store
from redoubt.secret_backends import SecretsError
from redoubt.settings.load import load
from redoubt.settings.model import Settings


def settings(tmp_path: Path, **data: Any) -> Settings:
    return load({"redis_secrets_dir": str(tmp_path / "secrets"), **data})


def store(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "host" / "redis.yml"


def test_secrets_are_generated_once(tmp_path: Path) -> None:
    first = secret_store.load_or_create(settings(tmp_path), "host")
    assert (
        secret_store.load_or_create(settings(tmp_path), "host")
        == first
        == secret_store.load(settings(tmp_path), "host")
    )
    assert set(first.passwords) == {"sessions", "queues", "health", "admin"}
    assert set(first.commands) == {"CONFIG", "SHUTDOWN"}


def test_hosts_and_instances_share_no_secret(tmp_path: Path) -> None:
    secrets = [
        secret_store.load_or_create(settings(tmp_path, redis_name=name), host)
        for host in ("a", "b", "@local")
        for name in ("redis", "queue")
    ]
    values = [value for each in secrets for value in (*each.passwords.values(), *each.commands.values())]
    assert len(values) == len(set(values)) == 6 * 6


def test_added_user_leaves_other_secrets_unchanged(tmp_path: Path) -> None:
    before = secret_store.load_or_create(settings(tmp_path), "host")
    after = secret_store.load_or_create(
        settings(tmp_path, redis_enable_default_user=True, redis_renamed_commands=["CONFIG", "SHUTDOWN", "KEYS"]),
        "host",
    )
    assert after.passwords.items() > before.passwords.items()
    assert after.commands.items() > before.commands.items()
    assert set(after.passwords) - set(before.passwords) == {"default"}


def test_command_renamed_again_gets_its_previous_name(tmp_path: Path) -> None:
    before = secret_store.load_or_create(settings(tmp_path), "host")
    plain = settings(tmp_path, redis_renamed_commands=["SHUTDOWN"])
    for secrets in (secret_store.load_or_create(plain, "host"), secret_store.load(plain, "host")):
        assert secrets.renamed_command("CONFIG") == "CONFIG"
        assert secrets.renamed_command("SHUTDOWN") == before.renamed_command("SHUTDOWN")
    assert secret_store.load_or_create(settings(tmp_path), "host") == before


def test_store_is_private(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        secret_store.load_or_create(settings(tmp_path), "host")
    finally:
        os.umask(before)
    path = store(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_concurrent_deploys_generate_one_set(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: secret_store.load_or_create(settings(tmp_path), "host"), range(16)))
    assert all(secrets == results[0] for secrets in results)


def test_repr_shows_no_secret(tmp_path: Path) -> None:
    secrets = secret_store.load_or_create(settings(tmp_path), "host")
    assert not [value for value in (*secrets.passwords.values(), *secrets.commands.values()) if value in repr(secrets)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("passwords: {admin: changeme}\ncommands: {}\n", "password of admin is too short"),
        (f"passwords: {{admin: 'a password of {'many ' * 9}words'}}\ncommands: {{}}\n", "contains spaces"),
        ("passwords: {admin: please-change-me-before-use-1}\ncommands: {}\n", "admin is a placeholder"),
        ("passwords: {admin: ExamplePassword-0123456789}\ncommands: {}\n", "admin is a placeholder"),
        ("passwords: {admin: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx}\ncommands: {}\n", "admin is a placeholder"),
        ("passwords: {}\ncommands: {CONFIG: x}\n", "new name of CONFIG"),
        ("passwords: [\n", "not a document of passwords"),
        ("- s3cr3t-s3cr3t-s3cr3t-s3cr3t\n", "not a document of passwords"),
        ("", "not a document of passwords"),
    ],
)
def test_damaged_store_is_refused_without_quoting_it(tmp_path: Path, text: str, message: str) -> None:
    path = store(tmp_path)
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(SecretsError, match=message) as caught:
        secret_store.load_or_create(settings(tmp_path), "host")
    assert "s3cr3t" not in str(caught.value)
    assert path.read_text() == text


def test_store_readable_by_others_is_refused(tmp_path: Path) -> None:
    secret_store.load_or_create(settings(tmp_path), "host")
    path = store(tmp_path)
    path.chmod(0o640)
    with pytest.raises(SecretsError, match="chmod 600"):
        secret_store.load_or_create(settings(tmp_path), "host")


def test_unreadable_store_is_refused(tmp_path: Path) -> None:
    path = store(tmp_path)
    path.mkdir(parents=True, mode=0o700)
    with pytest.raises(SecretsError, match="cannot be read by the user who runs this: Is a directory"):
        secret_store.check(settings(tmp_path), "host")
    path.rmdir()
    path.touch(mode=0o600)
    path.write_bytes(b"\xff")
    with pytest.raises(SecretsError, match="is not a text file"):
        secret_store.check(settings(tmp_path), "host")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (b"echo 'no such key' >&2; exit 3", "secrets failed with exit code 3: no such key"),
        (b"printf '\\377'", "not a document of passwords"),
        (b"\x7fELF", "secrets cannot be run: Exec format error"),
        (None, "secrets is not installed on this machine"),
    ],
)
def test_broken_command_is_reported(tmp_path: Path, script: bytes | None, message: str) -> None:
    command = tmp_path / "secrets"
    if script is not None:
        command.write_bytes(script if script.startswith(b"\x7f") else b"#!/bin/sh\n" + script)
        command.chmod(0o700)
    loaded = load({"redis_secrets_source": "command", "redis_secrets_command": [str(command)]})
    with pytest.raises(SecretsError, match=message):
        secret_store.check(loaded, "host")


def test_load_before_first_deploy_names_the_deploy(tmp_path: Path) -> None:
    with pytest.raises(SecretsError, match="deploy redis to host first"):
        secret_store.load(settings(tmp_path), "host")


# -- Rotation


def test_rotated_user_has_two_passwords_until_finished(tmp_path: Path) -> None:
    first = secret_store.load_or_create(settings(tmp_path), "host")
    both = secret_store.rotate(first, ["sessions"])
    assert both.valid()["sessions"] == (both.passwords["sessions"], first.passwords["sessions"])
    assert len(set(both.valid()["sessions"])) == 2
    assert {user: valid for user, valid in both.valid().items() if user != "sessions"} == {
        user: (password,) for user, password in first.passwords.items() if user != "sessions"
    }
    after = secret_store.drop_previous(both, ["sessions"])
    assert after.valid()["sessions"] == (both.passwords["sessions"],)
    assert (first.generation, both.generation, after.generation) == (1, 2, 3)


def test_repeated_rotation_generates_no_third_password(tmp_path: Path) -> None:
    both = secret_store.rotate(secret_store.load_or_create(settings(tmp_path), "host"), ["sessions"])
    assert secret_store.rotate(both, ["sessions"]) == both
    more = secret_store.rotate(both, ["sessions", "queues"])
    assert more.valid()["sessions"] == both.valid()["sessions"]
    assert len(more.valid()["queues"]) == 2


def test_undone_rotation_restores_previous_password(tmp_path: Path) -> None:
    first = secret_store.load_or_create(settings(tmp_path), "host")
    back = secret_store.undo_rotation(secret_store.rotate(first, ["sessions", "queues"]), ["sessions"])
    assert back.passwords["sessions"] == first.passwords["sessions"]
    assert len(back.valid()["sessions"]) == len(back.valid()["queues"]) == 2
    assert secret_store.drop_previous(back, ["sessions"]).valid()["sessions"] == (first.passwords["sessions"],)


def test_update_stores_both_passwords(tmp_path: Path) -> None:
    first = secret_store.load_or_create(settings(tmp_path), "host")
    both = secret_store.rotate(first, ["sessions"])
    secret_store.update(settings(tmp_path), "host", first, both)
    assert secret_store.load_or_create(settings(tmp_path), "host") == both
    assert secret_store.check(settings(tmp_path), "host") == both
    secret_store.update(settings(tmp_path), "host", both, secret_store.drop_previous(both, ["sessions"]))
    assert "previous" not in store(tmp_path).read_text()


def test_concurrent_rotation_is_refused(tmp_path: Path) -> None:
    first = secret_store.load_or_create(settings(tmp_path), "host")
    mine, theirs = secret_store.rotate(first, ["sessions"]), secret_store.rotate(first, ["sessions"])
    secret_store.update(settings(tmp_path), "host", first, theirs)
    with pytest.raises(SecretsError, match="another command has just changed the passwords"):
        secret_store.update(settings(tmp_path), "host", first, mine)
    assert secret_store.load(settings(tmp_path), "host") == theirs


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("previous: {sessions: old}", "password of sessions is too short"),
        ("repository: short", "password of the backup repository is too short"),
    ],
)
def test_weak_previous_or_repository_password_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = store(tmp_path)
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_text(f"passwords: {{}}\ncommands: {{}}\n{line}\n")
    with pytest.raises(SecretsError, match=message):
        secret_store.check(settings(tmp_path), "host")


def test_repository_password_is_never_changed(tmp_path: Path) -> None:
    """No rotation changes the password of the repository.

    It stays when the settings name no repository any more.
    """
    assert secret_store.load_or_create(settings(tmp_path), "host").repository == ""
    copied = settings(tmp_path, redis_backup_restic_repository="/mnt/backup")
    secrets = secret_store.load_or_create(copied, "host")
    assert len(secrets.repository) == 43
    assert secrets.repository not in secrets.passwords.values()
    users = list(secrets.passwords)
    for change in (secret_store.rotate, secret_store.undo_rotation, secret_store.drop_previous):
        after = change(secrets, users)
        assert after.repository == secrets.repository
        if after != secrets:
            secret_store.update(copied, "host", secrets, after)
            secrets = after
        assert secret_store.load_or_create(settings(tmp_path), "host").repository == secrets.repository
