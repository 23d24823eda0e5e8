"""express-session with connect-redis over node-redis: real requests by HTTP.

The application connects as a user with the role session.
"""

import http.client
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.apps.node import Node
from tests.deployed_redis import Connect, Instance, wait_until

LIFETIME = 7200


@dataclass
class Browser:
    """A client of an application, with the cookie of its session."""

    port: int
    cookie: str = field(default="", repr=False)

    def get(self, path: str) -> str:
        """Send a request, which must succeed, and return the answer's body."""
        server = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        server.request("GET", path, headers={"Cookie": self.cookie} if self.cookie else {})
        response = server.getresponse()
        body = response.read().decode()
        server.close()
        assert response.status == 200, (path, response.status, body)
        self.cookie = (response.getheader("Set-Cookie") or self.cookie).partition(";")[0]
        return body

    @property
    def key(self) -> str:
        """Return the session's key in Redis.

        The cookie is ``connect.sid=s%3A<session>.<signature>``.
        """
        return "express:session:" + self.cookie.partition("%3A")[2].partition(".")[0]


@pytest.fixture(scope="module")
def ports(connection: Callable[[str], str], installed_node: Node) -> Iterator[tuple[int, int]]:
    """Start two processes of the application, and give the ports that they serve."""
    with (
        application(connection("express"), installed_node) as first,
        application(connection("express"), installed_node) as second,
    ):
        yield first, second


@contextmanager
def application(connection: str, node: Node) -> Iterator[int]:
    """Start the application and give its port. It must end without an error."""
    process = subprocess.Popen(
        node.command("express_session_app.js"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({**json.loads(connection), "lifetime": LIFETIME}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        yield int(line or 0)
    finally:
        # It ends with its standard input.
        _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (0, "")


@pytest.fixture
def browser(redis: Instance, ports: tuple[int, int]) -> Iterator[Browser]:
    """Give a client with a session.

    Afterwards, check that Redis denied the application nothing.
    """
    redis.call("ACL LOG RESET")
    browser = Browser(ports[0])
    assert browser.get("/visit/ann") == "anonymous"
    yield browser
    assert redis.call("ACL LOG") == [""]


def test_processes_share_a_session(browser: Browser, ports: tuple[int, int]) -> None:
    assert browser.get("/visit/bob") == "ann"
    other = Browser(ports[1])
    assert other.get("/") == "anonymous"
    other.cookie = browser.cookie
    assert other.get("/") == "bob"


def test_session_expires(browser: Browser, connect: Connect) -> None:
    """A session expires a lifetime after its last request.

    Then it is gone for the application.
    """
    client = connect("express")
    assert LIFETIME - 10 < client.ttl(browser.key) <= LIFETIME
    client.expire(browser.key, 60)
    assert browser.get("/") == "ann"
    assert client.ttl(browser.key) > LIFETIME - 10
    client.pexpire(browser.key, 1)
    wait_until(lambda: not client.exists(browser.key), "the session expires", 5)
    assert browser.get("/") == "anonymous"


def test_logout_removes_the_session(browser: Browser, connect: Connect) -> None:
    client, key, cookie = connect("express"), browser.key, browser.cookie
    assert client.exists(key) == 1
    assert browser.get("/logout") == "out"
    assert client.exists(key) == 0
    browser.cookie = cookie
    assert browser.get("/") == "anonymous"


def test_listing_all_sessions_is_refused(redis: Instance, ports: tuple[int, int]) -> None:
    """Redis refuses to list all sessions.

    SCAN would list the keys of all users, and the key of a session contains its cookie.
    """
    redis.call("ACL LOG RESET")
    assert "no permissions to run the 'scan' command" in Browser(ports[0]).get("/all")
    assert "scan" in redis.call("ACL LOG")
