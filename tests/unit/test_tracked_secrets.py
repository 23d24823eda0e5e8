"""Secrets in git: ignored in a new store, reported if git would publish them."""

import subprocess
from pathlib import Path

import pytest

from redoubt import secret_store, tracked_secrets
from redoubt.settings.load import load
from redoubt.settings.model import Settings
from tests.deployer import ROOT

FILES = {
    "redis_tls": "required",
    "redis_tls_source": "files",
    "redis_tls_cert": "host.crt",
    "redis_tls_key": "host.key",
    "redis_tls_ca": "ca.crt",
    "redis_tls_client_cert": "client.crt",
    "redis_tls_client_key": "client.key",
    "redis_tls_names": ["redis.example.com"],
    "redis_backup_restic_repository": "sftp:backup@nas:/copies",
    "redis_backup_repository_files": {"ssh_key": "id_ed25519", "known_hosts": "known_hosts"},
}


def git(*arguments: str, directory: Path) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty repository in which the deploy runs."""
    git("init", "--quiet", directory=tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(**data: object) -> Settings:
    return load({"redis_secrets_dir": "passwords", **data})


def test_new_secret_store_is_ignored_by_git(repository: Path) -> None:
    """No deploy warns of it.

    The first one warns before it creates the store.
    """
    assert tracked_secrets.warnings(settings(), "host") == []
    secret_store.load_or_create(settings(), "host")
    assert (repository / "passwords/host/redis.yml").exists()
    assert git("status", "--porcelain", directory=repository) == ""
    git("add", ".", directory=repository)
    assert tracked_secrets.warnings(settings(), "host") == []


def test_files_next_to_the_secrets_can_be_committed(repository: Path) -> None:
    """The user created the directory, as for SOPS or for other files of the host."""
    (repository / "passwords").mkdir()
    secret_store.load_or_create(settings(), "host")
    assert git("status", "--porcelain", directory=repository) == "?? passwords/\n"


@pytest.mark.parametrize(
    "path", ["tls/redis-1.key", "web/client.key", "secrets/redis-1/redis.yml", "backup/id_ed25519"]
)
def test_git_ignores_the_examples_of_the_documentation(path: str) -> None:
    result = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=False)
    assert result.returncode == 0


SECRET = ["passwords/host/redis.yml", "host.key", "client.key", "id_ed25519"]


def reported(configured: Settings, reason: str) -> list[str]:
    """Return the files of the warnings, which must have this reason."""
    warnings = tracked_secrets.warnings(configured, "host")
    assert all(f" is a secret, and {reason}: " in warning for warning in warnings), warnings
    return [warning.partition(" is a secret, and ")[0] for warning in warnings]


def test_each_exposed_secret_is_reported(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after ``git add``.

    Also if the deploy runs in a hook of another repository.
    """
    for name in ("id_ed25519", "known_hosts", "host.key", "host.crt", "ca.crt", "client.crt", "client.key"):
        (repository / name).touch()
    (repository / "passwords").mkdir()
    configured = settings(**FILES)
    secret_store.load_or_create(configured, "host")
    assert reported(configured, "git does not ignore it") == SECRET
    git("add", ".", directory=repository)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert reported(configured, "git tracks it") == SECRET
    monkeypatch.delenv("GIT_DIR")
    git("rm", "--quiet", "--cached", *SECRET, directory=repository)
    (repository / ".gitignore").write_text("passwords/*/*.yml\n*.key\nid_*\n")
    assert reported(configured, "") == []


def test_first_deploy_warns_of_a_store_that_the_user_created(repository: Path) -> None:
    """The warning comes before the file exists.

    Encrypted files are meant to be committed.
    """
    (repository / "passwords").mkdir()
    assert reported(settings(), "git does not ignore it") == ["passwords/host/redis.yml"]
    assert tracked_secrets.warnings(settings(redis_secrets_source="sops"), "host") == []


def test_store_and_ca_are_checked_but_no_encrypted_file(repository: Path) -> None:
    (repository / "passwords").mkdir()
    with_tls = settings(redis_tls="required", redis_tls_names=["redis.example.com"])
    paths = [str(path) for path in tracked_secrets.secret_files(with_tls, "host")]
    assert paths == ["passwords/host/redis.yml", "passwords/host/redis.tls.yml", "passwords/ca/redoubt.ca.yml"]
    assert tracked_secrets.secret_files(settings(redis_secrets_source="sops"), "host") == []


def test_missing_git_and_missing_repository_are_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "missing" / "redis.yml"
    assert tracked_secrets.git_state(path) == ""
    path.parent.mkdir()
    path.touch()
    assert tracked_secrets.git_state(path) == ""
    monkeypatch.setenv("PATH", "/nowhere")
    assert tracked_secrets.git_state(path) == ""
