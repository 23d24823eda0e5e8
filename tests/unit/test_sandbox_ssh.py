"""SSH to disposable hosts: the client's configuration, and host keys and ids."""

import io
import subprocess
from pathlib import Path

import paramiko
import pytest

from sandbox import ssh, ssh_identity

ENTRIES = (
    ssh.Entry("redoubt-1", 22001, Path("/some where/hosts/redoubt-1/known_hosts")),
    ssh.Entry("redoubt-10", 22002, Path("/some where/hosts/redoubt-10/known_hosts")),
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "ssh_config"
    path.write_text(ssh.render_config(ENTRIES, key=Path("/some where/key"), sockets=Path("/run/x")))
    return path


def test_ssh_understands_the_config(config: Path) -> None:
    answer = subprocess.run(["ssh", "-G", "-F", config, "redoubt-10"], capture_output=True, text=True, check=True)
    settings = dict(line.split(" ", 1) for line in answer.stdout.splitlines())
    assert settings["hostname"] == "127.0.0.1"
    assert settings["port"] == "22002"
    assert settings["user"] == "root"
    assert settings["identityfile"] == "/some where/key"
    assert settings["identitiesonly"] == "yes"
    assert settings["userknownhostsfile"] == "/some where/hosts/redoubt-10/known_hosts"
    assert settings["stricthostkeychecking"] in ("true", "yes")
    assert settings["controlpath"] == "/run/x/redoubt-10@root"


def test_paramiko_understands_the_config(config: Path) -> None:
    settings = paramiko.SSHConfig.from_path(str(config)).lookup("redoubt-1")
    assert (settings["hostname"], settings["port"], settings["user"]) == ("127.0.0.1", "22001", "root")


def test_known_hosts_accepts_only_the_key_and_port(tmp_path: Path) -> None:
    pair, other = ssh.generate(), ssh.generate()
    known = tmp_path / "known_hosts"
    known.write_text(ssh.known_hosts_line(22001, pair.public))
    keys = paramiko.HostKeys(str(known))

    def key(pair: ssh.KeyPair) -> paramiko.PKey:
        return paramiko.Ed25519Key.from_private_key(io.StringIO(pair.private))

    assert keys.check("[127.0.0.1]:22001", key(pair))
    assert not keys.check("[127.0.0.1]:22001", key(other))
    assert not keys.check("[127.0.0.1]:22002", key(pair))


def test_host_keys_are_private() -> None:
    pair = ssh.generate()
    files = {file.path: file for file in ssh_identity.files(pair, "ssh-ed25519 AAAA\n")}
    assert files["/etc/ssh/ssh_host_ed25519_key"].mode == 0o600
    assert files["/etc/ssh/ssh_host_ed25519_key"].text == pair.private
    assert pair.private not in repr(files)
    assert files["/root/.ssh/authorized_keys"].uid == 0
    assert files["/home/operator/.ssh/authorized_keys"].uid == 1000


def test_hosts_have_different_machine_ids() -> None:
    first, second = (
        {file.path: file.text for file in ssh_identity.files(ssh.generate(), "")}["/etc/machine-id"] for _ in range(2)
    )
    assert first != second
