"""Every verb against a Redis that somebody has taken over, and its files.

The verbs come from the program itself, so a new one cannot be forgotten.
"""

from collections.abc import Iterator

import pytest

from tests.redisctl import fake_redis, hostile_host
from tests.redisctl.hostile_host import FakeServer, HostileHost, Result

MIB = 1024**2
# Bytes: an idle verb takes 45 MiB. Seconds: redisctl waits half a second for an answer here.
MAX_MEMORY = 200 * MIB
MAX_SECONDS = 30
# Verbs that connect to no Redis, as far as this host needs it.
OFFLINE = {
    "history",
    "log",
    "backup list",
    "backup fetch",
    "backup check",
    "backup prune",
    "import cancel",
    "recover",
    "deploy start-service",
    "deploy check-acl",
    "deploy activedefrag",
    "deploy replace-files",
    "deploy change-owner",
}
# Answers that no Redis gives. The others may be an answer to some command.
IMPOSSIBLE = ("length", "count", "depth", "line", "bulk", "trickle", "error")
LATE = ("null-late", "text-late")
# Exit codes after an impossible answer that report it: health is critical, the others say what is wrong.
EXIT_CODES = {"health": 2, "state": 0, "import status": 0, "start": 0, "undo-changes": 0}


@pytest.fixture(scope="module")
def servers(host: HostileHost) -> Iterator[dict[str, FakeServer]]:
    """Give a fake Redis of each kind."""
    with host.servers((*fake_redis.KINDS, *LATE)) as servers:
        yield servers


@pytest.fixture(scope="module")
def shaped_server(host: HostileHost) -> Iterator[FakeServer]:
    """Give a fake Redis whose answers have the right shape, and hostile names."""
    with host.servers([fake_redis.SHAPED]) as servers:
        yield servers[fake_redis.SHAPED]


@pytest.mark.parametrize("verb", hostile_host.verbs())
def test_hostile_answer_is_bounded_and_reported(verb: str, host: HostileHost, servers: dict[str, FakeServer]) -> None:
    """Every verb ends soon, in little memory, with one message.

    The message controls no terminal.
    """
    if verb in OFFLINE:
        server = servers["text"]
        before = server.connections
        (result,) = host.run([(verb, server)])
        check_output(result)
        assert server.connections == before
        return
    before_each = {kind: server.connections for kind, server in servers.items()}
    for kind, result in zip(servers, host.run([(verb, server) for server in servers.values()]), strict=True):
        check_output(result)
        if kind in IMPOSSIBLE:
            assert result.code == EXIT_CODES.get(verb, 3), (kind, result)
    for kind, server in servers.items():
        assert server.connections > before_each[kind], kind


def check_output(result: Result) -> None:
    """Expect that a verb stayed within its bounds, and printed only text."""
    assert result.memory < MAX_MEMORY, result
    assert result.took < MAX_SECONDS, result
    assert result.code in (0, 1, 2, 3), result
    assert "Traceback" not in result.output, result
    # Programs of this host print nothing, which is no answer of Redis.
    assert result.verb in OFFLINE or "report this as a bug" not in result.output, result
    lines = result.output.splitlines()
    for line in lines:
        assert line.isprintable(), result
    assert sum(line.startswith("redisctl: ") for line in lines) <= 1, result
    assert not any(line.startswith("redisctl: all is well") for line in lines), result


def test_hostile_names_control_no_terminal(host: HostileHost, shaped_server: FakeServer) -> None:
    """Every verb escapes what others have named or written.

    These are files, keys, clients, backups, hosts, lines of logs and errors.
    """
    results = {result.verb: result for result in host.run([(verb, shaped_server) for verb in hostile_host.verbs()])}
    for result in results.values():
        check_output(result)
    # These print the names.
    for verb in ("history", "backup list", "slowlog", "latency", "memory", "queues", "top", "health", "stats"):
        assert "forged" in results[verb].output, results[verb]


@pytest.mark.parametrize("kind", fake_redis.MALFORMED_INFO)
def test_malformed_info_hides_nothing(kind: str, host: HostileHost) -> None:
    """Every verb that asks Redis ends with one message.

    Health reports what it knows of the host.
    """
    with host.servers([kind]) as servers:
        online = [(verb, servers[kind]) for verb in hostile_host.verbs() if verb not in OFFLINE]
        results = {result.verb: result for result in host.run(online)}
    for result in results.values():
        check_output(result)
    health = results["health"]
    assert health.code == 2, health
    assert "the answers of Redis cannot be read" in health.stdout
    for name in ("memory", "clients", "network filter", "disk", "backup"):
        assert f"  {name}  " in health.stdout, health
    for verb in ("stats", "top", "memory"):
        assert results[verb].code == 3, results[verb]
        assert "the answers of Redis cannot be read" in results[verb].stderr, results[verb]
