"""Valkey instead of Redis: the same settings, the same deploy and host suite."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox import images, ssh
from sandbox.hosts import Host
from tests.deployed_redis import Instance, redisctl
from tests.deployer import ROOT, Deployer, DeployResult
from tests.lifecycle.conftest import DISCARD_DATA, assert_no_change, remove_instance, settings_for

OPEN = "lacks GHSA-f4q9-j22m-xqq9 (in a cluster only) and CVE-2026-130822 (with maxmemory-clients only)"


@pytest.fixture(scope="module")
def valkey() -> dict[str, Any]:
    """Settings that deploy Debian's Valkey; everything else stays at its default."""
    return settings_for("valkey")


@pytest.fixture(scope="module")
def nine() -> dict[str, Any]:
    """Settings that deploy the Valkey of Debian testing."""
    return {**settings_for("valkey-testing"), "redis_allow_vulnerable_version": True}


@pytest.fixture(scope="module")
def own_host(start_host: Callable[..., Host]) -> Iterator[Host]:
    """A separate host, which no other module uses: Redis does not read Valkey's data."""
    host = start_host("lifecycle-valkey")
    yield host
    host.down()


@pytest.fixture(scope="module")
def result(own_host: Host, deployer: Deployer, valkey: dict[str, Any]) -> DeployResult:
    """The first deploy."""
    result = deployer.deploy(own_host, **valkey)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture
def server(own_host: Host, deployer: Deployer, result: DeployResult) -> Instance:
    """Valkey, deployed."""
    return Instance(own_host, deployer.secrets(own_host))


def test_valkey_is_deployed_with_one_warning(server: Instance, result: DeployResult) -> None:
    assert [OPEN in line for line in result.stderr.splitlines() if "GHSA" in line] == [True]
    assert server.health == "healthy"
    lines = [line.strip() for line in server.call("INFO server")]
    assert any(line.startswith("valkey_version:") for line in lines)
    assert "redis_version:7.2.4" in lines


def test_host_suite_passes_on_valkey(server: Instance, deployer: Deployer, valkey: dict[str, Any]) -> None:
    """The whole suite as an operator runs it, with the tests that write and disrupt."""
    inventory = deployer.inventory(server.host, **valkey)
    command = [sys.executable, "-m", "pytest", "tests/host", "--inventory", str(inventory), "--writes", "--disrupts"]
    completed = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    counts = re.search(r"^=+ (\d+) passed, (\d+) deselected in", completed.stdout, re.MULTILINE)
    assert counts, completed.stdout[-2000:]
    # Only tests that a container cannot run are deselected: of the kernel, and of other addresses than loopback.
    assert int(counts[1]) > 10 * int(counts[2])


def test_valkey_data_is_backed_up_and_restored(server: Instance) -> None:
    server.check_backup_and_restore()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"redis_engine": "redis"}, "contains Valkey, but redis_engine = 'redis': set redis_engine = 'valkey'"),
        (
            {"redis_image": images.redis_reference, "redis_image_archive": images.redis_archive},
            "contains Redis, but redis_engine = 'valkey': set redis_engine = 'redis'",
        ),
        (
            {
                "redis_image": "docker.io/library/redis:8",
                "redis_image_source": "registry",
                "redis_image_archive": None,
            },
            "redis_image = 'docker.io/library/redis:8' contains Redis",
        ),
    ],
    ids=["Valkey for redis", "Redis for valkey", "Redis by its name"],
)
def test_image_with_the_other_engine_is_refused(
    server: Instance, deployer: Deployer, valkey: dict[str, Any], data: dict[str, Any], words: str
) -> None:
    before = server.identity
    changes = {key: str(value()) if callable(value) else value for key, value in data.items()}
    refused = deployer.deploy(server.host, **{**valkey, **changes})
    assert refused.returncode == 1
    assert "Nothing was changed on any host. Fix these problems first:" in refused.stderr
    assert words in refused.stderr
    assert server.identity == before


def test_unnamed_image_with_the_other_engine_is_refused(
    server: Instance, deployer: Deployer, valkey: dict[str, Any]
) -> None:
    """Only the image itself shows its engine, and only on the host."""
    before = server.identity
    name = "registry.example.com/cache:blue"
    server.host.run(f"docker tag {valkey['redis_image']} {name}", check=True)
    unnamed: dict[str, Any] = {"redis_image": name, "redis_image_source": "registry", "redis_image_archive": None}
    refused = deployer.deploy(server.host, **unnamed)
    assert refused.returncode == 1
    assert f"redis_image = '{name}' contains Valkey, but redis_engine = 'redis'" in refused.stderr
    assert server.identity == before
    accepted = deployer.deploy(server.host, **unnamed, redis_engine="valkey")
    assert accepted.returncode == 0, accepted.stderr


def test_valkey_is_refused_for_data_that_it_cannot_read(
    deployed: Host, deployer: Deployer, valkey: dict[str, Any]
) -> None:
    """Valkey would not start, and Redis would be gone."""
    redis = Instance(deployed, deployer.secrets(deployed))
    before = redis.identity
    refused = deployer.deploy(deployed, **valkey)
    assert refused.returncode == 1
    assert "Nothing was changed on any host. Fix these problems first:" in refused.stderr
    assert (
        "Redis 7.4 or newer wrote the data in /srv/redis/data/live (REDIS0012), and Valkey does not read it"
        in refused.stderr
    )
    assert redis.identity == before
    assert redis.health == "healthy"


def test_import_from_a_newer_redis_is_refused_with_its_error(server: Instance) -> None:
    host = server.host
    with images.redis_archive().open("rb") as file:
        load = ssh.command(host.name, "--", "docker load --quiet")
        subprocess.run(load, env=ssh.environment(), stdin=file, stdout=subprocess.DEVNULL, timeout=120, check=True)
    reference = images.redis_reference()
    try:
        host.run(
            f"docker run -d --name other --network host {reference} redis-server --port 6391 --save ''", check=True
        )
        host.run("until docker exec other redis-cli -p 6391 SET key value; do sleep 0.1; done", check=True, timeout=10)
        refused = host.run("redisctl import start --from 127.0.0.1:6391", input="")
    finally:
        host.run(f"docker rm -f other; docker rmi {reference}")
    assert refused.returncode == 3
    assert "Can't handle RDB format version 12" in refused.stderr
    assert "deploy a newer redis_image first" in refused.stderr
    assert host.run("docker ps --all --format '{{.Names}}'; ls -d /srv/redis/import").stdout.split() == ["redis"]


def test_valkey_9_starts_empty_and_keeps_data_of_a_user(
    own_host: Host, deployer: Deployer, nine: dict[str, Any]
) -> None:
    """Valkey 9 starts empty, and keeps the data of a user.

    It is the Valkey of the next Debian, which may lack fixes.
    """
    remove_instance(own_host)
    server = deployer.instance(own_host, **nine)
    assert server.health == "healthy"
    version = nine["redis_image"].rpartition(":")[2]
    assert int(version.partition(".")[0]) >= 9
    assert f"valkey_version:{version}" in [line.strip() for line in server.call("INFO server")]

    before = server.identity
    shop: dict[str, Any] = {"redis_users": {"shop": {"role": "session", "keys": ["shop:*"]}}}
    applied = deployer.deploy(own_host, **nine, **shop)
    assert applied.returncode == 0, applied.stderr
    assert server.identity == before
    server = Instance(own_host, deployer.secrets(own_host, **shop))
    assert server.call("SET shop:1 kept EX 7200", user="shop") == ["OK"]
    assert server.call("GET elsewhere", user="shop")[0].startswith("NOPERM")
    own_host.run("docker restart redis", check=True)
    server.wait_until_healthy()
    assert server.call("GET shop:1", user="shop") == ["kept"]
    server.check_backup_and_restore()


CHECK = "Upgrade | Back the data up, and have the new version read it"


@dataclass(frozen=True)
class Upgrade:
    """An upgrade from Valkey 8.1 to 9: the plan, and the deploy.

    The data is a session and a job.
    """

    server: Instance
    planned: DeployResult
    backups_of_the_plan: int
    result: DeployResult


@pytest.fixture(scope="module")
def upgrade(own_host: Host, deployer: Deployer, valkey: dict[str, Any], nine: dict[str, Any]) -> Upgrade:
    remove_instance(own_host)
    assert deployer.deploy(own_host, **valkey).returncode == 0
    server = Instance(own_host, deployer.secrets(own_host))
    assert server.call("SET app:session:1 kept EX 7200", user="sessions") == ["OK"]
    assert server.call("RPUSH rq:queue:default job", "SET rq:job:1 data", user="queues") == ["1", "OK"]
    planned = deployer.deploy(own_host, arguments=("--dry",), **nine)
    return Upgrade(server, planned, len(backups(server)), deployer.deploy(own_host, **nine))


def backups(server: Instance) -> list[dict[str, Any]]:
    """Return the backups, the newest first."""
    newest_first: list[dict[str, Any]] = redisctl(server, "backup list")["backups"]
    return newest_first


def assert_runs(server: Instance, version: str) -> None:
    assert any(line.startswith(f"valkey_version:{version}.") for line in server.call("INFO server"))


def test_new_version_starts_with_backed_up_data_that_it_read(upgrade: Upgrade) -> None:
    assert "runs Valkey 8.1" in upgrade.planned.stderr, upgrade.planned.stderr
    assert upgrade.backups_of_the_plan == 0
    assert upgrade.result.returncode == 0, upgrade.result.stderr
    assert CHECK in upgrade.result.changed
    server = upgrade.server
    assert_runs(server, "9")
    assert server.call("GET app:session:1", user="sessions") == ["kept"]
    assert server.call("LRANGE rq:queue:default 0 -1", "GET rq:job:1", user="queues") == ["job", "data"]
    (backup,) = backups(server)
    assert (backup["version"][:4], backup["keys"], backup["verified"]["verdict"]) == ("8.1.", 3, "ok")


def test_version_that_cannot_read_the_data_is_refused(
    upgrade: Upgrade, deployer: Deployer, valkey: dict[str, Any]
) -> None:
    """A refused version that cannot read the data changes no file.

    So a deploy of the version that runs has nothing to change.
    """
    server = upgrade.server
    paths = "config secrets compose.yml redisctl redisctl.json settings.json rollback* /etc/systemd /etc/logrotate.d"
    list_files = f"cd /srv/redis && find {paths} -printf '%p %C@\\n' 2>/dev/null | sort"
    before = server.identity, server.host.run(list_files).stdout
    refused = deployer.deploy(server.host, **valkey, redis_maxmemory="300mb")
    assert refused.returncode == 1
    assert f"operation: {CHECK}" in refused.stderr
    assert "does not read backup" in refused.stderr, refused.stderr
    assert "Can't handle RDB format version 80" in refused.stderr or "Wrong signature" in refused.stderr
    assert "The running Redis was left alone" in refused.stderr
    assert (server.identity, server.host.run(list_files).stdout) == before
    assert server.health == "healthy"
    # The older version's verdict does not count against the backup.
    assert all(backup["verified"]["verdict"] == "ok" for backup in backups(server))


def test_downgrade_restores_the_backup_before_the_upgrade(
    upgrade: Upgrade, deployer: Deployer, valkey: dict[str, Any], nine: dict[str, Any]
) -> None:
    """The steps of docs/upgrades.md."""
    server, host = upgrade.server, upgrade.server.host
    (backup_id,) = [backup["id"] for backup in backups(server) if backup["version"].startswith("8.1.")]
    assert server.call("SET app:session:2 later EX 7200", user="sessions") == ["OK"]
    stopped = deployer.deploy(host, job="day2/stop.py", **nine)
    assert stopped.returncode == 0, stopped.stderr
    host.run("mv /srv/redis/data/live /srv/redis/data/live.newer", check=True)
    refused = deployer.deploy(host, **valkey)
    assert "data/live is missing, and redis was deployed on this host: it would start empty" in refused.stderr
    back = deployer.deploy(host, **valkey, redis_allow_data_loss="empty")
    assert back.returncode == 0, back.stderr
    host.run(f"redisctl restore {backup_id} --yes", check=True)
    assert_runs(server, "8.1")
    assert server.call("GET app:session:1", "EXISTS app:session:2", user="sessions") == ["kept", "0"]
    assert server.call("LRANGE rq:queue:default 0 -1", user="queues") == ["job"]
    host.run("rm -r /srv/redis/data/live.newer", check=True)


def test_upgrade_without_verification_still_takes_a_backup(
    upgrade: Upgrade, deployer: Deployer, valkey: dict[str, Any], nine: dict[str, Any]
) -> None:
    server, host = upgrade.server, upgrade.server.host
    host.run(f"{DISCARD_DATA}; rm -rf /srv/redis/backups", check=True)
    assert deployer.deploy(host, **valkey).returncode == 0
    assert server.call("SET app:session:1 kept EX 7200", user="sessions") == ["OK"]
    upgraded = deployer.deploy(host, **nine, redis_upgrade_verify=False)
    assert upgraded.returncode == 0, upgraded.stderr
    assert_runs(server, "9")
    assert server.call("GET app:session:1", user="sessions") == ["kept"]
    (backup,) = backups(server)
    assert (backup["version"][:4], backup["stored"]["db0"]["keys"], backup["verified"]) == ("8.1.", 1, {})
    # The setting was for one deploy.
    assert_no_change(deployer, host, **nine)


def test_upgrade_of_a_stopped_redis_warns_of_no_backup(
    upgrade: Upgrade, deployer: Deployer, valkey: dict[str, Any], nine: dict[str, Any]
) -> None:
    server, host = upgrade.server, upgrade.server.host
    host.run(f"{DISCARD_DATA}; rm -rf /srv/redis/backups", check=True)
    first = deployer.deploy(host, **valkey)
    assert (first.returncode, "there is no backup" in first.stderr) == (0, False), first.stderr
    assert server.call("SET app:session:1 kept EX 7200", user="sessions") == ["OK"]
    host.run("docker stop redis", check=True)
    upgraded = deployer.deploy(host, **nine)
    assert upgraded.returncode == 0, upgraded.stderr
    assert "no Redis serves the data in /srv/redis/data/live: there is no backup of it before" in upgraded.stderr
    assert server.call("GET app:session:1", user="sessions") == ["kept"]
    assert backups(server) == []
    # The warning belongs to the upgrade.
    assert "there is no backup" not in assert_no_change(deployer, host, **nine).stderr
