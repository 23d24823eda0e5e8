"""Events: the application learns that a session expired."""

import time

import pytest
from redis import Redis
from redis.client import PubSub

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target

# Seconds.
TIMEOUT = 2.0


def _receives(subscriber: PubSub, key: str) -> bool:
    """Return whether a subscriber gets the event of a key in time.

    Other keys may expire as well.
    """
    end = time.monotonic() + TIMEOUT
    while (remaining := end - time.monotonic()) > 0:
        message = subscriber.get_message(ignore_subscribe_messages=True, timeout=remaining)
        if message and message["data"] == key:
            return True
    return False


@pytest.mark.writes
@pytest.mark.usefixtures("undenied")
@pytest.mark.parametrize("subscription", ["channel", "pattern"])
def test_application_hears_of_an_expired_session(
    target: Target, settings: Settings, sessions: Redis, session_key: str, subscription: str
) -> None:
    """The sessions user gets expiry events if the settings publish them.

    It may subscribe to these events only.
    """
    subscriber = target.client("sessions").pubsub()
    if subscription == "channel":
        subscriber.subscribe("__keyevent@0__:expired")
    else:
        subscriber.psubscribe("__keyevent@*__:expired")
    # The key must not expire before Redis has confirmed the subscription.
    assert subscriber.get_message(timeout=TIMEOUT)
    sessions.set(session_key, "v", px=50)
    time.sleep(0.1)
    # Redis removes the key when it is read. By itself it would take seconds to find it among many keys with a TTL.
    assert sessions.get(session_key) is None
    classes = set(settings.redis_notify_keyspace_events)
    assert _receives(subscriber, session_key) == ("E" in classes and bool(classes & set("xA")))
    subscriber.close()
