"""redis-py itself: locks, and some roles.

For these roles, no library has an application of its own.
"""

import pytest
from redis.exceptions import LockNotOwnedError

from tests.deployed_redis import Connect

pytestmark = pytest.mark.usefixtures("no_denials")


def test_locks_work_without_eval(connect: Connect) -> None:
    lock = connect("orders").lock("orders:lock", timeout=10)
    assert lock.acquire(blocking=False)
    assert lock.extend(5)
    assert lock.reacquire()
    other = connect("orders").lock("orders:lock", timeout=10)
    assert not other.acquire(blocking=False)
    lock.release()
    with pytest.raises(LockNotOwnedError):
        _release_lock_of_another_client(connect)


def _release_lock_of_another_client(connect: Connect) -> None:
    client = connect("orders")
    lock = client.lock("orders:lost", timeout=10)
    assert lock.acquire(blocking=False)
    client.set("orders:lost", "another's", ex=10)
    lock.release()


def test_dashboard_reads_numbers_with_metrics_role(connect: Connect) -> None:
    client = connect("exporter", protocol=2)
    assert client.role()[0] == b"master"
    for command in ("INFO ALL", "LATENCY HISTORY command", "MEMORY STATS", "DBSIZE", "LASTSAVE"):
        client.execute_command(*command.split())


def test_read_only_and_custom_users_can_do_their_work(connect: Connect) -> None:
    connect("pages").set("pages:read", "x", ex=60)
    assert connect("reports").get("pages:read") == b"x"
    assert connect("reports").ttl("pages:read") == 60
    assert connect("map").geoadd("map:places", (13.4, 52.5, "here")) == 1
    assert connect("map").geodist("map:places", "here", "here") == 0
