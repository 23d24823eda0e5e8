"""Repairs of manual changes: a deploy names every change, and keeps the data.

A round does some harms to a deployed host and then deploys. The deploy must name every harm, change exactly the
operations that repair them, and restart Redis only if it has to. The test checks files, Docker's answers and a client's
data by itself. A second deploy must change nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis import Redis

from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployed_redis import Instance, tunnel
from tests.deployer import Deployer
from tests.lifecycle.expected_files import FILES, TREE, digests, looks

ROOT_DIRECTORY = "Directories | Create the root directory"
DIRECTORIES = "Directories | Create the directories"
REDISCTL = "redisctl | Install redisctl"
RECOVERY_UNITS = "redisctl | Write the units that finish interruptions"
RECOVERY = "redisctl | Finish interruptions at boot"
IMAGE = "Image | Load the image from its archive"
ACL = "Access | Write the ACL file"
USERS = "Access | Set the users of the running Redis"
SECRETS = "Secrets | Write the secrets"
CONFIG = "Config | Write redis.conf and the health check"
DEFRAG = "Config | Find out whether the image can defragment memory"
LOGS = "Logs | Write what rotates the log file"
ROTATION = "Logs | Rotate the log file every hour"
NETWORK_FILTER = "Network | Write the network filter"
LOAD_NETWORK_FILTER = "Network | Load the network filter"
CHANGE = "Service | Change the running Redis"
COMPOSE = "Service | Write the Compose project"
SAVE = "Rollback | Save the configuration of the running Redis"
START = "Service | Start Redis and wait until it is healthy"
TIMER_UNITS = "Backup | Write the units that take backups"
TIMER = "Backup | Schedule backups"
RECORD = "Record | Record the deployed settings"

# Without its marker and its container, an instance is not known to own the root: test_preflight.py.
REMOVED = [path for path in FILES if not path.endswith(".redoubt")]

# After a pause Docker reports Redis as unhealthy until the next health check.
SETTINGS: dict[str, Any] = {"redis_health_interval": 3}


@dataclass(frozen=True)
class Harm:
    """A change by hand, and the reasons that a deploy must print.

    ``redis`` are commands of the admin, where ``{config}`` is the new name of CONFIG. ``shell`` runs on the host.
    """

    name: str
    reasons: tuple[str, ...]
    shell: str = ""
    redis: tuple[str, ...] = ()


@dataclass(frozen=True)
class Round:
    """Harms that one deploy repairs, its operations, and whether Redis restarts."""

    harms: tuple[Harm, ...]
    changes: tuple[str, ...]
    restarts: bool


ROUNDS = {
    "owners, modes and kernel limits": Round(
        (
            Harm(
                "owners and modes",
                shell="; ".join(f"chown 1:1 {path}; chmod 777 {path}" for path in TREE),
                reasons=tuple(
                    f"{path}: {reason}"
                    for path, (mode, owner) in TREE.items()
                    for reason in (f"owner 1:1, should be {owner}", f"mode 0777, should be 0{mode}")
                ),
            ),
            Harm(
                "a limit in the kernel, which Docker does not check",
                # For versions 2 and 1 of cgroups.
                shell="pid=$(docker inspect --format '{{{{.State.Pid}}}}' redis); cd /sys/fs/cgroup; "
                "if [ -e cgroup.controllers ]; "
                "then echo max >.$(sed -n 's/^0:://p' /proc/$pid/cgroup)/memory.swap.max; "
                "else echo -1 >memory$(sed -n 's/.*:memory://p' /proc/$pid/cgroup)/memory.memsw.limit_in_bytes; fi",
                reasons=("redis is limited by the kernel to swap = no limit, the settings say 0",),
            ),
        ),
        changes=(
            *(
                ROOT_DIRECTORY,
                REDISCTL,
                RECOVERY_UNITS,
                DIRECTORIES,
                ACL,
                SECRETS,
                CONFIG,
                DEFRAG,
                LOGS,
                NETWORK_FILTER,
            ),
            *(CHANGE, COMPOSE, TIMER_UNITS, RECORD),
        ),
        restarts=False,
    ),
    "edited files and units": Round(
        (
            Harm(
                "edited files",
                shell="cd /srv/redis && sed -i s/volatile-lru/noeviction/ config/redis.conf && "
                "echo 'user eve on nopass ~* +@all' >>config/users.acl && "
                "sed -i 's/cap_drop: .*/privileged: true/' compose.yml && "
                "printf '#!/bin/sh\\nexit 0\\n' >config/healthcheck.sh && "
                "sed -i s/daily/yearly/ /etc/logrotate.d/redis && "
                "echo guessed >secrets/sessions && sed -i 's/ no$/ yes/' config/activedefrag.conf",
                reasons=(
                    "/srv/redis/config/redis.conf: content differs",
                    "/srv/redis/config/users.acl: content differs",
                    "/srv/redis/compose.yml: content differs",
                    "/srv/redis/config/healthcheck.sh: content differs",
                    "/etc/logrotate.d/redis: content differs",
                    "/srv/redis/secrets/sessions: content differs",
                    "/srv/redis/config/activedefrag.conf: not known for this image",
                ),
            ),
            Harm(
                "an edited schedule of backups and an edited recovery unit",
                shell="cd /etc/systemd/system && sed -i s/03:00/04:00/ redis-backup.timer && "
                "systemctl daemon-reload && sed -i 's/ backup$/ health/' redis-backup.service && "
                "sed -i s/data/other/ redis-recover.path",
                reasons=(
                    "/etc/systemd/system/redis-backup.timer: content differs",
                    "/etc/systemd/system/redis-backup.service: content differs",
                    "redis-backup.timer has changed since systemd loaded it",
                    "/etc/systemd/system/redis-recover.path: content differs",
                    "redis-recover.path has changed since systemd loaded it",
                ),
            ),
        ),
        changes=(
            *(RECOVERY_UNITS, RECOVERY, ACL, SECRETS, CONFIG, DEFRAG, LOGS, COMPOSE),
            *(TIMER_UNITS, TIMER),
        ),
        restarts=False,
    ),
    "limits, settings and users of the running Redis": Round(
        (
            Harm(
                "limits and settings of the running Redis",
                shell="docker update --memory 1g --memory-swap 1g --pids-limit 500 --restart no redis",
                redis=("{config} SET maxmemory-policy noeviction",),
                reasons=(
                    "redis has the limit Memory = 1073741824, the settings say 1744830464",
                    "redis has the limit PidsLimit = 500, the settings say 128",
                    "redis has the limit RestartPolicy = 'no', the settings say 'unless-stopped'",
                    "redis runs with maxmemory-policy = 'noeviction', the settings say 'volatile-lru'",
                ),
            ),
            Harm(
                "users of the running Redis",
                redis=(
                    "ACL SETUSER eve on nopass ~* +@all",
                    "ACL SETUSER sessions +keys ~*",
                    "ACL SETUSER queues resetpass >another",
                    "ACL SETUSER admin >second",
                ),
                reasons=(
                    "redis has the user eve, which is not in the settings",
                    "redis has the user sessions with other rules (+keys ~* ~app:session:*)",
                    "redis has other passwords for queues",
                    "redis has other passwords for admin",
                ),
            ),
            Harm(
                "an edited Compose file, which the running container is not from",
                shell="sed -i 's/cap_drop: .*/privileged: true/' compose.yml",
                reasons=("/srv/redis/compose.yml: content differs",),
            ),
        ),
        changes=(USERS, CHANGE, COMPOSE),
        restarts=False,
    ),
    "killed, and disabled units": Round(
        (
            Harm("a killed container", shell="docker kill redis", reasons=("redis is exited",)),
            Harm(
                "disabled units",
                shell="systemctl disable --now redis-backup.timer redis-logs.timer redis-recover.path "
                "redis-recover-files.service",
                reasons=(
                    "redis-logs.timer does not start at boot",
                    "redis-logs.timer is not active",
                    "redis-backup.timer does not start at boot",
                    "redis-backup.timer is not active",
                    "redis-recover.path does not start at boot",
                    "redis-recover.path is not active",
                    "redis-recover-files.service does not start at boot",
                ),
            ),
        ),
        changes=(RECOVERY, ROTATION, START, TIMER),
        restarts=True,
    ),
    # A paused Redis does not answer, so it is recreated if a file of its configuration is newer than its start.
    "paused": Round(
        (Harm("a paused container", shell="docker pause redis", reasons=("redis is paused",)),),
        changes=(START,),
        restarts=False,
    ),
    "all files and the container removed": Round(
        (
            Harm("a removed container", shell="docker rm --force redis", reasons=("redis has no container",)),
            Harm(
                "removed files",
                shell=f"rm {' '.join(REMOVED)}",
                reasons=(
                    *(f"{path}: missing" for path in REMOVED if not path.endswith("activedefrag.conf")),
                    "/srv/redis/config/activedefrag.conf: not known for this image",
                ),
            ),
        ),
        changes=(
            *(REDISCTL, RECOVERY_UNITS, RECOVERY, ACL, SECRETS, CONFIG, DEFRAG, LOGS, ROTATION),
            *(NETWORK_FILTER, LOAD_NETWORK_FILTER, COMPOSE, START, TIMER_UNITS, TIMER, RECORD),
        ),
        restarts=True,
    ),
    "directories, a network and the backlog": Round(
        (
            Harm(
                "a start while the kernel allowed only short backlogs",
                shell="before=$(sysctl -n net.core.somaxconn); sysctl -w net.core.somaxconn=128; docker restart redis; "
                "docker compose up --detach --wait; sysctl -w net.core.somaxconn=$before",
                reasons=("redis has a backlog of 128 at 127.0.0.1:6379, the settings say 511",),
            ),
            Harm(
                "directories removed while Redis runs",
                shell="rm -r /srv/redis/logs /srv/redis/backups",
                reasons=(
                    "/srv/redis/logs: missing",
                    "/srv/redis/backups: missing",
                    "redis no longer sees /srv/redis/backups, which was replaced",
                    "redis no longer sees /srv/redis/logs, which was replaced",
                ),
            ),
            Harm(
                "a disconnected network",
                shell="docker network disconnect redis_backend redis",
                reasons=("redis is not connected to redis_backend",),
            ),
            Harm(
                "other names of renamed commands than Redis knows",
                shell="sed -i 's/^rename-command .*/&-edited/' secrets/server/commands.conf",
                reasons=(
                    "/srv/redis/secrets/server/commands.conf: content differs",
                    "redis started before secrets/server/commands.conf changed",
                ),
            ),
        ),
        changes=(DIRECTORIES, SAVE, SECRETS, START),
        restarts=True,
    ),
    "renamed, and another service": Round(
        (
            Harm(
                "a renamed container",
                shell="docker rename redis old-redis",
                reasons=("redis has a container with the name old-redis, where clients do not find it",),
            ),
            Harm(
                "a container of a service that is not in the settings",
                shell="docker run --detach --label com.docker.compose.project=redis "
                "--label com.docker.compose.service=worker --label com.docker.compose.oneoff=False "
                "--label com.docker.compose.config-hash=0 --name worker --stop-signal KILL "
                "--entrypoint sleep {image} 600",
                reasons=("worker is not in the settings",),
            ),
        ),
        changes=(START,),
        restarts=True,
    ),
    "another container, image, network and password": Round(
        (
            Harm(
                "networks with a way out, and one more",
                shell="cd /srv/redis && docker compose down && sed -i 's/internal: true/internal: false/; "
                's/enable_ip_masquerade: "false"/enable_ip_masquerade: "true"/\' compose.yml',
                reasons=(
                    "/srv/redis/compose.yml: content differs",
                    "the network redis_backend has a way out of the host",
                    "the network redis_edge has a way out of the host",
                    "redis is also connected to bridge",
                ),
            ),
            Harm(
                "a container with other options",
                shell="cd /srv/redis && "
                "echo 'services: {{redis: {{privileged: true, environment: [X=1]}}}}' >/run/by-hand.yml && "
                "docker compose -f compose.yml -f /run/by-hand.yml up --detach --wait && "
                "docker network connect bridge redis",
                reasons=(
                    "redis restarts because of what follows",
                    "the container of redis was created from another definition",
                ),
            ),
            Harm(
                "another image under the image's name",
                shell="docker commit --change 'LABEL other=1' redis {image}",
                reasons=("{image}: another image has its name",),
            ),
        ),
        changes=(IMAGE, SAVE, COMPOSE, START),
        restarts=True,
    ),
    "another image that runs, and another admin password": Round(
        (
            Harm(
                "another image, which runs",
                shell="docker commit --change 'LABEL other=1' redis {image} && "
                "cd /srv/redis && docker compose up --detach --force-recreate --wait",
                reasons=(
                    "{image}: another image has its name",
                    "redis runs another image than the present {image}",
                ),
            ),
            Harm(
                "another password of the admin",
                shell="{{ sed 's/^/AUTH admin /' secrets/admin; echo ACL SETUSER admin resetpass '>another'; }} | "
                "docker exec --interactive redis redis-cli -s /run/redis/redis.sock",
                reasons=("redis refuses the password of admin",),
            ),
        ),
        changes=(IMAGE, SAVE, START),
        restarts=True,
    ),
    "project taken down": Round(
        (
            Harm(
                "no container and no network",
                shell="cd /srv/redis && docker compose down",
                reasons=("redis has no container",),
            ),
        ),
        changes=(START,),
        restarts=True,
    ),
}


@dataclass
class Client:
    """A client at the published port, and what it wrote before the harms, by key."""

    instance: Instance
    socket: str
    values: dict[str, str] = field(default_factory=dict)
    # Whether the last test passed, so that the host is deployed as the settings say.
    is_deployed: bool = False

    def redis(self, user: str) -> Redis:
        return Redis(
            unix_socket_path=self.socket,
            username=user,
            password=self.instance.secrets.passwords[user],
            decode_responses=True,
        )

    def write(self, name: str) -> None:
        key, value = f"app:session:{name}", f"kept through: {name}"
        with self.redis("sessions") as client:
            client.set(key, value, ex=3600)
        self.values[key] = value

    def read(self) -> dict[str, str | None]:
        with self.redis("sessions") as client:
            return {key: client.get(key) for key in self.values}


@pytest.fixture(scope="module")
def session(host: Host, without_traces: None, deployer: Deployer) -> Iterator[Client]:
    """Deploy the shared host and return a client of its Redis."""
    result = deployer.deploy(host, **SETTINGS)
    assert result.returncode == 0, result.stderr
    with tunnel(host, "127.0.0.1", 6379) as path:
        yield Client(Instance(host, deployer.secrets(host)), str(path), is_deployed=True)
    host.run("docker image prune --force")


@pytest.fixture
def client(session: Client, host: Host, deployer: Deployer) -> Client:
    """Return the client of a deployed host; deploy again if the last test failed."""
    if not session.is_deployed:
        result = deployer.deploy(host, **SETTINGS)
        assert result.returncode == 0, result.stderr
    session.is_deployed = False
    return session


# The quick run has one round.
CORE = "edited files and units"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=name.replace(" ", "-"), marks=[pytest.mark.core] if name == CORE else [])
        for name in ROUNDS
    ],
)
def test_deploy_repairs_harm_and_keeps_data(
    name: str, client: Client, deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    """A deploy names and repairs each harm, and restarts Redis only if it must.

    Only the operations that repair the harms report a change.
    """
    harms, changes, restarts = ROUNDS[name].harms, ROUNDS[name].changes, ROUNDS[name].restarts
    instance, host = client.instance, client.instance.host
    image = str(instance.inspect()["Config"]["Image"])
    client.write(name)
    contents = digests(host)
    identity = instance.identity
    commands = [command.format(config=instance.secrets.renamed_command("CONFIG")) for h in harms for command in h.redis]
    if commands:
        assert instance.call(*commands) == ["OK"] * len(commands)
    for harm in harms:
        if harm.shell:
            host.run(f"cd /srv/redis; {harm.shell.format(image=image)}", check=True)

    result = deployer.deploy(host, **SETTINGS)

    assert result.returncode == 0, result.stderr
    for harm in harms:
        for reason in harm.reasons:
            assert reason.format(image=image) in result.reasons, harm.name
    assert result.changed == list(changes)
    assert looks(host) == TREE
    assert digests(host) == contents
    assert (instance.identity != identity) == restarts
    assert instance.health == "healthy"
    assert host.run("docker ps --all --format '{{.Names}}'").stdout.split() == ["redis"]
    assert client.read() == client.values
    users = sorted(line.split()[1] for line in instance.call("ACL LIST"))
    assert users == ["admin", "default", "health", "queues", "sessions"]

    before = fingerprint(host)
    again = deployer.deploy(host, **SETTINGS)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    assert fingerprint(host) == before
    client.is_deployed = True


@pytest.fixture
def removed_data(client: Client) -> Iterator[Host]:
    """Move the data away while Redis runs, and put it back however the test ends."""
    host = client.instance.host
    client.write("moved data")
    host.run("mv /srv/redis/data /srv/data-by-hand", check=True)
    yield host
    host.run("rm -rf /srv/redis/data && mv /srv/data-by-hand /srv/redis/data", check=True)


def test_removed_data_stops_the_deploy(removed_data: Host, client: Client, deployer: Deployer) -> None:
    """Redis keeps running if its data is removed: only its memory still has it.

    A deploy that is refused writes nothing where the data was.
    """
    host, identity = removed_data, client.instance.identity
    result = deployer.deploy(host, redis_maxmemory="512mb", **SETTINGS)
    assert result.returncode == 1
    assert "/srv/redis/data/live is missing, and redis still runs: its data may be in memory alone" in result.stderr
    assert host.run("ls -A /srv/redis/data").returncode != 0
    host.run("install -d /srv/redis/data/live", check=True)
    result = deployer.deploy(host, redis_maxmemory="512mb", **SETTINGS)
    assert result.returncode == 1
    assert "redis runs on a directory that is not /srv/redis/data/live any more" in result.stderr
    assert host.run("find /srv/redis/data").stdout.split() == ["/srv/redis/data", "/srv/redis/data/live"]
    assert client.instance.identity == identity
    assert client.read() == client.values


def test_network_with_foreign_containers_is_kept(client: Client, deployer: Deployer) -> None:
    """The deploy stops until the operator of a foreign container disconnects it.

    Compose could not reconnect the container.
    """
    host = client.instance.host
    image = str(client.instance.inspect()["Config"]["Image"])
    host.run(
        "cd /srv/redis && docker compose down && docker network create redis_backend "
        "--label com.docker.compose.project=redis --label com.docker.compose.network=backend && "
        "docker compose up --detach --wait && docker run --detach --name guest --network redis_backend "
        f"--stop-signal KILL --entrypoint sleep {image} 600",
        check=True,
    )
    identity = client.instance.identity
    try:
        result = deployer.deploy(host, **SETTINGS)
        assert result.returncode == 1
        assert "redis_backend must be recreated" in result.stderr
        assert "of others are on it: guest. Nothing was restarted" in result.stderr
        assert client.instance.identity == identity
    finally:
        host.run("docker rm --force guest", check=True)
    assert deployer.deploy(host, **SETTINGS).returncode == 0
    assert client.instance.inspect()["NetworkSettings"]["Networks"].keys() == {"redis_backend", "redis_edge"}
    assert host.run("docker network inspect --format '{{.Internal}}' redis_backend").stdout.strip() == "true"


def test_expected_values_are_the_default_settings() -> None:
    """TREE and the limits above are written out by hand."""
    settings = load({})
    assert (settings.root, settings.memory_limit, settings.redis_container_pids) == ("/srv/redis", 1744830464, 128)
