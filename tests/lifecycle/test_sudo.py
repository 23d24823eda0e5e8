"""Deploys with sudo by a user without root.

Other users of the host can never read a secret.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redoubt import acl
from sandbox import ssh, tools
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import PYINFRA, Deployer, command
from tests.lifecycle.conftest import assert_no_change, remove_instance

OPERATOR: dict[str, Any] = {"ssh_user": "operator", "_sudo": True}

# Runs as a user without rights, and repeatedly reads what such a user can: argument lists, and files where a deploy
# writes. Standard input has the secrets to search for. At its end the program prints which files contained one of them,
# and which files appeared in directories that everyone can write to.
SPY = """
import json, os, select, sys
shared = ["/tmp", "/var/tmp", "/dev/shm"]
secrets = [text.encode() for text in json.loads(sys.stdin.readline())]
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
def below(*tops):
    return {os.path.join(base, name) for top in tops for base, _, names in os.walk(top) for name in names}
before, new, readable, rounds = below(*shared), set(), set(), 0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    new |= below(*shared) - before
    processes = {"/proc/" + pid + "/cmdline" for pid in os.listdir("/proc") if pid.isdigit()}
    for path in processes | below("/srv", "/etc/logrotate.d", *shared):
        try:
            with open(path, "rb") as file:
                text = file.read(1 << 16)
        except OSError:
            continue
        if any(secret in text for secret in secrets):
            readable.add(path)
    rounds += 1
print(json.dumps({"rounds": rounds, "readable": sorted(readable), "new": sorted(new)}))
"""


@contextmanager
def spying(host: Host, secrets: list[str]) -> Iterator[dict[str, Any]]:
    """Watch what another user of the host can read. The report is filled at the end."""
    report: dict[str, Any] = {}
    command = ssh.command(host.name, "-o", "ControlPath=none", "--", "exec python3 -c '" + SPY + "'")
    with subprocess.Popen(
        command, env=tools.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as spy:
        assert spy.stdin is not None
        assert spy.stdout is not None
        spy.stdin.write(json.dumps(secrets) + "\n")
        spy.stdin.flush()
        assert spy.stdout.readline() == "ready\n"
        try:
            yield report
        finally:
            spy.stdin.close()
            report.update(json.loads(spy.stdout.readline()))


def test_spy_sees_files_and_arguments(host: Host) -> None:
    """The user whose view these tests check finds what others leave readable."""
    path, word = "/dev/shm/lifecycle-secret", "another-secret"
    with spying(host, [word]) as report:
        host.run(f"umask 022; echo {word} >{path}; sleep 3; rm {path}", check=True)
    processes = [name for name in report["readable"] if re.fullmatch("/proc/[0-9]+/cmdline", name)]
    assert processes
    assert sorted({*report["readable"]} - {*processes}) == [path]
    assert path in report["new"]


def test_deploy_without_sudo_is_refused_and_changes_nothing(deployed: Host, deployer: Deployer) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    listing = "find /srv/redis /etc -xdev -not -path '*/data/*' -not -path '*/logs/*' -printf '%p %C@ %m %U\\n' | sort"
    before = redis.identity, deployed.run(listing, check=True).stdout

    result = deployer.deploy(deployed, ssh_user="operator", redis_maxmemory="512mb")

    assert result.returncode == 1
    assert "the deploy runs as uid 1000 on the host and needs root" in result.stderr
    assert "_sudo = True" in result.stderr
    assert (redis.identity, deployed.run(listing, check=True).stdout) == before


def test_password_of_sudo_needs_a_terminal(deployed: Host, deployer: Deployer) -> None:
    """Without a terminal, as in a cron job, a deploy cannot ask for sudo's password.

    In a session of its own pyinfra has no terminal, also where the tests have one.
    """
    inventory = str(deployer.inventory(deployed, **OPERATOR))
    deployed.run("mv /etc/sudoers.d/operator /root/", check=True)
    try:
        done = command("setsid", "--wait", str(PYINFRA), "--dry", inventory, "deploy.py")
    finally:
        deployed.run("mv /root/operator /etc/sudoers.d/", check=True)
    assert done.returncode == 1
    assert "sudo password: there is no terminal to ask for it" in done.stderr
    assert "Traceback" not in done.stderr


def test_deploy_with_sudo_exposes_no_secret(deployed: Host, deployer: Deployer) -> None:
    secrets = deployer.secrets(deployed)
    passwords = list(secrets.passwords.values())
    secret_values = [*passwords, *map(acl.password_hash, passwords), *secrets.commands.values()]
    # A first deploy, which sends everything.
    remove_instance(deployed, image=True)

    with spying(deployed, secret_values) as report:
        result = deployer.deploy(deployed, **OPERATOR)

    assert result.returncode == 0, result.stderr
    assert Instance(deployed, secrets).health == "healthy"
    assert report["rounds"] > 20
    assert report["readable"] == []
    ours = [path for path in report["new"] if "/runc-process" not in path]  # Docker creates it for every exec
    assert ours == [], "the deploy uses a directory that everyone can write to"
    # sudo logs every command to the journal. The search counts one line that is there.
    known = "lifecycle: no secret"
    deployed.run(f"logger '{known}'; journalctl --sync", check=True)
    journal = "exec 3<&0; journalctl --boot --output cat | grep --count --fixed-strings --file /dev/fd/3"
    assert deployed.run(journal, input="\n".join([*secret_values, known, ""])).stdout == "1\n"
    assert deployed.run("ls -A /srv/redis | grep '^[.]'").stdout == ".redoubt\n"
    # Only here does another user than root compare the host.
    assert_no_change(deployer, deployed, **OPERATOR)
