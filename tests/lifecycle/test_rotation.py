"""Rotation of passwords: no client notices.

An interruption can be resumed, and previous passwords stay invalid.
"""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue, SimpleWorker
from rq.job import Job, JobStatus
from rq.timeouts import TimerDeathPenalty

from redoubt import acl
from redoubt.secret_store import Secrets
from redoubt.settings.load import load
from sandbox import images
from sandbox.hosts import Host
from tests.deployed_redis import Instance, tunnel, wait_until
from tests.deployer import Deployer, DeployResult
from tests.lifecycle.expected_files import digests

ROTATE, FINISH, UNDO = "day2/rotate.py", "day2/finish_rotation.py", "day2/undo_rotation.py"
SETTINGS: dict[str, Any] = {
    "redis_health_interval": 1,
    "redis_users": {"exporter": {"role": "metrics"}, "shop": {"role": "session", "keys": ["shop:session:*"]}},
}


@dataclass
class RotatingHost:
    """A deployed host and its day-2 verbs for rotations."""

    host: Host
    deployer: Deployer
    settings: dict[str, Any] = field(default_factory=lambda: dict(SETTINGS))

    def run(self, job: str, **data: object) -> DeployResult:
        options = [word for name, value in data.items() for word in ("--data", f"{name}={value}")]
        return self.deployer.deploy(self.host, job=job, arguments=("-y", "--json", *options), **self.settings)

    def run_ok(self, job: str, **data: object) -> DeployResult:
        """Run a deploy file, and fail unless it succeeds."""
        result = self.run(job, **data)
        assert result.returncode == 0, result.stderr
        return result

    @property
    def secrets(self) -> Secrets:
        return self.deployer.secrets(self.host, **self.settings)

    @property
    def users(self) -> list[str]:
        """The users of the instance; the store still has removed ones."""
        return [user.name for user in acl.users(load(self.settings))]

    @property
    def instance(self) -> Instance:
        return Instance(self.host, self.secrets)

    @property
    def store(self) -> Path:
        return self.deployer.secrets_dir / self.host.name / "redis.yml"

    def accepts(self, user: str, secrets: Secrets) -> bool:
        """Say whether Redis accepts the current password of a user in these secrets."""
        line = f"AUTH {user} {secrets.passwords[user]}\n"
        completed = self.host.run("docker exec -i redis redis-cli", input=line)
        answer = completed.stdout.partition(" ")[0].strip()
        assert answer in ("OK", "WRONGPASS"), (
            f"no answer to {user} ({completed.returncode}): {answer} {completed.stderr}"
        )
        return answer == "OK"


@pytest.fixture
def rotating(host: Host, deployer: Deployer) -> RotatingHost:
    """The shared host, deployed, with one password for each user."""
    rotating = RotatingHost(host, deployer)
    rotating.run_ok("deploy.py")
    rotating.run_ok(FINISH)
    return rotating


def changed(before: Secrets, after: Secrets) -> set[str]:
    """Return the users whose current password differs.

    An assertion about passwords would show them.
    """
    return {user for user, password in before.passwords.items() if after.passwords[user] != password}


class Clients:
    """Clients that connect, log in, work and disconnect in a loop.

    One more stays connected. They log in with the current value of ``passwords``.
    """

    def __init__(self, socket: Path, passwords: dict[str, str]) -> None:
        self.passwords = dict(passwords)
        self.answers: Counter[str] = Counter()
        self.failed: list[str] = []
        self._socket = str(socket)
        self._stop = threading.Event()
        tasks: dict[str, Callable[[Redis], Any]] = {
            "sessions": lambda redis: redis.set("app:session:rotation", "x", ex=60),
            "shop": lambda redis: redis.set("shop:session:rotation", "x", ex=60),
            "queues": lambda redis: redis.incr("rq:rotation"),
            "exporter": lambda redis: redis.info(),
        }
        self._threads = [
            *(threading.Thread(target=self._reconnect, args=(user, work)) for user, work in tasks.items()),
            threading.Thread(target=self._stay),
        ]
        for thread in self._threads:
            thread.start()

    def client(self, user: str) -> Redis:
        return Redis(
            unix_socket_path=self._socket,
            username=user,
            password=self.passwords[user],
            retry=Retry(NoBackoff(), 0),
            socket_timeout=10,
        )

    def _count(self, name: str, work: Callable[[], Any]) -> None:
        try:
            work()
            self.answers[name] += 1
        except RedisError as error:
            self.failed.append(f"{name}: {error!r}")

    def _reconnect(self, user: str, work: Callable[[Redis], Any]) -> None:
        while not self._stop.is_set():
            with self.client(user) as redis:
                self._count(user, partial(work, redis))
            time.sleep(0.01)

    def _stay(self) -> None:
        with self.client("sessions") as writer, self.client("sessions").pubsub() as subscriber:
            subscriber.subscribe("__keyevent@0__:expired")
            while not self._stop.is_set():
                self._count("held", lambda: writer.set("app:session:held", "x", ex=60))
                self._count("subscribed", lambda: (subscriber.ping(), subscriber.get_message(timeout=0.1)))

    def wait_for_work(self) -> None:
        """Wait until every client has worked from now on."""
        before = Counter(self.answers)
        names = {"sessions", "shop", "queues", "exporter", "held", "subscribed"}
        wait_until(
            lambda: self.failed or all(self.answers[name] >= before[name] + 5 for name in names), f"work of {names}", 30
        )

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=20)


@pytest.fixture
def clients(rotating: RotatingHost) -> Iterator[Clients]:
    with tunnel(rotating.host, "127.0.0.1", 6379) as socket:
        clients = Clients(socket, rotating.secrets.passwords)
        try:
            clients.wait_for_work()
            yield clients
        finally:
            clients.stop()


class _Worker(SimpleWorker):
    """RQ's worker for a thread: the timer of the process belongs to the main thread."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self) -> None:
        pass


class Application:
    """A queue of RQ and a worker that ends after a number of jobs.

    They log in with the current passwords of the clients.
    """

    def __init__(self, clients: Clients, name: str, jobs: int) -> None:
        self.connection = clients.client("queues")
        self.queue = Queue(name, connection=self.connection)
        self.jobs: list[Job] = []
        worker = _Worker([self.queue], connection=clients.client("queues"), name=f"{name}-{time.time()}")
        self._thread = threading.Thread(target=lambda: worker.work(max_jobs=jobs))
        self._thread.start()

    def run_job(self) -> None:
        """Enqueue a job and wait until it has finished."""
        job = self.queue.enqueue("time.sleep", 0)
        self.jobs.append(job)
        wait_until(lambda: job.get_status() == JobStatus.FINISHED, f"a job of {self.queue.name} has finished", 20)

    def end(self) -> None:
        self._thread.join(timeout=20)
        for job in self.jobs:
            job.delete()
        self.queue.delete()
        self.connection.close()


@pytest.mark.core
def test_no_client_notices_a_rotation(rotating: RotatingHost, clients: Clients) -> None:
    first = rotating.secrets
    instance = rotating.instance
    before, started = instance.identity, time.time()
    instance.call("ACL LOG RESET")
    old = Application(clients, "old", jobs=2)
    old.run_job()

    rotated = rotating.run_ok(ROTATE)
    second = rotating.secrets
    clients.wait_for_work()
    old.run_job()
    old.end()
    clients.passwords.update(second.passwords)
    new = Application(clients, "new", jobs=2)
    new.run_job()
    clients.wait_for_work()
    finished = rotating.run_ok(FINISH)
    clients.wait_for_work()
    new.run_job()
    new.end()
    clients.stop()

    assert clients.failed == []
    assert instance.identity == before
    checks = Instance(rotating.host, second).inspect()["State"]["Health"]["Log"]
    assert {check["ExitCode"] for check in checks} == {0}
    assert [line for line in Instance(rotating.host, second).call("ACL LOG") if "auth" in line] == []
    assert changed(first, second) == set(rotating.users)
    for user in rotating.users:
        assert not rotating.accepts(user, first)
        assert rotating.accepts(user, second)
    output = rotated.stdout + rotated.stderr + finished.stdout + finished.stderr
    exposed = [
        user for secrets in (first, second) for user, password in secrets.passwords.items() if password in output
    ]
    assert exposed == []
    assert sum(clients.answers.values()) > 200, f"no load in {time.time() - started:.0f} s: {clients.answers}"


def test_both_passwords_work_until_rotation_is_finished(rotating: RotatingHost) -> None:
    first = rotating.secrets
    rotating.run_ok(ROTATE, redis_rotate_users="sessions")
    second = rotating.secrets
    assert changed(first, second) == {"sessions"}
    # A deploy during the rotation keeps both and reminds of them.
    deployed = rotating.run_ok("deploy.py")
    assert "two passwords work for sessions" in deployed.stderr
    assert rotating.accepts("sessions", first)
    assert rotating.accepts("sessions", second)
    # A repeated rotation generates no third password.
    assert rotating.run_ok(ROTATE, redis_rotate_users="sessions").changed == []
    assert rotating.secrets == second
    rotating.run_ok(FINISH)
    assert not rotating.accepts("sessions", first)
    assert rotating.run_ok(FINISH).changed == []


def test_undo_restores_previous_passwords(rotating: RotatingHost) -> None:
    first = rotating.secrets
    rotating.run_ok(ROTATE, redis_rotate_users="sessions,admin")
    second = rotating.secrets
    rotating.run_ok(UNDO)
    assert changed(first, rotating.secrets) == set()
    assert rotating.accepts("sessions", second)
    rotating.run_ok(FINISH)
    assert rotating.accepts("sessions", first)
    assert not rotating.accepts("sessions", second)
    assert rotating.instance.call("PING") == ["PONG"]


def test_grace_period_finishes_the_rotation(rotating: RotatingHost) -> None:
    first = rotating.secrets
    began = time.monotonic()
    rotating.run_ok(ROTATE, redis_rotate_users="sessions", redis_rotate_grace=3)
    assert time.monotonic() - began >= 3
    assert not rotating.accepts("sessions", first)
    assert rotating.accepts("sessions", rotating.secrets)


@pytest.mark.parametrize(
    ("operation", "next_job"),
    [
        # First Redis has no new password, last the host has some of the new files.
        ("Set the users of the running Redis", "deploy.py"),
        ("Write the ACL file", ROTATE),
        ("Write the secrets", "deploy.py"),
    ],
)
def test_killed_rotation_is_resumed_by_next_command(rotating: RotatingHost, operation: str, next_job: str) -> None:
    first = rotating.secrets
    before = rotating.instance.identity
    running = rotating.deployer.start(rotating.host, job=ROTATE, **rotating.settings)
    running.wait_for(operation)
    running.signal(signal.SIGKILL)
    running.wait()
    # The passwords of the clients still work.
    assert rotating.accepts("sessions", first)
    assert rotating.accepts("admin", first)
    rotating.run_ok(next_job)
    second = rotating.secrets
    assert second.generation == first.generation + 1
    assert rotating.instance.identity == before
    for user in rotating.users:
        assert rotating.accepts(user, first)
        assert rotating.accepts(user, second)
    # The killed command has left nothing to do.
    assert rotating.run_ok("deploy.py").changed == []


def test_older_or_missing_store_is_refused(rotating: RotatingHost, tmp_path: Path) -> None:
    """The store of another machine, or a copy from before the rotation."""
    before = rotating.store.read_text()
    rotating.run_ok(ROTATE)
    now, contents = rotating.store.read_text(), digests(rotating.host)
    rotating.store.write_text(before)
    try:
        for job in ("deploy.py", ROTATE, FINISH):
            stale = rotating.run(job)
            assert stale.returncode == 1
            assert "is older than the passwords on the host" in stale.stderr
        rotating.store.rename(tmp_path / "away")
        missing = rotating.run("deploy.py")
        assert missing.returncode == 1
        assert f"{rotating.store} is missing: a deploy would shut out every client" in missing.stderr
    finally:
        rotating.store.touch(mode=0o600)
        rotating.store.write_text(now)
    assert digests(rotating.host) == contents


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"redis_rotate_users": "sessions,unknown"},
            "redis_rotate_users: there is no user unknown; the users are sessions, queues,",
        ),
        ({"redis_rotate_grace": "soon"}, "redis_rotate_grace = 'soon' is not a number of seconds"),
        ({"redis_rotate_grace": -1}, "redis_rotate_grace = -1 is not a number of seconds"),
    ],
)
def test_invalid_option_is_refused_and_changes_nothing(
    rotating: RotatingHost, data: dict[str, object], message: str
) -> None:
    before = rotating.secrets
    result = rotating.run(ROTATE, **data)
    assert result.returncode == 1
    assert message in result.stderr
    assert rotating.secrets == before


def test_service_with_previous_password_blocks_finish(rotating: RotatingHost) -> None:
    web = {
        "image": images.redis_reference(),
        "user": "999:999",
        "init": True,
        "entrypoint": ["sleep", "600"],
        "secrets": ["sessions"],
    }
    rotating.settings["redis_app_services"] = {"web": web}
    rotating.run_ok("deploy.py")
    refused = rotating.run(ROTATE, redis_rotate_grace=5)
    assert refused.returncode == 1
    assert "services of redis_app_services read their passwords when they start" in refused.stderr
    first = rotating.secrets
    rotating.run_ok(ROTATE)
    early = rotating.run(FINISH)
    assert early.returncode == 1
    assert "web of redis's project started before the passwords changed" in early.stderr
    assert rotating.accepts("sessions", first)
    rotating.run_ok("deploy.py")
    rotating.run_ok(FINISH)
    assert not rotating.accepts("sessions", first)
    inside = rotating.host.run("docker exec redis-web-1 cat /run/secrets/sessions").stdout.strip()
    assert rotating.accepts("sessions", Secrets({"sessions": inside}, {}))


def test_rotation_of_undeployed_host_is_refused(undeployed_host: Host, deployer: Deployer) -> None:
    result = deployer.deploy(undeployed_host, job=ROTATE)
    assert result.returncode == 1
    assert "redis is not deployed to this host: deploy it first" in result.stderr
    assert undeployed_host.run("ls /srv/redis").returncode != 0
