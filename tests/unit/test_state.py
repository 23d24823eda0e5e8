"""What ``redisctl state`` reports of Docker, files and Redis's answers.

Of Docker it reports containers and networks.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from redisctl.core import journal, lock, process
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.core.journal import Kind, Stage
from redisctl.core.lock import Holder
from redisctl.deploy import state
from redisctl.schema import (
    Container,
    InstanceState,
    InterruptedTransaction,
    Network,
    OtherInstance,
    StateRequest,
    StoredData,
)

NETWORKS = frozenset({"redis_backend", "redis_edge"})
LIMITS = {"Memory": 1536, "MemoryReservation": 512, "NanoCpus": 10**9, "CpuShares": 512, "PidsLimit": 128}


def inspected(**changes: Any) -> dict[str, Any]:
    """Return what ``docker container inspect`` prints of the instance's container."""
    return {
        "Id": "0123",
        "Name": "/redis",
        "Image": "sha256:1",
        "HostConfig": {
            **LIMITS,
            "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
            "PortBindings": {"6379/tcp": [{"HostIp": "", "HostPort": "6379"}]},
        },
        "NetworkSettings": {"Networks": dict.fromkeys(NETWORKS)},
        "State": {"Status": "running", "StartedAt": "2026-01-02T03:04:05.678901234Z", "Health": {"Status": "healthy"}},
        "Config": {"Labels": labels(), "StopTimeout": 51},
        "Mounts": [{"Source": "/srv/redis/data/live", "Destination": "/data"}],
        **changes,
    }


def labels(**changes: str) -> dict[str, str]:
    """Return the labels that Compose and a deploy give a container."""
    return {
        "com.docker.compose.project": "redis",
        "com.docker.compose.service": "redis",
        "com.docker.compose.config-hash": "abc",
        "redoubt.definition": "d",
        "redoubt.live": "{}",
        **changes,
    }


class FakeHost:
    """Programs of a host with these containers and networks.

    Every other program prints nothing.
    """

    def __init__(self, *containers: dict[str, Any], networks: Sequence[dict[str, Any]] = ()) -> None:
        self.containers = containers
        self.inspections = 0
        self.networks = networks

    def run(self, command: Sequence[str], **_: Any) -> CompletedProcess[str]:
        output = ""
        match command:
            case ["docker", "container", "inspect", *names]:
                self.inspections += 1
                output = json.dumps([item for item in self.containers if {item["Id"], item["Name"][1:]} & set(names)])
            case ["docker", "network", "inspect", *_]:
                output = json.dumps(self.networks)
            case ["docker", "ps", *_]:
                self.inspections += 1
                output = "".join(f"{self._listed(item)}\n" for item in self.containers)
            case ["docker", "image", "inspect", reference]:
                output = json.dumps([{"Id": f"id of {reference}"}])
            case ["ss", *_]:
                output = "LISTEN 0 4096 127.0.0.1:6379 0.0.0.0:*\nLISTEN 0 128 [::]:22 [::]:*\n"
            case ["docker", "compose", *_]:
                output = "redis abc\n"
            case ["systemctl", "show", *_]:
                output = (
                    "Id=redis-backup.timer\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"
                    "NeedDaemonReload=yes\n\nId=redis-network.service\nLoadState=not-found\nActiveState=inactive\n"
                )
        return CompletedProcess(command, 0, output, "")

    def _listed(self, item: dict[str, Any]) -> str:
        own = item["Config"]["Labels"] or {}
        names = ("com.docker.compose.project", "redoubt.definition", "com.docker.compose.oneoff")
        return json.dumps([item["Id"], item["Name"][1:], *(own.get(name, "") for name in names)])


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    """Return an instance whose root is an empty directory."""
    return Instance(name="redis", root=tmp_path, session_keys="")


def collect(monkeypatch: pytest.MonkeyPatch, instance: Instance, host: FakeHost, **request: Any) -> InstanceState:
    """Return the state of an instance on this host."""
    monkeypatch.setattr(process, "run", host.run)
    monkeypatch.setattr(process, "check", lambda command, **_: host.run(command).stdout)
    monkeypatch.setattr("redisctl.deploy.state.shutil.which", lambda name: name if name != "nft" else None)
    return state.collect(instance, StateRequest("redis", str(instance.root), **request))


def test_containers_and_networks_are_reported(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    (instance.root / "compose.yml").touch()
    edge = {
        "Name": "redis_edge",
        "Internal": False,
        "Options": {"com.docker.network.bridge.name": "redis-edge"},
        "IPAM": {"Config": [{"Subnet": "fd00::/64"}, {"Subnet": "198.18.0.0/28"}]},
        "Containers": {"1": {"Name": "redis"}},
    }
    backend = {
        "Name": "redis_backend",
        "Internal": True,
        "Options": None,
        "IPAM": {"Config": None},
        "Containers": None,
    }
    result = collect(monkeypatch, instance, FakeHost(inspected(), networks=[edge, backend]), image="redis:8")
    assert result.containers == (
        Container(
            name="redis",
            service="redis",
            config_hash="abc",
            image_id="sha256:1",
            status="running",
            health="healthy",
            started=1767323045.678901,
            networks=NETWORKS,
            limits={**LIMITS, "RestartPolicy": "unless-stopped"},
            definition="d",
            created_with="{}",
            stop_grace=51,
        ),
    )
    assert result.networks == {
        "redis_edge": Network(
            internal=False,
            masquerade=True,
            members=frozenset({"redis"}),
            bridge="redis-edge",
            subnet="198.18.0.0/28",
        ),
        "redis_backend": Network(internal=True, masquerade=False, members=frozenset()),
    }
    assert result.hashes == {"redis": "abc"}
    assert result.image_id == "id of redis:8"
    assert result.published == (("0.0.0.0", 6379),)
    assert result.data_dir == "/srv/redis/data/live"
    assert result.backlogs == {"127.0.0.1:6379": 4096, "[::]:22": 128}
    assert (result.foreign_container, result.other_instances) == ("", ())


def test_one_command_inspects_all_containers(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    """Each call of the docker command takes 20 ms of a processor."""
    host = FakeHost(inspected(), inspected(Id="4567", Name="/worker"))
    collect(monkeypatch, instance, host)
    assert host.inspections == 2


@pytest.mark.parametrize(
    ("mount", "stale"),
    [
        (("logs", "/data"), ("logs",)),
        (("socket", "/run/redis"), ()),
        # Data in the container alone would be lost with it.
        (("data/live", "/elsewhere"), ("data/live",)),
    ],
)
def test_only_mounts_of_the_container_can_be_stale(
    monkeypatch: pytest.MonkeyPatch, instance: Instance, mount: tuple[str, str], stale: tuple[str, ...]
) -> None:
    """A directory that the deploy adds was not replaced."""
    container = inspected(State={**inspected()["State"], "Pid": os.getpid()})
    assert collect(monkeypatch, instance, FakeHost(container), mounts=(mount,)).stale_mounts == stale


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("hangs", [False, True])
def test_docker_that_does_not_list_containers(
    monkeypatch: pytest.MonkeyPatch, instance: Instance, *, answers: bool, hangs: bool
) -> None:
    """A Docker that answers only in part may have containers."""
    host = FakeHost(inspected())

    def run(command: Sequence[str], **_: Any) -> CompletedProcess[str]:
        if command[:2] == ["docker", "ps"] and hangs:
            raise Failure("docker ps hangs")
        if command[:2] == ["docker", "ps"] or (command[:2] == ["docker", "version"] and not answers):
            return CompletedProcess(command, 1, "", "cannot list")
        return host.run(command)

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr("redisctl.deploy.state.shutil.which", lambda name: name if name != "nft" else None)
    with pytest.raises(Failure, match=r"hangs|cannot list") if answers else contextlib.nullcontext():
        result = state.collect(instance, StateRequest("redis", str(instance.root)))
        assert (result.containers, result.image, result.hashes) == ((), None, {})


def test_containers_without_compose_are_left_out(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    """Containers that Compose does not count as the service are left out.

    ``docker compose run`` and ``docker run`` create such containers.
    """
    one_off = inspected(Config={"Labels": labels(**{"com.docker.compose.oneoff": "True"})})
    by_hand = labels()
    del by_hand["com.docker.compose.config-hash"]
    host = FakeHost(one_off, inspected(Id="4567", Config={"Labels": by_hand}))
    assert collect(monkeypatch, instance, host).containers == ()


def test_other_instances_are_reported(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    other = inspected(
        Id="4567",
        Name="/queue",
        Config={"Labels": labels(**{"com.docker.compose.project": "queue"})},
        HostConfig={"Memory": 768, "PortBindings": None},
        Mounts=[],
    )
    result = collect(monkeypatch, instance, FakeHost(inspected(), other))
    assert result.other_instances == (OtherInstance("queue", "", 768, ()),)


def test_container_of_another_project_is_foreign(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    foreign = inspected(Config={"Labels": {"com.docker.compose.project": "shop"}})
    result = collect(monkeypatch, instance, FakeHost(foreign))
    assert (result.foreign_container, result.containers) == ("shop sha256:1", ())


def test_units_are_reported(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    units = collect(monkeypatch, instance, FakeHost()).units
    assert vars(units["redis-backup.timer"]) == {"present": True, "active": True, "enabled": True, "outdated": True}
    assert not units["redis-network.service"].present


def test_host_without_docker_has_an_empty_state(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    monkeypatch.setattr(process, "run", FakeHost().run)
    monkeypatch.setattr("redisctl.deploy.state.shutil.which", lambda _: None)
    result = state.collect(instance, StateRequest("redis", str(instance.root)))
    empty = InstanceState(stored=StoredData(missing=True))
    assert replace(result, somaxconn=0, units={}, backlogs={}) == empty


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T00:00:01.123456789Z", 1.123456),
    ],
)
def test_docker_times_are_read_to_the_microsecond(
    monkeypatch: pytest.MonkeyPatch, instance: Instance, stamp: str, seconds: float
) -> None:
    host = FakeHost(inspected(State={"Status": "running", "StartedAt": stamp}))
    (container,) = collect(monkeypatch, instance, host).containers
    assert (container.started, container.health) == (seconds, None)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"redis_maxmemory": '])
def test_unreadable_deployed_settings_are_ignored(
    monkeypatch: pytest.MonkeyPatch, instance: Instance, text: str
) -> None:
    (instance.root / "settings.json").write_text(text)
    assert collect(monkeypatch, instance, FakeHost()).deployed_settings == {}


@pytest.mark.parametrize(("text", "generation"), [("3\n", 3), ("", 0), ("-1", 0), ("²", 0), ("x", 0)])
def test_generation_is_a_number(
    monkeypatch: pytest.MonkeyPatch, instance: Instance, text: str, generation: int
) -> None:
    directory = instance.root / "secrets/server"
    directory.mkdir(parents=True)
    (directory / "generation").write_text(text)
    assert collect(monkeypatch, instance, FakeHost()).generation == generation


@pytest.mark.parametrize(
    ("holder", "is_interrupted"),
    [
        (None, True),
        (Holder("this deploy", 1, "ann", "", 0.0), True),
        (Holder("another deploy", 1, "bob", "", 0.0), False),
        (Holder("", 1, "", "restore", 0.0), False),
    ],
)
def test_interrupted_transaction_has_no_process(
    monkeypatch: pytest.MonkeyPatch, instance: Instance, holder: Holder | None, is_interrupted: bool
) -> None:
    """A transaction is interrupted if its process is gone.

    Then only the asking deploy, or no process, holds the lock.
    """
    instance.data.mkdir()
    monkeypatch.setattr(lock, "holder", lambda _: holder)
    journal.advance(instance, journal.begin(instance, "restore of x", Kind.DATA), Stage.STASHING)
    interrupted = collect(monkeypatch, instance, FakeHost(), run="this deploy").interrupted
    expected = InterruptedTransaction("restore of x", Stage.STASHING.value)
    assert interrupted == (expected if is_interrupted else None)


HASHES = {letter: f"#{letter * 64}" for letter in "abc"}


@pytest.mark.parametrize(
    ("desired", "running", "differing"),
    [
        ("", f"user x on {HASHES['a']}", ()),
        (f"user x on {HASHES['a']} ~*", f"user x on ~other {HASHES['a']}", ()),
        (f"user x on {HASHES['a']}", f"user x on {HASHES['b']}", ("x",)),
        (f"user x on {HASHES['a']} {HASHES['b']}", f"user x on {HASHES['b']} {HASHES['a']}", ()),
        (f"user x on {HASHES['a']}", f"user x on {HASHES['a']}\nuser y on {HASHES['c']}", ("y",)),
    ],
)
def test_users_with_other_passwords_are_named(desired: str, running: str, differing: tuple[str, ...]) -> None:
    assert state._differing_passwords(desired, running.splitlines()) == differing


@pytest.mark.parametrize("missing", ["secrets/admin", "secrets/server/commands.conf"])
def test_redis_cannot_be_asked_without_its_secrets(
    missing: str, monkeypatch: pytest.MonkeyPatch, instance: Instance
) -> None:
    """An unreadable secret is reported like a refused password.

    In both cases a deploy restores the files and restarts Redis.
    """
    secrets = {"secrets/admin": "x", "secrets/server/commands.conf": "rename-command CONFIG config-1\n"}
    (instance.root / "secrets/server").mkdir(parents=True)
    for name in secrets.keys() - {missing}:
        (instance.root / name).write_text(secrets[name])
    # A directory in the place of a file, as somebody may have put it there.
    (instance.root / missing).mkdir()
    monkeypatch.setattr(Instance, "connect_socket", lambda *_: connected_to(instance.root / "socket"))
    with fake_redis(instance.root / "socket", {}):
        (refusal,) = state._redis(instance, StateRequest("redis", "/"), RUNNING).values()
    assert refusal == f"cannot be asked: {instance.root / missing}: Is a directory: deploy again"


def encode(value: Any) -> bytes:
    """Return a value as Redis sends it."""
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(encode, value))
    if isinstance(value, int):
        return b":%d\r\n" % value
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, Exception):
        return f"-{value}\r\n".encode()
    data = value if isinstance(value, bytes) else value.encode()
    return b"$%d\r\n%s\r\n" % (len(data), data)


def connected_to(path: Path) -> socket.socket:
    """Return a connection to a Unix socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(path))
    return connection


@contextmanager
def fake_redis(path: Path, answers: dict[str, Any]) -> Iterator[None]:
    """Serve these answers, by command, to one client of a Unix socket.

    Any other command gets OK.
    """

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream, contextlib.suppress(OSError):
            while header := stream.readline():
                words = []
                for _ in range(int(header[1:])):
                    stream.readline()
                    words.append(stream.readline().strip().decode())
                stream.write(encode(answers.get(words[0], "OK")))
                stream.flush()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)
        assert not thread.is_alive()


INFO = {"redis_version": "8.0.2", "used_memory": 500, "mem_not_counted_for_evict": 100}
RUNNING = {"State": {"Running": True}}


def ask(monkeypatch: pytest.MonkeyPatch, instance: Instance, **answers: Any) -> dict[str, Any]:
    """Return what is reported of a Redis with these answers.

    CONFIG has a secret name.
    """
    path, secrets = instance.root / "socket", instance.root / "secrets"
    (secrets / "server").mkdir(parents=True)
    (secrets / "admin").write_text("x")
    (secrets / "server/commands.conf").write_text("rename-command CONFIG config-1\n")
    monkeypatch.setattr(Instance, "connect_socket", lambda *_: connected_to(path))
    info = answers.get("INFO", INFO)
    text = "".join(f"{name}:{value}\r\n" for name, value in info.items()) if isinstance(info, dict) else info
    usual = {"config-1": ["save", "", "maxmemory", "5"], "ACL": [f"user x on {HASHES['b']} ~*"], "ROLE": ["master"]}
    with fake_redis(path, {**usual, **answers, "INFO": text}):
        return state._redis(instance, StateRequest("redis", "/", acl=f"user x on {HASHES['a']}"), RUNNING)


@pytest.mark.parametrize(("info", "engine"), [(INFO, "redis"), ({**INFO, "valkey_version": "8.0.2"}, "valkey")])
def test_answers_of_redis_are_reported(
    monkeypatch: pytest.MonkeyPatch, instance: Instance, info: dict[str, Any], engine: str
) -> None:
    info = {**info, "db0": "keys=2,expires=0", "db12": "keys=1,expires=0"}
    assert ask(monkeypatch, instance, INFO=info) == {
        "config": {"save": "", "maxmemory": "5"},
        "acl": ("user x on # ~*",),
        "passwords": ("x",),
        "running_engine": engine,
        "running_version": "8.0.2",
        "primary": "",
        "used_memory": 400,
        "used_databases": 13,
    }


def test_replica_names_its_primary(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    """INFO has the name of the primary, which may contain lines."""
    host = "10.0.0.1\x1b\r\nrole:master"
    info = {**INFO, "role": "slave", "master_host": host, "master_port": 6379}
    role = ["slave", host, 6379, "connect", -1]
    assert ask(monkeypatch, instance, INFO=info, ROLE=role)["primary"] == r"10.0.0.1\x1b\r\nrole:master:6379"


def test_answers_of_redis_cannot_control_the_terminal(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    escape = b"\x1b[2J\xff"
    acl = [b"user %s on %s" % (escape, HASHES["b"].encode())]
    info = {**INFO, "redis_version": "8\x1b[2J"}
    result = ask(monkeypatch, instance, INFO=info, ACL=acl, **{"config-1": [escape, escape]})
    texts = [*result["config"], *result["config"].values(), *result["acl"], *result["passwords"]]
    assert r"\x1b[2J\xff" in texts
    assert all(text.isprintable() for text in [*texts, result["running_version"]])


@pytest.mark.parametrize(
    "answers",
    [
        {"config-1": None},
        {"config-1": 5},
        {"config-1": "ab"},
        {"config-1": ["a"]},
        {"ACL": None},
        {"ACL": [5]},
        {"ACL": ["user"]},
        {"ACL": ["", "user x on"]},
        {"ROLE": None},
        {"ROLE": ["slave"]},
        {"ROLE": ["slave", 7, 6379]},
        {"INFO": {}},
        {"INFO": {**INFO, "used_memory": "much"}},
        {"INFO": {**INFO, "used_memory": "inf"}},
        {"INFO": ["a"]},
    ],
)
def test_malformed_answers_of_redis_are_no_answers(
    monkeypatch: pytest.MonkeyPatch, instance: Instance, answers: dict[str, Any]
) -> None:
    """A compromised Redis must not prevent the deploy that replaces it."""
    assert ask(monkeypatch, instance, **answers) == {"unanswered": "its answers cannot be read"}


def test_list_of_users_that_is_too_long_is_no_answer(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    """A user with long rules is not left out."""
    users = ["user x on", "user backdoor on ~" + "k" * 5_000_000]
    assert ask(monkeypatch, instance, ACL=users) == {"unanswered": "the answer to ACL is larger than 4.0 MiB"}


@pytest.mark.parametrize(
    ("answers", "report"),
    [
        ({"AUTH": ValueError("WRONGPASS no")}, {"refusal": "refuses the password of admin"}),
        ({"ACL": ValueError("NOPERM no\x1b")}, {"refusal": r"denies admin its rights: NOPERM no\x1b"}),
        ({"ACL": ValueError("BUSY " + "x" * 999)}, {"unanswered": "it answers: BUSY " + "x" * 195}),
        ({"ACL": ["x" * 60_000] * 99}, {"unanswered": "the answer to ACL is larger than 4.0 MiB"}),
    ],
)
def test_redis_that_cannot_be_asked_has_a_reason(
    monkeypatch: pytest.MonkeyPatch, instance: Instance, answers: dict[str, Any], report: dict[str, str]
) -> None:
    assert ask(monkeypatch, instance, **answers) == report


def test_edited_names_of_commands_are_reported(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    """Redis answers that it does not know the name, which is secret."""
    unknown = ValueError("ERR unknown command 'config-1', with args beginning with: 'GET' '*'")
    (refusal,) = ask(monkeypatch, instance, **{"config-1": unknown}).values()
    assert refusal == (
        f"cannot be asked: Redis does not know CONFIG by its name in {instance.root}/secrets/server/commands.conf: "
        "that file is not the one that Redis started with. Deploy again"
    )


@pytest.mark.parametrize("own", [{}, {"State": {"Running": False}}, {"State": {"Running": True, "Paused": True}}])
def test_redis_that_does_not_run_is_not_asked(instance: Instance, own: dict[str, Any]) -> None:
    assert state._redis(instance, StateRequest("redis", "/"), own) == {}
