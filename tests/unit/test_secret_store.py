"""The secret store: made once, private, and refused in words when it is not as it should be."""

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


def test_secrets_are_made_once_and_stay(tmp_path: Path) -> None:
    first = secret_store.load_or_create(settings(tmp_path), "host")
    assert (
        secret_store.load_or_create(settings(tmp_path), "host")
        == first
        == secret_store.load(settings(tmp_path), "host")
    )
    assert set(first.passwords) == {"sessions", "queues", "health", "admin"}
    assert set(first.commands) == {"CONFIG", "SHUTDOWN"}


def test_hosts_and_instances_share_nothing(tmp_path: Path) -> None:
    made = [
        secret_store.load_or_create(settings(tmp_path, redis_name=name), host)
        for host in ("a", "b", "@local")
        for name in ("redis", "queue")
    ]
    everything = [value for one in made for value in (*one.passwords.values(), *one.commands.values())]
    assert len(everything) == len(set(everything)) == 6 * 6


def test_what_is_added_later_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    before = secret_store.load_or_create(settings(tmp_path), "host")
    after = secret_store.load_or_create(
        settings(tmp_path, redis_enable_default_user=True, redis_renamed_commands=["CONFIG", "SHUTDOWN", "KEYS"]),
        "host",
    )
    assert after.passwords.items() > before.passwords.items()
    assert after.commands.items() > before.commands.items()
    assert set(after.passwords) - set(before.passwords) == {"default"}


def test_a_command_that_is_renamed_no_more_has_its_own_name_and_later_its_old_one(tmp_path: Path) -> None:
    before = secret_store.load_or_create(settings(tmp_path), "host")
    plain = settings(tmp_path, redis_renamed_commands=["SHUTDOWN"])
    for meanwhile in (secret_store.load_or_create(plain, "host"), secret_store.load(plain, "host")):
        assert meanwhile.renamed_command("CONFIG") == "CONFIG"
        assert meanwhile.renamed_command("SHUTDOWN") == before.renamed_command("SHUTDOWN")
    assert secret_store.load_or_create(settings(tmp_path), "host") == before


def test_nobody_else_can_read_the_store(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        secret_store.load_or_create(settings(tmp_path), "host")
    finally:
        os.umask(before)
    path = store(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_two_deploys_at_once_make_one_set(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: secret_store.load_or_create(settings(tmp_path), "host"), range(16)))
    assert all(one == made[0] for one in made)


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    made = secret_store.load_or_create(settings(tmp_path), "host")
    assert not [value for value in (*made.passwords.values(), *made.commands.values()) if value in repr(made)]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("passwords: {admin: changeme}\ncommands: {}\n", "password of admin is too short"),
        (f"passwords: {{admin: 'a password of {'many ' * 9}words'}}\ncommands: {{}}\n", "holds spaces"),
        ("passwords: {admin: please-change-me-before-use-1}\ncommands: {}\n", "admin stands for one"),
        ("passwords: {admin: ExamplePassword-0123456789}\ncommands: {}\n", "admin stands for one"),
        ("passwords: {admin: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx}\ncommands: {}\n", "admin stands for one"),
        ("passwords: {}\ncommands: {CONFIG: x}\n", "new name of CONFIG"),
        ("passwords: [\n", "not a document of passwords"),
        ("- s3cr3t-s3cr3t-s3cr3t-s3cr3t\n", "not a document of passwords"),
        ("", "not a document of passwords"),
    ],
)
def test_a_bad_store_is_refused_without_quoting_it(tmp_path: Path, text: str, word: str) -> None:
    path = store(tmp_path)
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(SecretsError, match=word) as caught:
        secret_store.load_or_create(settings(tmp_path), "host")
    assert "s3cr3t" not in str(caught.value)
    assert path.read_text() == text


def test_a_store_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret_store.load_or_create(settings(tmp_path), "host")
    path = store(tmp_path)
    path.chmod(0o640)
    with pytest.raises(SecretsError, match="chmod 600"):
        secret_store.load_or_create(settings(tmp_path), "host")


def test_reading_before_the_first_deploy_says_so(tmp_path: Path) -> None:
    with pytest.raises(SecretsError, match="deploy redis to host first"):
        secret_store.load(settings(tmp_path), "host")


# -- Rotation


def test_a_rotated_user_has_two_passwords_until_the_former_is_retired(tmp_path: Path) -> None:
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


def test_a_rotation_that_is_begun_again_makes_no_third_password(tmp_path: Path) -> None:
    both = secret_store.rotate(secret_store.load_or_create(settings(tmp_path), "host"), ["sessions"])
    assert secret_store.rotate(both, ["sessions"]) == both
    more = secret_store.rotate(both, ["sessions", "queues"])
    assert more.valid()["sessions"] == both.valid()["sessions"]
    assert len(more.valid()["queues"]) == 2


def test_a_rotation_that_is_turned_back_has_the_former_password_again(tmp_path: Path) -> None:
    first = secret_store.load_or_create(settings(tmp_path), "host")
    back = secret_store.undo_rotation(secret_store.rotate(first, ["sessions", "queues"]), ["sessions"])
    assert back.passwords["sessions"] == first.passwords["sessions"]
    assert len(back.valid()["sessions"]) == len(back.valid()["queues"]) == 2
    assert secret_store.drop_previous(back, ["sessions"]).valid()["sessions"] == (first.passwords["sessions"],)


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    first = secret_store.load_or_create(settings(tmp_path), "host")
    both = secret_store.rotate(first, ["sessions"])
    secret_store.update(settings(tmp_path), "host", first, both)
    assert secret_store.load_or_create(settings(tmp_path), "host") == both
    assert secret_store.check(settings(tmp_path), "host") == both
    secret_store.update(settings(tmp_path), "host", both, secret_store.drop_previous(both, ["sessions"]))
    assert "previous" not in store(tmp_path).read_text()


def test_two_who_rotate_at_once_are_told_apart(tmp_path: Path) -> None:
    first = secret_store.load_or_create(settings(tmp_path), "host")
    mine, theirs = secret_store.rotate(first, ["sessions"]), secret_store.rotate(first, ["sessions"])
    secret_store.update(settings(tmp_path), "host", first, theirs)
    with pytest.raises(SecretsError, match="somebody else changed passwords just now"):
        secret_store.update(settings(tmp_path), "host", first, mine)
    assert secret_store.load(settings(tmp_path), "host") == theirs


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("previous: {sessions: old}", "password of sessions is too short"),
        ("repository: short", "password of the repository of backups is too short"),
    ],
)
def test_a_former_password_that_is_weak_and_one_of_the_repository_that_was_cut_are_refused(
    tmp_path: Path, line: str, words: str
) -> None:
    path = store(tmp_path)
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_text(f"passwords: {{}}\ncommands: {{}}\n{line}\n")
    with pytest.raises(SecretsError, match=words):
        secret_store.check(settings(tmp_path), "host")


def test_the_repository_s_password_is_made_where_there_is_one_and_outlives_everything(tmp_path: Path) -> None:
    """No rotation changes it, and a repository that is used no more can still be opened."""
    assert secret_store.load_or_create(settings(tmp_path), "host").repository == ""
    copied = settings(tmp_path, redis_backup_restic_repository="/mnt/backup")
    made = secret_store.load_or_create(copied, "host")
    assert len(made.repository) == 43
    assert made.repository not in made.passwords.values()
    users = list(made.passwords)
    for change in (secret_store.rotate, secret_store.undo_rotation, secret_store.drop_previous):
        after = change(made, users)
        assert after.repository == made.repository
        if after != made:
            secret_store.update(copied, "host", made, after)
            made = after
        assert secret_store.load_or_create(settings(tmp_path), "host").repository == made.repository
