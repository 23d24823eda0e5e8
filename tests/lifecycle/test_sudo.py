"""A user who is not root deploys with sudo, and what is secret is never where other users of the host can read."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redoubt import acl
from sandbox import ssh, tools
from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.deployed_redis import Instance

OPERATOR: dict[str, Any] = {"ssh_user": "operator", "_sudo": True}

# Looks over and over, as a user without any rights, at what such a user can read: argument lists, and files where
# a deploy writes. Tells which of them ever held one of the words that it is given on standard input, and what
# turned up in directories that all can write to. Ends when standard input does.
SPY = """
import json, os, select, sys
shared = ["/tmp", "/var/tmp", "/dev/shm"]
words = [word.encode() for word in json.loads(sys.stdin.readline())]
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
def below(*tops):
    return {os.path.join(there, name) for top in tops for there, _, names in os.walk(top) for name in names}
before, new, seen, looks = below(*shared), set(), set(), 0
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
        if any(word in text for word in words):
            seen.add(path)
    looks += 1
print(json.dumps({"looks": looks, "seen": sorted(seen), "new": sorted(new)}))
"""


@contextmanager
def spying(host: Host, words: list[str]) -> Iterator[dict[str, Any]]:
    """What another user of the host can see meanwhile; filled in at the end."""
    found: dict[str, Any] = {}
    command = ssh.command(host.name, "-o", "ControlPath=none", "--", "exec python3 -c '" + SPY + "'")
    with subprocess.Popen(
        command, env=tools.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as spy:
        assert spy.stdin is not None
        assert spy.stdout is not None
        spy.stdin.write(json.dumps(words) + "\n")
        spy.stdin.flush()
        assert spy.stdout.readline() == "ready\n"
        try:
            yield found
        finally:
            spy.stdin.close()
            found.update(json.loads(spy.stdout.readline()))


def test_without_sudo_the_deploy_is_refused_in_words_and_nothing_is_changed(deployed: Host, deployer: Deployer) -> None:
    redis = Instance(deployed, deployer.secrets(deployed))
    look = "find /srv/redis /etc -xdev -not -path '*/data/*' -not -path '*/logs/*' -printf '%p %C@ %m %U\\n' | sort"
    before = redis.identity, deployed.run(look, check=True).stdout

    result = deployer.deploy(deployed, ssh_user="operator", redis_maxmemory="512mb")

    assert result.returncode == 1
    assert "the deploy runs as uid 1000 on the host and needs root" in result.stderr
    assert "_sudo = True" in result.stderr
    assert (redis.identity, deployed.run(look, check=True).stdout) == before


def test_with_sudo_all_is_deployed_and_nothing_secret_is_ever_in_sight(deployed: Host, deployer: Deployer) -> None:
    secrets = deployer.secrets(deployed)
    passwords = list(secrets.passwords.values())
    hidden = [*passwords, *map(acl.password_hash, passwords), *secrets.commands.values()]
    # As if it were the first deploy: everything travels.
    deployed.run("docker rm -f redis && docker rmi redoubt/redis:8.0.2 && rm -r /srv/redis", check=True)

    with spying(deployed, hidden) as found:
        result = deployer.deploy(deployed, **OPERATOR)

    assert result.returncode == 0, result.stderr
    assert Instance(deployed, secrets).health == "healthy"
    assert found["looks"] > 20
    assert found["seen"] == []
    ours = [path for path in found["new"] if "/runc-process" not in path]  # the engine's own, for every exec
    assert ours == [], "the deploy uses a directory that all can write to"
    # sudo writes every command to the journal.
    journal = "exec 3<&0; journalctl --boot --output cat | grep --count --fixed-strings --file /dev/fd/3"
    assert deployed.run(journal, input="\n".join([*hidden, ""])).stdout == "0\n"
    assert deployed.run("ls -A /srv/redis | grep '^[.]'").stdout == ""
    again = deployer.deploy(deployed, **OPERATOR)
    assert (again.returncode, again.changed) == (0, []), again.stderr
