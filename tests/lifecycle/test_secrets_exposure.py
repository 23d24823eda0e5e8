"""Passwords, their hashes and the names of renamed commands are shown to nobody: not by the most talkative deploy, not
in lists of processes, not in logs, and nowhere on the host but in the files that are made for them.

Every deploy here makes all secrets anew, by a store of its own: what is not written is not shown by accident alone.
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
from tests.lifecycle.conftest import Deployer, DeployResult, remove_instance

# Where secrets are meant to be.
AT_HOME = {"/srv/redis/secrets", "/srv/redis/config/users.acl"}

# Reads the arguments and environments of processes for as long as /run/watch exists: of each over and over while it is
# young, since a process gets its arguments some time after it is there, and may be gone a millisecond later.
WATCH = r"""
import os, time
seen, born, end = set(), {}, time.monotonic() + 120
while os.path.exists("/run/watch") and (now := time.monotonic()) < end:
    there = {pid: born.get(pid, now) for pid in os.listdir("/proc") if pid.isdigit()}
    for pid, since in there.items():
        if now - since < 0.5:
            for name in ("cmdline", "environ"):
                try:
                    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
                        seen.add(file.read().replace(b"\0", b" "))
                except OSError:
                    pass
    born = there
with open("/run/watched", "wb") as file:
    file.write(b"\n".join(seen))
"""


@dataclass(frozen=True)
class Known:
    """What must not be seen, by a name that may be. Passwords of before the deploy as well as of after it."""

    values: dict[str, str] = field(repr=False)

    def found_in(self, text: str) -> list[str]:
        """Names of the secrets in a text. Compare this with []: an assertion shows the text it is about."""
        return sorted(name for name, value in self.values.items() if value in text)


def known(host: Host, *stores: Path) -> Known:
    """The secrets in stores: passwords, their SHA-256 as the ACL file has it and as the file of one has it, names."""
    values = {}
    for store in stores:
        secrets = secret_store.load(load({"redis_secrets_dir": str(store)}), host.name)
        for user, password in secrets.passwords.items():
            values[f"password of {user} in {store.name}"] = password
            values[f"hash of {user}'s password in {store.name}"] = sha256(password.encode()).hexdigest()
            values[f"digest of {user}'s file in {store.name}"] = sha256(f"{password}\n".encode()).hexdigest()
        for command, name in secrets.commands.items():
            values[f"name of {command} in {store.name}"] = name
    return Known(values)


@contextmanager
def watched(host: Host) -> Iterator[Callable[[], str]]:
    """Sample every process on a host meanwhile; then call what it gives for all that was seen."""
    # Compiled first: in the background its complaint would be heard by nobody.
    host.run(
        "cat >/run/watch.py && python3 -m py_compile /run/watch.py && touch /run/watch && "
        "{ setsid nice -n -15 python3 /run/watch.py </dev/null >/dev/null 2>&1 & }",
        input=WATCH,
        check=True,
    )

    def seen() -> str:
        return host.run(
            "rm -f /run/watch; for _ in $(seq 100); do [ -e /run/watched ] && break; sleep 0.1; done; "
            "cat /run/watched && rm /run/watched",
            check=True,
        ).stdout

    try:
        yield seen
    finally:
        host.run("rm -f /run/watch")


@dataclass(frozen=True)
class Watched:
    """A deploy, and the arguments and environment of its own process."""

    result: DeployResult = field(repr=False)
    process: str = field(repr=False)


def lose_store(host: Host) -> None:
    """Have the host take passwords from a new store, as an operator does who lost the one before."""
    host.run("rm -f /srv/redis/secrets/server/generation", check=True)


def deploy(deployer: Deployer, host: Host, store: Path, *arguments: str, **settings: Any) -> Watched:
    """Deploy with secrets from a new store, and look at the deploying process while it runs."""
    lose_store(host)
    running = deployer.start(host, arguments=arguments, redis_secrets_dir=str(store), **settings)
    seen: set[str] = set()

    def look() -> None:
        while running.process.poll() is None:
            for name in ("cmdline", "environ"):
                try:
                    seen.add(Path(f"/proc/{running.process.pid}/{name}").read_text(errors="replace"))
                except OSError:
                    return
            time.sleep(0.05)

    looking = threading.Thread(target=look)
    looking.start()
    result = running.wait()
    looking.join()
    return Watched(result, "\n".join(seen))


@pytest.fixture
def store(tmp_path: Path) -> Callable[[str], Path]:
    """Directories for stores; each one new to a deploy makes every secret new."""
    return lambda name: tmp_path / name


@pytest.fixture(scope="module")
def before(host: Host, deployer: Deployer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with which the shared host is deployed before every deploy that is looked at."""
    directory = tmp_path_factory.mktemp("before")
    lose_store(host)
    result = deployer.deploy(host, redis_secrets_dir=str(directory))
    assert result.returncode == 0
    yield directory
    lose_store(host)


def elsewhere_on_disk(host: Host, secrets: Known) -> list[str]:
    """Files of the host with a secret in them, but for those where they belong."""
    listed = host.run(
        "grep -rlaF --devices=skip --exclude-dir=proc --exclude-dir=sys -f - / 2>/dev/null; true",
        input="".join(f"{value}\n" for value in secrets.values.values()),
    ).stdout.splitlines()
    return sorted(path for path in listed if not any(path.startswith(home) for home in AT_HOME))


def test_a_first_deploy_shows_no_secret_to_anyone(host: Host, deployer: Deployer, store: Callable[[str], Path]) -> None:
    """Told to say everything it can, with all processes of host and control machine being looked at."""
    remove_instance(host)
    with watched(host) as seen:
        first = deploy(deployer, host, store("first"), "-y", "-vvv", "--diff", "--debug")
        processes = seen()
    assert first.result.returncode == 0
    secrets = known(host, store("first"))
    assert len(secrets.values) == 4 * 3 + 2

    said = secrets.found_in(first.result.stdout + first.result.stderr)
    assert said == []
    own = secrets.found_in(first.process)
    assert own == []
    # Of what runs for a moment only: Compose, the health check and the questions to Redis.
    assert all(name in processes for name in ("docker compose", "healthcheck.sh", "redis-cli"))
    theirs = secrets.found_in(processes)
    assert theirs == []
    assert elsewhere_on_disk(host, secrets) == []


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
    """With every secret changing. A change that is no secret is shown all the same."""
    done = deploy(deployer, host, store("after"), *arguments, redis_maxmemory="300mb")
    assert done.result.returncode == 0
    text = done.result.stdout + done.result.stderr
    said = known(host, before, store("after")).found_in(text)
    assert said == []
    if "--diff" in arguments:
        for line in ("-maxmemory 1073741824", "+maxmemory 314572800", "secrets/admin: secret, contents not shown"):
            assert any(line in shown for shown in text.splitlines()), line
    if "-y" in arguments:
        assert deployer.deploy(host, redis_secrets_dir=str(before)).returncode == 0


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"redis_renamed_commands": ["CONFIG", "SHUTDOWN", "NOSUCHCOMMAND"]}, id="NOSUCHCOMMAND"),
        pytest.param({"redis_extra_config": {"no-such-directive": "1"}}, id="no-such-directive"),
    ],
)
def test_a_deploy_that_fails_shows_why_and_no_secret(
    settings: dict[str, Any], host: Host, before: Path, deployer: Deployer, store: Callable[[str], Path]
) -> None:
    """Redis quotes the line that it does not like."""
    done = deploy(deployer, host, store("failed"), "-y", "-vvv", "--diff", **settings)
    assert deployer.deploy(host, redis_secrets_dir=str(before)).returncode == 0
    assert done.result.returncode == 1
    text = done.result.stdout + done.result.stderr
    assert any(word in text for word in ("NOSUCHCOMMAND (not shown)", "'no-such-directive 1'"))
    said = known(host, before, store("failed")).found_in(text)
    assert said == []


def test_sudo_and_its_log_are_told_no_secret(host: Host, deployer: Deployer, store: Callable[[str], Path]) -> None:
    """sudo writes down every command line, for all who may read logs. A first deploy, which sends all there is."""
    remove_instance(host, image=False)
    host.run("journalctl --rotate && journalctl --vacuum-time=1s", check=True)
    with watched(host) as seen:
        done = deploy(deployer, host, store("sudo"), "-y", "-vvv", "--diff", ssh_user="operator", _sudo=True)
        processes = seen()
    assert done.result.returncode == 0
    secrets = known(host, store("sudo"))
    log = host.run("journalctl --all --output=cat; cat /var/log/auth.log /var/log/syslog 2>/dev/null").stdout
    assert "COMMAND=" in log
    assert "docker" in log

    for place, text in (("output", done.result.stderr), ("log", log), ("processes", processes), ("own", done.process)):
        found = secrets.found_in(text)
        assert found == [], place
    assert elsewhere_on_disk(host, secrets) == []


def test_processes_of_a_deploy_to_a_running_redis_are_told_no_secret(
    host: Host, before: Path, deployer: Deployer
) -> None:
    """One that changes nothing asks Redis about everything, as every user."""
    with watched(host) as seen:
        done = deploy(deployer, host, before, "-y", "-vvv", "--json")
        processes = seen()
    assert done.result.returncode == 0
    assert json.loads(done.result.stdout)["results"]
    secrets = known(host, before)
    assert "exec -i redis redis-cli" in processes
    theirs = secrets.found_in(processes)
    assert theirs == []
    said = secrets.found_in(done.result.stderr + done.result.stdout)
    assert said == []


def test_the_engine_shows_no_secret(host: Host, before: Path) -> None:
    """Whoever may ask it is told where secrets are and not what they are."""
    asked = host.run(
        "docker inspect redis; docker compose --project-directory /srv/redis config; docker logs redis; "
        "docker top redis; docker image history --no-trunc $(docker inspect --format '{{.Image}}' redis)"
    ).stdout
    assert "redis-server" in asked
    found = known(host, before).found_in(asked)
    assert found == []
