"""The defects of setups in the field, each with the test that shows that this one does not have it.

- A comment behind a directive is fatal: test_health.py (refused while the old Redis serves), host/test_config.py.
- `user default off` with requirepass lets nobody in: test_default_user.py, host/test_access.py (every user logs in).
- A health check that cannot fail: test_health.py, host/test_health.py.
- Renamed and disabled commands that the setup's own tools call: this file.
- A backup without appendonlydir, the AOF turned on over a lone dump.rdb: test_persistence.py, host/test_persistence.py.
- maxmemory equal to the container's limit: test_memory.py, test_refusals.py.
- Passwords in arguments: test_sudo.py (during a deploy), host/test_secrets.py (ever after).
- RQ's worker without its channel: host/test_queues.py (a real worker), host/test_access.py.
- An image without bash, without REDIS_PASSWORD_FILE, with another group: host/test_health.py (sh runs the check),
  host/test_directories.py (owners are numbers).
- File secrets that Compose does not protect: host/test_secrets.py, host/test_directories.py.
- A mounted file that a change does not reach: this file.

Not in that list, and worse: transactions in the AOF that a default user without rights may not replay, see
lifecycle/test_persistence.py.
"""

from typing import Any

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.instance import Instance, wait_until

# Everything that may have another name and that Redoubt itself could want to call.
RENAMED: dict[str, Any] = {
    "redis_renamed_commands": [
        *("CONFIG", "SHUTDOWN", "BGSAVE", "BGREWRITEAOF", "SAVE", "LASTSAVE", "SLOWLOG", "LATENCY", "MEMORY"),
        *("MONITOR", "KEYS", "DBSIZE", "SCAN", "REPLICAOF"),
    ],
    "redis_health_interval": 1,
    "redis_health_retries": 2,
}


def test_all_that_redoubt_does_itself_works_under_other_names(host: Host, deployer: Deployer) -> None:
    result = deployer.deploy(host, **RENAMED, redis_appendonly=False, redis_allow_loss="persistence")
    assert result.returncode == 0, result.stderr
    redis = Instance(host, deployer.secrets(host, **RENAMED))
    assert redis.call("BGSAVE")[0].startswith("ERR unknown command")
    redis.call("SET rq:renamed kept", user="queues")

    # A snapshot that failed is taken again: BGSAVE.
    host.run("chown 0:0 /srv/redis/data && chmod 755 /srv/redis/data", check=True)
    redis.call(redis.secrets.name_of("BGSAVE"))
    wait_until(lambda: redis.health == "unhealthy", "Redis is unhealthy without its snapshot", 20)
    result = deployer.deploy(host, **RENAMED, redis_appendonly=False, redis_allow_loss="persistence")
    assert result.returncode == 0, result.stderr
    # What was changed by hand is seen, and the AOF is written before it is read: CONFIG and INFO.
    redis.call(f"{redis.secrets.name_of('CONFIG')} SET maxmemory-samples 3")
    result = deployer.deploy(host, **RENAMED)
    assert result.returncode == 0, result.stderr
    assert "runs with maxmemory-samples = '3'" in result.stderr
    assert redis.config("maxmemory-samples") == "10"
    assert redis.call("GET rq:renamed", user="queues") == ["kept"]
    again = deployer.deploy(host, **RENAMED)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_a_changed_setting_reaches_redis_and_its_file_in_the_container(deployed: Host, deployer: Deployer) -> None:
    result = deployer.deploy(deployed, redis_maxmemory_samples=7)
    assert result.returncode == 0, result.stderr
    redis = Instance(deployed, deployer.secrets(deployed))
    assert redis.config("maxmemory-samples") == "7"
    assert "maxmemory-samples 7\n" in deployed.run("docker exec redis cat /etc/redis/redis.conf", check=True).stdout
    again = deployer.deploy(deployed, redis_maxmemory_samples=7)
    assert (again.returncode, again.changed) == (0, []), again.stderr
