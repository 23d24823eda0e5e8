"""Flask-Session, as a user with the role session.

tests/host has more tests of it, as the user sessions.
"""

import flask
import pytest
from flask_session import Session

from tests.deployed_redis import Connect


@pytest.mark.usefixtures("no_denials")
@pytest.mark.parametrize("user", ["flask", "express"])
def test_session_is_kept_between_requests(connect: Connect, user: str) -> None:
    app = flask.Flask(user)
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=connect(user), SESSION_KEY_PREFIX=f"{user}:session:")
    Session(app)

    @app.route("/<name>")
    def visit(name: str) -> str:
        previous = flask.session.get("name", "anonymous")
        flask.session["name"] = name
        return str(previous)

    browser = app.test_client()
    assert [browser.get(f"/{name}").text for name in ("ann", "bob")] == ["anonymous", "ann"]
