"""A server with commands that the tables lack, as a newer version has."""

from pathlib import Path

import pytest

from redoubt import acl
from tests import command_tables
from tests.redisctl.local_redis import LocalRedis

# The table ends here; the server is newer.
KNOWN = "7.2"


def forget_new_commands(commands: dict[str, list[str]]) -> None:
    """Keep the commands of ``KNOWN``, one of them with another category."""
    known = tuple(map(int, KNOWN.split(".")))
    for name, (since, *_) in list(commands.items()):
        if tuple(map(int, since.split("."))) > known:
            del commands[name]
    commands["get"].append("geo")


def test_new_commands_are_reported_and_out_of_reach(redis: LocalRedis, tmp_path: Path) -> None:
    """New commands and changed categories are no failure.

    A user who may call a new command is one.
    """
    client = redis.client("admin", protocol=2, decode_responses=True)
    assert command_tables.check_server(client, redis.settings) == set()
    try:
        with command_tables.replaced(tmp_path, KNOWN, forget_new_commands):
            table = acl.table_of(redis.settings)
            for user in acl.users(redis.settings):
                client.execute_command("ACL", "SETUSER", user.name, *user.rules(table).split())
            unreviewed = command_tables.check_server(client, redis.settings)
            assert {"hgetdel", "vadd"} <= unreviewed
            client.execute_command("ACL", "SETUSER", "queues", "+hgetdel")
            with pytest.raises(AssertionError, match=r"queues: \{'hgetdel'\}"):
                command_tables.check_server(client, redis.settings)
        # The table of this version must be right.
        with (
            command_tables.replaced(tmp_path, "8.6.3", lambda commands: commands["get"].append("geo")),
            pytest.raises(AssertionError, match=r"categories: \{'get'\}"),
        ):
            command_tables.check_server(client, redis.settings)
    finally:
        client.execute_command("ACL", "LOAD")
        client.close()
