"""What was changed by hand is put back by the next deploy, which says why; the data stays.

Each case does some harm to a deployed host, then deploys. The deploy must name every harm, change by the operations
that mend it and no others, and leave what the test looks at by itself: files, the engine's answers, a client's data.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis import Redis

from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer
from tests.lifecycle.deployed_redis import Instance, tunnel
from tests.lifecycle.expected_files import FILES, TREE, digests, looks

DIRECTORIES = "Directories | Create the directories"
IMAGE = "Image | Load the image from its archive"
SECRETS = "Secrets | Write the secrets"
ACCESS = "Access | Write the ACL file"
CONFIG = "Config | Write redis.conf and the health check"
DEFRAG = "Config | Find out whether the image can defragment"
LOGS = "Logs | Rotate the log file"
CHANGE = "Service | Change the running Redis"
COMPOSE = "Service | Write the Compose project"
USERS = "Access | Set the users of the running Redis"
START = "Service | Start Redis and wait until it is healthy"
REDISCTL = "redisctl | Write redisctl"
UNITS = "Backup | Write the units that take backups"
TIMER = "Backup | Schedule backups"

# The engine calls a paused Redis unhealthy until the next check; nobody wants to wait half a minute for it here.
SETTINGS: dict[str, Any] = {"redis_health_interval": 3}


@dataclass(frozen=True)
class Harm:
    """What was done by hand, and what a deploy has to say and to do about it.

    ``shell`` runs on the host, ``redis`` by a client with every right; ``{config}`` is the new name of CONFIG.
    """

    name: str
    says: tuple[str, ...]
    changes: tuple[str, ...]
    shell: str = ""
    redis: tuple[str, ...] = ()
    restarts: bool = True


HARMS = [
    Harm(
        "owners and modes",
        shell="; ".join(f"chown 1:1 {path}; chmod 777 {path}" for path in TREE),
        says=tuple(
            f"{path}: {words}"
            for path, (mode, owner) in TREE.items()
            for words in (f"owner 1:1, should be {owner}", f"mode 0777, should be 0{mode}")
        ),
        changes=(DIRECTORIES, ACCESS, SECRETS, CONFIG, DEFRAG, LOGS, COMPOSE, REDISCTL, UNITS),
        restarts=False,
    ),
    Harm(
        "every file deleted, and Redis stopped",
        shell=f"docker stop redis; rm {' '.join(FILES)}",
        says=(
            *(f"{path}: missing" for path in FILES if not path.endswith("activedefrag.conf")),
            "/srv/redis/config/activedefrag.conf: not known for this image",
            "redis is exited",
        ),
        changes=(ACCESS, SECRETS, CONFIG, DEFRAG, LOGS, COMPOSE, START, REDISCTL, UNITS, TIMER),
    ),
    Harm(
        "directories deleted under Redis",
        shell="rm -r /srv/redis/logs /srv/redis/backups",
        says=(
            "/srv/redis/logs: missing",
            "/srv/redis/backups: missing",
            "redis no longer sees /srv/redis/backups, which was replaced",
            "redis no longer sees /srv/redis/logs, which was replaced",
        ),
        changes=(DIRECTORIES, START),
    ),
    Harm(
        "files edited",
        shell="cd /srv/redis && sed -i s/volatile-lru/noeviction/ config/redis.conf && "
        "echo 'user eve on nopass ~* +@all' >>config/users.acl && "
        "sed -i 's/cap_drop: .*/privileged: true/' compose.yml && "
        "printf '#!/bin/sh\\nexit 0\\n' >config/healthcheck.sh && "
        "sed -i s/daily/yearly/ /etc/logrotate.d/redis && "
        "echo guessed >secrets/sessions && sed -i 's/ no$/ yes/' config/activedefrag.conf",
        says=(
            "/srv/redis/config/redis.conf: content differs",
            "/srv/redis/config/users.acl: content differs",
            "/srv/redis/compose.yml: content differs",
            "/srv/redis/config/healthcheck.sh: content differs",
            "/etc/logrotate.d/redis: content differs",
            "/srv/redis/secrets/sessions: content differs",
            "/srv/redis/config/activedefrag.conf: not known for this image",
        ),
        changes=(ACCESS, SECRETS, CONFIG, DEFRAG, LOGS, COMPOSE),
        restarts=False,
    ),
    Harm(
        "the schedule of backups edited",
        shell="cd /etc/systemd/system && sed -i s/03:00/04:00/ redis-backup.timer && systemctl daemon-reload && "
        "sed -i 's/ backup$/ health/' redis-backup.service",
        says=(
            "/etc/systemd/system/redis-backup.timer: content differs",
            "/etc/systemd/system/redis-backup.service: content differs",
            "redis-backup.timer was changed since it was loaded",
        ),
        changes=(UNITS, TIMER),
        restarts=False,
    ),
    Harm(
        "the schedule of backups turned off",
        shell="systemctl disable --now redis-backup.timer",
        says=("redis-backup.timer is not started at boot", "redis-backup.timer is not active"),
        changes=(TIMER,),
        restarts=False,
    ),
    Harm("container killed", shell="docker kill redis", says=("redis is exited",), changes=(START,)),
    Harm("container removed", shell="docker rm -f redis", says=("redis has no container",), changes=(START,)),
    Harm("container paused", shell="docker pause redis", says=("redis is paused",), changes=(START,), restarts=False),
    Harm(
        "project taken down",
        shell="cd /srv/redis && docker compose down",
        says=("redis has no container",),
        changes=(START,),
    ),
    Harm(
        "container renamed, and one left over from before",
        shell="docker rename redis old-redis; docker run --detach --label com.docker.compose.project=redis "
        "--label com.docker.compose.service=worker --label com.docker.compose.oneoff=False "
        "--label com.docker.compose.config-hash=0 --name worker --stop-signal KILL --entrypoint sleep {image} 600",
        says=(
            "redis has a container with the name old-redis, where clients do not find it",
            "worker is not in the settings",
        ),
        changes=(START,),
    ),
    Harm(
        "container made with other options",
        shell="cd /srv/redis && echo 'services: {{redis: {{privileged: true, environment: [X=1]}}}}' >/run/by-hand.yml "
        "&& docker compose -f compose.yml -f /run/by-hand.yml up --detach --wait",
        says=("redis starts anew for what follows", "the container of redis was created from another definition"),
        changes=(START,),
    ),
    Harm(
        "limits and settings of the running Redis",
        shell="docker update --memory 1g --memory-swap 1g --pids-limit 500 --restart no redis",
        redis=("{config} SET maxmemory-policy noeviction",),
        says=(
            "redis has the limit Memory = 1073741824, the settings say 1610612736",
            "redis has the limit PidsLimit = 500, the settings say 128",
            "redis has the limit RestartPolicy = 'no', the settings say 'unless-stopped'",
            "redis runs with maxmemory-policy = 'noeviction', the settings say 'volatile-lru'",
        ),
        changes=(CHANGE,),
        restarts=False,
    ),
    Harm(
        "networks of the running Redis",
        shell="docker network disconnect redis_backend redis",
        says=("redis is not connected to redis_backend",),
        changes=(START,),
    ),
    Harm(
        "limits in the kernel, which the engine does not look at",
        # By version 2 or 1 of cgroups.
        shell="pid=$(docker inspect --format '{{{{.State.Pid}}}}' redis); cd /sys/fs/cgroup; "
        "if [ -e cgroup.controllers ]; then echo max >.$(sed -n 's/^0:://p' /proc/$pid/cgroup)/memory.swap.max; "
        "else echo -1 >memory$(sed -n 's/.*:memory://p' /proc/$pid/cgroup)/memory.memsw.limit_in_bytes; fi",
        says=("redis is limited by the kernel to swap = no limit, the settings say 0",),
        changes=(CHANGE,),
        restarts=False,
    ),
    Harm(
        "started while the kernel gave short queues",
        shell="before=$(sysctl -n net.core.somaxconn); sysctl -w net.core.somaxconn=128; docker restart redis; "
        "sysctl -w net.core.somaxconn=$before",
        says=("redis has a backlog of 128 at 127.0.0.1:6379, the settings say 511",),
        changes=(START,),
    ),
    Harm(
        "users of the running Redis",
        redis=(
            "ACL SETUSER eve on nopass ~* +@all",
            "ACL SETUSER sessions +keys ~*",
            "ACL SETUSER queues resetpass >another",
            "ACL SETUSER admin >second",
        ),
        says=(
            "redis has the user eve, which is not in the settings",
            "redis has the user sessions with other rules (+keys ~* ~app:session:*)",
            "redis has other passwords for queues",
            "redis has other passwords for admin",
        ),
        changes=(USERS,),
        restarts=False,
    ),
    Harm(
        "networks with a way out, and one more",
        shell="cd /srv/redis && docker compose down && sed -i 's/internal: true/internal: false/; "
        's/enable_ip_masquerade: "false"/enable_ip_masquerade: "true"/\' compose.yml && '
        "docker compose up --detach --wait && docker network connect bridge redis",
        says=(
            "/srv/redis/compose.yml: content differs",
            "the network redis_backend has a way out of the host",
            "the network redis_edge has a way out of the host",
            "redis is also connected to bridge",
        ),
        changes=(COMPOSE, START),
    ),
    Harm(
        "password of the administrator",
        redis=("ACL SETUSER admin resetpass >another",),
        says=("redis refuses the password of admin",),
        changes=(START,),
    ),
    Harm(
        "another image under the image's name",
        # It runs as well as the right one.
        shell="docker commit --change 'LABEL other=1' redis {image} && "
        "cd /srv/redis && docker compose up --detach --force-recreate --wait",
        says=("{image}: another image has its name", "redis runs another image than the present {image}"),
        changes=(IMAGE, START),
    ),
]


@dataclass
class Client:
    """A client at the published port that wrote some data before the harm was done."""

    instance: Instance
    socket: str
    written: dict[str, str] = field(default_factory=dict)
    # Whether the test before left everything as it should be.
    well: bool = False

    def redis(self, user: str) -> Redis:
        return Redis(
            unix_socket_path=self.socket,
            username=user,
            password=self.instance.secrets.passwords[user],
            decode_responses=True,
        )

    def write(self, harm: str) -> None:
        key, value = f"app:session:{harm}", f"what {harm} must not lose"
        with self.redis("sessions") as client:
            client.set(key, value, ex=3600)
        self.written[key] = value

    def read(self) -> dict[str, str | None]:
        with self.redis("sessions") as client:
            return {key: client.get(key) for key in self.written}


@pytest.fixture(scope="module")
def session(host: Host, deployer: Deployer) -> Iterator[Client]:
    deployer.deploy(host, **SETTINGS)
    with tunnel(host, "127.0.0.1", 6379) as path:
        yield Client(Instance(host, deployer.secrets(host)), str(path))
    host.run("docker image prune --force")


@pytest.fixture
def client(session: Client, host: Host, deployer: Deployer) -> Client:
    """On the shared host, deployed. A case that passed leaves it so; after one that failed it is deployed anew."""
    if not session.well:
        result = deployer.deploy(host, **SETTINGS)
        assert result.returncode == 0, result.stderr
    session.well = False
    return session


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name.replace(" ", "-"))
def test_harm_done_by_hand_is_named_and_mended_and_the_data_is_kept(
    harm: Harm, client: Client, deployer: Deployer, fingerprint: Callable[[Host], list[str]]
) -> None:
    live = client.instance.host
    instance = client.instance
    image = str(instance.inspect()["Config"]["Image"])
    client.write(harm.name)
    contents = digests(live)
    identity = instance.identity
    if harm.redis:
        said = instance.call(*(line.format(config=instance.secrets.renamed_command("CONFIG")) for line in harm.redis))
        assert said == ["OK"] * len(harm.redis)
    if harm.shell:
        live.run(harm.shell.format(image=image), check=True)

    result = deployer.deploy(live, **SETTINGS)

    assert result.returncode == 0, result.stderr
    for words in harm.says:
        assert words.format(image=image) in result.reasons
    assert result.changed == list(harm.changes)
    assert looks(live) == TREE
    assert digests(live) == contents
    assert (instance.identity != identity) == harm.restarts
    assert instance.health == "healthy"
    assert live.run("docker ps --all --format '{{.Names}}'").stdout.split() == ["redis"]
    assert client.read() == client.written
    assert sorted(line.split()[1] for line in instance.call("ACL LIST")) == [
        "admin",
        "default",
        "health",
        "queues",
        "sessions",
    ]

    before = fingerprint(live)
    again = deployer.deploy(live, **SETTINGS)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    assert fingerprint(live) == before
    client.well = True


def test_data_that_was_removed_under_redis_stops_the_deploy_and_redis_runs_on(
    client: Client, deployer: Deployer
) -> None:
    """A restart would start it empty: what Redis still holds in memory is all there is."""
    live = client.instance.host
    client.write("data moved away")
    identity = client.instance.identity
    live.run("mv /srv/redis/data /srv/data-aside", check=True)
    try:
        result = deployer.deploy(live, redis_maxmemory="512mb", **SETTINGS)
        assert result.returncode == 1
        assert "redis runs on a directory that is no longer /srv/redis/data" in result.stderr
        assert client.instance.identity == identity
        assert client.read() == client.written
    finally:
        live.run("rmdir /srv/redis/data; mv /srv/data-aside /srv/redis/data", check=True)
    assert deployer.deploy(live, **SETTINGS).returncode == 0
    assert client.read() == client.written


def test_a_network_with_other_containers_on_it_is_not_made_anew_under_them(client: Client, deployer: Deployer) -> None:
    """Compose could not bring them back: who looks after them is asked first."""
    live = client.instance.host
    image = str(client.instance.inspect()["Config"]["Image"])
    live.run(
        "cd /srv/redis && docker compose down && docker network create redis_backend "
        "--label com.docker.compose.project=redis --label com.docker.compose.network=backend && "
        "docker compose up --detach --wait && docker run --detach --name guest --network redis_backend "
        f"--stop-signal KILL --entrypoint sleep {image} 600",
        check=True,
    )
    identity = client.instance.identity
    try:
        result = deployer.deploy(live, **SETTINGS)
        assert result.returncode == 1
        assert "redis_backend must be made anew" in result.stderr
        assert "of others are on it: guest. Nothing was restarted" in result.stderr
        assert client.instance.identity == identity
    finally:
        live.run("docker rm --force guest", check=True)
    assert deployer.deploy(live, **SETTINGS).returncode == 0
    assert client.instance.inspect()["NetworkSettings"]["Networks"].keys() == {"redis_backend", "redis_edge"}
    assert live.run("docker network inspect --format '{{.Internal}}' redis_backend").stdout.strip() == "true"


def test_one_host_s_drift_leaves_the_settings_of_the_test_true() -> None:
    """TREE and the limits above are written out by hand; they describe the default settings."""
    settings = load({})
    assert (settings.root, settings.memory_limit, settings.redis_container_pids) == ("/srv/redis", 1610612736, 128)
