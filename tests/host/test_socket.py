"""The Unix socket for applications on the host.

It exists if the settings say so, and only its group can use it.
"""

import pytest

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, quoted

pytestmark = pytest.mark.security("network")


def test_socket_exists_only_if_configured(target: Target, settings: Settings) -> None:
    """No other socket is below the root.

    Without this one, the container has a private socket for docker exec.
    """
    assert target.config()["unixsocket"] == "/run/redis/redis.sock"
    sockets = target.host.check_output(f"find {quoted(settings.root)} -ignore_readdir_race -type s")
    assert sockets == settings.unix_socket


def test_only_the_socket_group_can_use_the_socket(target: Target, settings: Settings) -> None:
    """A member of the group can write to it, another user cannot."""
    if not settings.redis_unix_socket:
        assert target.host.run(f"test -e {quoted(settings.root)}/socket/redis.sock").rc == 1
        return
    socket = quoted(settings.unix_socket)
    expected = f"{settings.redis_uid}:{settings.redis_unix_socket_gid} 770"
    assert target.host.check_output(f"stat -c '%u:%g %a' {socket}") == expected
    allowed = {
        gid: target.host.run(f"setpriv --reuid 65533 --regid {gid} --clear-groups test -w {socket}").succeeded
        for gid in (settings.redis_unix_socket_gid, 65533)
    }
    assert allowed == {settings.redis_unix_socket_gid: True, 65533: False}
