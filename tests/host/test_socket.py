"""The unix socket, for applications on the host: there when the settings say so, for its group and nobody else."""

import pytest

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target, quoted

pytestmark = pytest.mark.security("network")


def test_the_host_has_a_socket_only_where_the_settings_say(target: Target, settings: Settings) -> None:
    """None below the root but this one; the server has another of its own otherwise, for root by docker exec."""
    assert target.config()["unixsocket"] == "/run/redis/redis.sock"
    found = target.host.check_output(f"find {quoted(settings.root)} -ignore_readdir_race -type s")
    assert found == settings.unix_socket


def test_the_socket_is_for_its_group_and_for_nobody_else(target: Target, settings: Settings) -> None:
    """Asked as a member of the group, and as somebody who is in none."""
    if not settings.redis_unix_socket:
        assert target.host.run(f"test -e {quoted(settings.root)}/socket/redis.sock").rc == 1
        return
    socket = quoted(settings.unix_socket)
    assert target.host.check_output(f"stat -c '%u:%g %a' {socket}") == f"999:{settings.redis_unix_socket_gid} 770"
    allowed = {
        gid: target.host.run(f"setpriv --reuid 65533 --regid {gid} --clear-groups test -w {socket}").succeeded
        for gid in (settings.redis_unix_socket_gid, 65533)
    }
    assert allowed == {settings.redis_unix_socket_gid: True, 65533: False}
