"""The unix socket, for applications on the host: there when the settings say so, for its group and nobody else."""

import pytest

from redoubt.settings import Settings
from tests.host.target import Target, quoted

pytestmark = pytest.mark.security("network")


def test_redis_listens_on_a_socket_only_where_the_settings_say(target: Target, settings: Settings) -> None:
    """By the server's word, and by the host's: none below the root but this one."""
    assert target.config()["unixsocket"] == ("/run/redis/redis.sock" if settings.redis_unix_socket else "")
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
