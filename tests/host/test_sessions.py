"""Sessions: a real Flask application with Flask-Session, as the sessions user."""

from collections.abc import Iterator

import flask
import pytest
from flask.testing import FlaskClient
from flask_session import Session
from redis import Redis

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target

LIFETIME = 7200

pytestmark = [pytest.mark.writes, pytest.mark.usefixtures("undenied")]


def _application(target: Target) -> flask.Flask:
    """Return the application of one process, with its own connection."""
    app = flask.Flask("redoubt_test")
    app.config.update(
        SESSION_TYPE="redis",
        # Flask-Session stores binary values.
        SESSION_REDIS=target.client("sessions", decode_responses=False),
        SESSION_KEY_PREFIX=target.settings.session_keys.removesuffix("*"),
        PERMANENT_SESSION_LIFETIME=LIFETIME,
    )
    Session(app)

    @app.post("/login/<name>")
    def login(name: str) -> str:
        flask.session["user"] = name
        return "in"

    @app.get("/")
    def who() -> str:
        return str(flask.session.get("user", "anonymous"))

    @app.post("/logout")
    def logout() -> str:
        flask.session.clear()
        return "out"

    return app


@pytest.fixture
def browser(target: Target) -> Iterator[FlaskClient]:
    """Return a browser with a session. The session is removed afterwards."""
    client = _application(target).test_client()
    client.post(f"/login/{target.mark}")
    key = _key(client, target.settings)
    yield client
    target.admin.delete(key)


def _key(browser: FlaskClient, settings: Settings) -> str:
    """Return the Redis key of the browser's session."""
    cookie = browser.get_cookie("session")
    assert cookie is not None
    return settings.session_keys.replace("*", cookie.value)


def test_processes_share_a_session(target: Target, browser: FlaskClient) -> None:
    """Another process of the application sees the session.

    This is the reason to keep sessions in Redis.
    """
    cookie = browser.get_cookie("session")
    assert cookie is not None
    other = _application(target).test_client()
    assert other.get("/").text == "anonymous"
    other.set_cookie("session", cookie.value)
    assert other.get("/").text == target.mark


def test_session_expires(browser: FlaskClient, settings: Settings, sessions: Redis) -> None:
    """A session expires a lifetime after its last use.

    Without a TTL it could not be evicted either.
    """
    key = _key(browser, settings)
    assert 0 < LIFETIME - sessions.ttl(key) + 1 <= 10
    sessions.expire(key, 60)
    browser.get("/")
    assert sessions.ttl(key) > LIFETIME - 10


def test_logout_removes_the_session(browser: FlaskClient, settings: Settings, sessions: Redis) -> None:
    """The session ends at once and for all processes."""
    key = _key(browser, settings)
    assert sessions.exists(key) == 1
    browser.post("/logout")
    assert sessions.exists(key) == 0
    assert browser.get("/").text == "anonymous"
