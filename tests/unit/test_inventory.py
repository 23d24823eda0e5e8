"""From a pyinfra inventory to the hosts under test, and what tests may do there."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.inventory import (
    PROJECT,
    BridgeError,
    Entry,
    NoHostsError,
    is_disposable,
    marks_left_out,
    name_in,
    named,
    read_inventory,
    scrubbed,
    ssh_config,
    unlisted,
)

SOCKETS = Path("/tmp/rd-x")


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Return an inventory with settings for all hosts and for one."""
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data" / "all.py").write_text('redis_maxmemory = "2gb"\nssh_user = "ops"\n')
    file = tmp_path / "hosts.py"
    file.write_text('redis = ["plain", ("own", {"redis_port": 7000, "_sudo": True}), "@local"]\n')
    return file


def effective(entry: Entry, tmp_path: Path, given: Path | None = None) -> dict[str, str]:
    """Return the configuration as ssh itself understands it."""
    config = tmp_path / "ssh_config"
    config.write_text(ssh_config([entry], SOCKETS, given))
    shown = subprocess.run(["ssh", "-G", "-F", config, entry.alias], capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)


def test_hosts_of_an_inventory_have_their_settings(inventory: Path) -> None:
    assert {entry.name: entry.data for entry in read_inventory(str(inventory))} == {
        "plain": {"redis_maxmemory": "2gb", "ssh_user": "ops"},
        "own": {"redis_maxmemory": "2gb", "ssh_user": "ops", "redis_port": 7000, "_sudo": True},
        "@local": {"redis_maxmemory": "2gb", "ssh_user": "ops"},
    }


def test_unlisted_host_gets_the_settings_for_all_hosts(inventory: Path) -> None:
    (entry,) = unlisted(["elsewhere"], str(inventory))
    assert (entry.name, entry.data["redis_maxmemory"], entry.listed) == ("elsewhere", "2gb", False)


def test_inventory_without_hosts_is_an_error(inventory: Path) -> None:
    inventory.write_text("redis = []\n")
    with pytest.raises(NoHostsError, match="names no host"):
        read_inventory(str(inventory))


def test_misspelt_inventory_is_an_error() -> None:
    with pytest.raises(BridgeError, match="there is no inventory"):
        read_inventory("inventory/prodution.py")


def test_misspelt_inventory_ends_the_run_with_one_line() -> None:
    command = [sys.executable, "-m", "pytest", "tests/host", "--inventory", "inventory/prodution.py"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (pytest.ExitCode.USAGE_ERROR, "")
    assert done.stderr.strip() == "ERROR: there is no inventory inventory/prodution.py"


def test_invalid_inventory_shows_the_error(inventory: Path) -> None:
    inventory.write_text("redis = [nonsense]\n")
    with pytest.raises(BridgeError, match="name 'nonsense' is not defined"):
        read_inventory(str(inventory))


@pytest.mark.parametrize(
    ("inventory", "disposable"),
    [
        ("inventory", True),
        ("inventory/hosts.py", True),
        ("./inventory/../inventory/hosts.py", True),
        ("inventory/production.py", False),
        ("/tmp/hosts.py", False),
    ],
)
def test_only_the_default_inventory_is_disposable(inventory: str, disposable: bool) -> None:
    assert is_disposable(inventory) == disposable


@pytest.mark.parametrize(
    ("entry", "spec"),
    [
        (Entry("redis-1"), "ssh://redis-1"),
        (Entry("redis-1", {"_sudo": True}), "ssh://redis-1?sudo=true"),
        (Entry("@local"), "local://"),
        (Entry("@local", {"_sudo": True}), "local://?sudo=true"),
        (Entry("fd00::1"), "ssh://fd00__1"),
    ],
)
def test_host_becomes_a_specification(entry: Entry, spec: str) -> None:
    assert entry.spec == spec


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("redis-1", "redis-1"),
        ("ssh://ops@Redis-1:2222?sudo=true", "Redis-1"),
        ("ssh://[fd00::1]:22", "fd00::1"),
        ("local://", "@local"),
    ],
)
def test_specification_names_a_host(spec: str, name: str) -> None:
    assert name_in(spec) == name


@pytest.mark.parametrize("spec", ["docker://redis", "paramiko://redis-1", "ssh://", ""])
def test_other_specifications_are_refused(spec: str) -> None:
    with pytest.raises(BridgeError, match="--hosts"):
        name_in(spec)


def test_named_hosts_get_their_inventory_data() -> None:
    known = Entry("redis-1", {"_sudo": True})
    listed, missing = named(["redis-1", "ssh://root@redis-1:22?sudo=false", "ssh://other"], [known])
    assert listed == [("ssh://redis-1?sudo=true", known), ("ssh://root@redis-1:22?sudo=false", known)]
    assert missing == ["other"]


def test_ssh_connects_as_the_deploy_does(tmp_path: Path) -> None:
    data = {
        "ssh_hostname": "192.0.2.7",
        "ssh_port": 2222,
        "ssh_user": "ops",
        "ssh_key": "/keys/id",
        "ssh_known_hosts_file": "/keys/known",
        "ssh_strict_host_key_checking": "yes",
    }
    options = effective(Entry("redis-1", data), tmp_path)
    expected = {
        "hostname": "192.0.2.7",
        "port": "2222",
        "user": "ops",
        "identityfile": "/keys/id",
        "identitiesonly": "yes",
        "userknownhostsfile": "/keys/known",
        "stricthostkeychecking": "true",
        "controlpath": f"{SOCKETS}/0",
        "controlmaster": "auto",
        "batchmode": "yes",
    }
    assert {key: options[key] for key in expected} == expected


def test_user_ssh_config_applies_by_name(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("Host redis-1\n  HostName 192.0.2.9\n  User theirs\n")
    options = effective(Entry("redis-1", {"ssh_config_file": str(own), "ssh_user": "ops"}), tmp_path)
    assert (options["hostname"], options["user"]) == ("192.0.2.9", "ops")


def test_user_ssh_config_applies_by_address(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("Host 192.0.2.7\n  ProxyJump bastion\n")
    options = effective(Entry("redis-1", {"ssh_config_file": str(own), "ssh_hostname": "192.0.2.7"}), tmp_path)
    assert options["proxyjump"] == "bastion"


def test_given_ssh_config_replaces_the_users(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("Host redis-1\n  User theirs\n")
    assert effective(Entry("redis-1"), tmp_path, given)["user"] == "theirs"


def test_new_host_keys_are_accepted_as_in_a_deploy(tmp_path: Path) -> None:
    assert effective(Entry("redis-1"), tmp_path)["stricthostkeychecking"] == "accept-new"


def test_login_by_password_is_refused() -> None:
    with pytest.raises(BridgeError, match="need a key") as error:
        ssh_config([Entry("redis-1", {"ssh_password": "hunter2"})], SOCKETS)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("disposable", "writes", "disrupts", "left_out"),
    [
        (True, None, None, []),
        (False, None, None, ["disrupts", "writes"]),
        (False, True, None, ["disrupts"]),
        (False, True, True, []),
        (True, None, False, ["disrupts"]),
        (True, False, False, ["disrupts", "writes"]),
    ],
)
def test_only_disposable_hosts_are_changed_by_default(
    disposable: bool, writes: bool | None, disrupts: bool | None, left_out: list[str]
) -> None:
    marks = ["writes", "disrupts", "parametrize"]
    assert marks_left_out(marks, disposable=disposable, writes=writes, disrupts=disrupts) == left_out


def test_test_without_marks_is_never_left_out() -> None:
    assert marks_left_out([], disposable=False, writes=None, disrupts=None) == []


def test_secrets_are_removed_from_reports() -> None:
    assert scrubbed("a hunter2 b", ["hunter2", "absent"]) == "a [secret] b"
