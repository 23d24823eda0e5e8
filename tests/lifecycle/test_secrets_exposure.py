"""Secrets, which appear nowhere but in their own files.

They are not in the output of a verbose deploy, in process lists or in logs. Secrets are passwords, their hashes and the
names of renamed commands. Each deploy here uses a new store, so that it writes every secret: a deploy that writes none
cannot leak one.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from redoubt import secret_store
from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployer import Deployer, DeployResult
from tests.lifecycle.conftest import remove_instance

# The paths that may contain secrets.
SECRET_PATHS = {"/srv/redis/secrets", "/srv/redis/config/users.acl"}

# Reads the arguments and environments of processes while /run/watch exists. It reads a new process repeatedly, because
# its arguments appear some time after its start, and it may end a millisecond later.
WATCH = r"""
import os, time
samples, started, end = set(), {}, time.monotonic() + 600
while os.path.exists("/run/watch") and (now := time.monotonic()) < end:
    started = {pid: started.get(pid, now) for pid in os.listdir("/proc") if pid.isdigit()}
    for pid, start in started.items():
        if now - start < 0.5:
            for name in ("cmdline", "environ"):
                try:
                    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
                        samples.add(file.read().replace(b"\0", b" "))
                except OSError:
                    pass
    # Without a pause it would take one of two cores. Programs that could get a secret live longer.
    time.sleep(0.001)
with open("/run/watched", "wb") as file:
    file.write(b"\n".join(samples))
"""


@dataclass(frozen=True)
class KnownSecrets:
    """Secrets that must not appear, by a name that may be shown.

    They include those before a deploy as well as those after it.
    """

    values: dict[str, str] = field(repr=False)

    def found_in(self, text: str) -> list[str]:
        """Return names of the secrets in a text.

        Compare the result with []: an assertion would show the text.
        """
        return sorted(name for name, value in self.values.items() if value in text)


def known_secrets(host: Host, *stores: Path) -> KnownSecrets:
    """Return the secrets in stores: passwords, two hashes of each, and command names.

    The hashes are the SHA-256 of the password in the ACL file and that of its file.
    """
    values = {}
    for store in stores:
        secrets = secret_store.load(load({"redis_secrets_dir": str(store)}), host.name)
        for user, password in secrets.passwords.items():
            values[f"password of {user} in {store.name}"] = password
            values[f"hash of {user}'s password in {store.name}"] = sha256(password.encode()).hexdigest()
            values[f"digest of {user}'s file in {store.name}"] = sha256(f"{password}\n".encode()).hexdigest()
        for command, name in secrets.commands.items():
            values[f"name of {command} in {store.name}"] = name
    return KnownSecrets(values)


@contextmanager
def watch_processes(host: Host) -> Iterator[Callable[[], str]]:
    """Sample every process on a host while the block runs.

    Yields a function that ends the sampling and returns all arguments and environments.
    """
    # Compile it first: in the background its errors would be lost.
    host.run(
        "cat >/run/watch.py && python3 -m py_compile /run/watch.py && touch /run/watch && "
        "{ setsid nice -n -15 python3 /run/watch.py </dev/null >/dev/null 2>&1 & }",
        input=WATCH,
        check=True,
    )

    def samples() -> str:
        return host.run(
            "rm -f /run/watch; for _ in $(seq 100); do [ -e /run/watched ] && break; sleep 0.1; done; "
            "cat /run/watched && rm /run/watched",
            check=True,
        ).stdout

    try:
        yield samples
    finally:
        host.run("rm -f /run/watch")


@dataclass(frozen=True)
class WatchedDeploy:
    """A deploy, and the arguments and environment of its own process."""

    result: DeployResult = field(repr=False)
    process: str = field(repr=False)


def lose_store(host: Host) -> None:
    """Have the host accept passwords from a new store.

    An operator does this after losing the old store.
    """
    host.run("rm -f /srv/redis/secrets/server/generation", check=True)


def deploy(deployer: Deployer, host: Host, store: Path, *arguments: str, **settings: Any) -> WatchedDeploy:
    """Deploy with secrets from a new store, and sample the deploying process."""
    lose_store(host)
    # Not a fork: it would show the arguments and the environment of the process that forks.
    running = deployer.start(host, arguments=arguments, is_forked=False, redis_secrets_dir=str(store), **settings)
    samples: set[str] = set()

    def sample() -> None:
        while running.process.poll() is None:
            for name in ("cmdline", "environ"):
                try:
                    samples.add(Path(f"/proc/{running.process.pid}/{name}").read_text(errors="replace"))
                except OSError:
                    return
            time.sleep(0.05)

    sampler = threading.Thread(target=sample)
    sampler.start()
    result = running.wait()
    sampler.join()
    return WatchedDeploy(result, "\n".join(samples))


@pytest.fixture(scope="module", autouse=True)
def _other_modules_use_another_store(host: Host) -> Iterator[None]:
    yield
    lose_store(host)


@pytest.fixture
def store(tmp_path: Path) -> Callable[[str], Path]:
    """Return directories for stores. A deploy with a new one generates every secret."""
    return lambda name: tmp_path / name


@pytest.fixture(scope="module")
def before(host: Host, deployer: Deployer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store with which the shared host is deployed before each watched deploy."""
    directory = tmp_path_factory.mktemp("before")
    lose_store(host)
    result = deployer.deploy(host, redis_secrets_dir=str(directory))
    assert result.returncode == 0
    return directory


def leaked_files(host: Host, secrets: KnownSecrets, known: str = "/srv/redis/secrets/admin") -> list[str]:
    """Return files of the host that contain a secret, except those in SECRET_PATHS.

    The search must find the file ``known``, which contains one.
    """
    # Its exit code says nothing: files disappear while it reads.
    paths = host.run(
        "grep -rlaF --devices=skip --exclude-dir=proc --exclude-dir=sys -f - / 2>/dev/null",
        input="".join(f"{value}\n" for value in secrets.values.values()),
    ).stdout.splitlines()
    assert known in paths, "the search finds no secret"
    return sorted(path for path in paths if not any(path.startswith(allowed) for allowed in (*SECRET_PATHS, known)))


def test_first_deploy_leaks_no_secret(host: Host, deployer: Deployer, store: Callable[[str], Path]) -> None:
    """A first deploy with every option that prints more leaks no secret.

    The test samples all processes of the host and pyinfra itself.
    """
    remove_instance(host)
    with watch_processes(host) as samples:
        first = deploy(deployer, host, store("first"), "-y", "-vvv", "--diff", "--debug")
        processes = samples()
    assert first.result.returncode == 0
    secrets = known_secrets(host, store("first"))
    assert len(secrets.values) == 4 * 3 + 2

    exposed = secrets.found_in(first.result.stdout + first.result.stderr)
    assert exposed == []
    in_pyinfra = secrets.found_in(first.process)
    assert in_pyinfra == []
    # The sampling is fast enough for processes that run only for a moment.
    assert all(
        name in processes for name in ("docker compose", "healthcheck.sh", "redisctl deploy check-acl", "redis-cli")
    )
    on_host = secrets.found_in(processes)
    assert on_host == []
    assert leaked_files(host, secrets) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("-y", "-vvv", "--diff", "--debug-all", "--json"),
        ("--dry", "-vvv", "--diff"),
        ("--debug-facts", "-vvv"),
        ("--debug-operations",),
        ("--debug-operations", "--json"),
        ("--json", "-vvv"),
    ],
    ids=" ".join,
)
def test_no_option_makes_a_deploy_show_a_secret(
    arguments: tuple[str, ...], host: Host, before: Path, deployer: Deployer, store: Callable[[str], Path]
) -> None:
    """No option makes a deploy show a secret, although every secret changes.

    ``--diff`` still shows changes of files that are not secret.
    """
    completed = deploy(deployer, host, store("after"), *arguments, redis_maxmemory="300mb")
    assert completed.result.returncode == 0
    text = completed.result.stdout + completed.result.stderr
    exposed = known_secrets(host, before, store("after")).found_in(text)
    assert exposed == []
    if "--diff" in arguments:
        for line in ("-maxmemory 1073741824", "+maxmemory 314572800", "secrets/admin: secret, contents not shown"):
            assert any(line in printed for printed in text.splitlines()), line
    if "-y" in arguments:
        assert deployer.deploy(host, redis_secrets_dir=str(before)).returncode == 0


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"redis_renamed_commands": ["CONFIG", "SHUTDOWN", "NOSUCHCOMMAND"]}, id="NOSUCHCOMMAND"),
        pytest.param({"redis_extra_config": {"no-such-directive": "1"}}, id="no-such-directive"),
    ],
)
def test_failed_deploy_shows_the_reason_but_no_secret(
    settings: dict[str, Any], host: Host, before: Path, deployer: Deployer, store: Callable[[str], Path]
) -> None:
    """Redis quotes the line that it refuses."""
    completed = deploy(deployer, host, store("failed"), "-y", "-vvv", "--diff", **settings)
    assert deployer.deploy(host, redis_secrets_dir=str(before)).returncode == 0
    assert completed.result.returncode == 1
    text = completed.result.stdout + completed.result.stderr
    assert any(word in text for word in ("NOSUCHCOMMAND (not shown)", "'no-such-directive 1'"))
    exposed = known_secrets(host, before, store("failed")).found_in(text)
    assert exposed == []


def test_sudo_and_its_log_get_no_secret(host: Host, deployer: Deployer, store: Callable[[str], Path]) -> None:
    """sudo logs every command line. A first deploy writes every file."""
    remove_instance(host)
    host.run("journalctl --rotate && journalctl --vacuum-time=1s", check=True)
    with watch_processes(host) as samples:
        completed = deploy(deployer, host, store("sudo"), "-y", "-vvv", "--diff", ssh_user="operator", _sudo=True)
        processes = samples()
    assert completed.result.returncode == 0
    secrets = known_secrets(host, store("sudo"))
    log = host.run("journalctl --all --output=cat; cat /var/log/auth.log /var/log/syslog 2>/dev/null").stdout
    assert "COMMAND=" in log
    assert "docker" in log

    texts = {"output": completed.result.stderr, "log": log, "host": processes, "pyinfra": completed.process}
    leaks = {name: secrets.found_in(text) for name, text in texts.items()}
    assert leaks == {name: [] for name in texts}
    assert leaked_files(host, secrets) == []


def test_unchanged_deploy_leaks_no_secret(host: Host, before: Path, deployer: Deployer) -> None:
    """A deploy that changes no password compares all of them with the host's."""
    with watch_processes(host) as samples:
        completed = deploy(deployer, host, before, "-y", "-vvv", "--json")
        processes = samples()
    assert completed.result.returncode == 0
    assert json.loads(completed.result.stdout)["results"]
    secrets = known_secrets(host, before)
    assert "redisctl state" in processes
    on_host = secrets.found_in(processes)
    assert on_host == []
    exposed = secrets.found_in(completed.result.stderr + completed.result.stdout)
    assert exposed == []


def test_docker_shows_no_secret(host: Host, before: Path) -> None:
    """It shows where secrets are, but not their values."""
    output = host.run(
        "docker inspect redis; docker compose --project-directory /srv/redis config; docker logs redis; "
        "docker top redis; docker image history --no-trunc $(docker inspect --format '{{.Image}}' redis)"
    ).stdout
    assert "redis-server" in output
    exposed = known_secrets(host, before).found_in(output)
    assert exposed == []
