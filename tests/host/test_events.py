"""Events: the application hears when a session has expired."""

import time

import pytest
from redis import Redis
from redis.client import PubSub

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target

# Redis looks for expired keys ten times a second.
PATIENCE = 2.0


def _hears(subscriber: PubSub, key: str) -> bool:
    """Whether a subscriber is told of a key in time; others' sessions may expire meanwhile."""
    end = time.monotonic() + PATIENCE
    while (left := end - time.monotonic()) > 0:
        message = subscriber.get_message(ignore_subscribe_messages=True, timeout=left)
        if message and message["data"] == key:
            return True
    return False


@pytest.mark.writes
@pytest.mark.usefixtures("undenied")
@pytest.mark.parametrize("way", ["channel", "pattern"])
def test_application_hears_of_an_expired_session(
    target: Target, settings: Settings, sessions: Redis, session_key: str, way: str
) -> None:
    """By the sessions user, who may subscribe to this and nothing else; where the settings publish it."""
    subscriber = target.client("sessions").pubsub()
    if way == "channel":
        subscriber.subscribe("__keyevent@0__:expired")
    else:
        subscriber.psubscribe("__keyevent@*__:expired")
    # The confirmation: the key must not expire before.
    assert subscriber.get_message(timeout=PATIENCE)
    sessions.set(session_key, "v", px=50)
    classes = set(settings.redis_notify_keyspace_events)
    assert _hears(subscriber, session_key) == ("E" in classes and bool(classes & set("xA")))
    subscriber.close()
