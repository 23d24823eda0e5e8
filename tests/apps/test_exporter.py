"""Debian's redis_exporter, as a user with the role metrics.

It is started as docs/applications.md says.
"""

import json
from collections.abc import Iterator

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import ROOT

# The exporter's arguments from docs/applications.md.
ARGUMENTS = next(
    line for line in (ROOT / "docs" / "applications.md").read_text().splitlines() if line.startswith("ARGS=")
)
EXPORTER_PASSWORDS = "/var/lib/redis-exporter/passwords.json"
INSTALL_EXPORTER = f"""
set -e
apt-get --quiet update
apt-get --quiet --yes --no-install-recommends install prometheus-redis-exporter
echo '{ARGUMENTS.removesuffix('"')} -export-client-list"' > /etc/default/prometheus-redis-exporter
"""


@pytest.fixture(scope="module")
def exporter(redis: Instance) -> Iterator[Host]:
    """Give the host with Debian's exporter as in docs/applications.md.

    In addition it reports the client list and has the password of a second user.
    """
    redis.host.run(INSTALL_EXPORTER, check=True)
    passwords = {f"redis://{user}@127.0.0.1:6379": redis.secrets.passwords[user] for user in ("exporter", "slowlog")}
    redis.host.run(
        f"install -D -o prometheus -m 400 /dev/stdin {EXPORTER_PASSWORDS}", input=json.dumps(passwords), check=True
    )
    redis.host.run("systemctl restart prometheus-redis-exporter", check=True)
    wait_until(lambda: _scrape(redis.host, "metrics"), "the exporter answers", 30)
    yield redis.host
    redis.host.run("apt-get --quiet --yes purge prometheus-redis-exporter; rm -r /var/lib/redis-exporter", check=True)


def _scrape(host: Host, path: str) -> dict[str, float]:
    """Return the exporter's numbers by name and labels; empty if it does not answer."""
    text = host.run(f"curl --silent --fail --globoff 'http://127.0.0.1:9121/{path}'").stdout
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_exporter_reads_numbers_with_metrics_role(redis: Instance, exporter: Host) -> None:
    """Redis refuses SLOWLOG GET, and the exporter continues.

    The exporter asks for the newest entry of SLOWLOG.
    """
    redis.call("SET rq:counted x EX 60", user="queues")
    redis.call("ACL LOG RESET")
    numbers = _scrape(exporter, "metrics")
    assert numbers["redis_up"] == 1
    assert numbers["redis_connected_clients"] >= 1
    assert numbers["redis_memory_used_bytes"] > 100_000
    assert numbers["redis_memory_max_bytes"] > numbers["redis_memory_used_bytes"]
    assert numbers['redis_db_keys{db="db0"}'] >= 1
    assert numbers["redis_slowlog_length"] >= 0
    assert numbers['redis_commands_latencies_usec_count{cmd="set"}'] >= 1
    assert any(name.startswith("redis_connected_client_info{") for name in numbers)
    assert "redis_slowlog_last_id" not in numbers
    denied = "redis_acl_access_denied_cmd_total"
    assert _scrape(exporter, "metrics")[denied] - numbers[denied] == 1
    assert _denied(redis) == {("exporter", "command", "slowlog|get"): 2}


@pytest.mark.usefixtures("no_denials")
def test_exporter_with_slowlog_rule_is_denied_nothing(exporter: Host) -> None:
    numbers = _scrape(exporter, "scrape?target=redis://slowlog@127.0.0.1:6379")
    assert numbers["redis_up"] == 1
    assert numbers["redis_slowlog_last_id"] >= 0


def test_exporter_does_not_expose_its_passwords(redis: Instance, exporter: Host) -> None:
    """The exporter's arguments and environment contain no password.

    Every user of the host can see the arguments of processes. A request to the exporter can name any server.
    """
    assert _scrape(exporter, "scrape?target=redis://exporter@127.0.0.1:6379/0")["redis_up"] == 0
    process = exporter.run("cd /proc/$(pidof prometheus-redis-exporter) && cat cmdline environ", check=True).stdout
    assert not any(password in process for password in redis.secrets.passwords.values())
    assert EXPORTER_PASSWORDS in process


def _denied(redis: Instance) -> dict[tuple[str, str, str], int]:
    """Return the entries of ACL LOG: user, reason and object, with their counts."""
    with redis.client(protocol=2, decode_responses=True) as client:
        entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in client.execute_command("ACL", "LOG")]
    return {(entry["username"], entry["reason"], entry["object"]): entry["count"] for entry in entries}
