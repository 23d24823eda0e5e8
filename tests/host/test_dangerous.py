"""Dangerous commands, whatever the settings disable: what erases everything, runs code or looks inside is nobody's.

test_access.py says which names the settings took from commands.
"""

import pytest
from redis.exceptions import ResponseError

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target

pytestmark = pytest.mark.security("dangerous commands")


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB", "DEBUG SLEEP 0", "EVAL x 0"])
def test_no_user_has(target: Target, command: str) -> None:
    """Asked of the server by its own rules, for every user who can log in."""
    pipeline = target.admin.pipeline(transaction=False)
    for user in target.users:
        pipeline.execute_command("ACL", "DRYRUN", user, *command.split())
    answers = dict(zip(target.users, pipeline.execute(raise_on_error=False), strict=True))
    # Where the command is disabled, the server does not know what it is asked about.
    unknown = {
        user for user, answer in answers.items() if isinstance(answer, ResponseError) and "not found" in str(answer)
    }
    assert [user for user, answer in answers.items() if user not in unknown and "permissions" not in str(answer)] == []


def test_no_code_was_left_in_the_server(target: Target, settings: Settings) -> None:
    """Functions outlast restarts, and modules have every right: none is there but modules that the settings load."""
    info = target.admin.info("everything")
    assert info["number_of_functions"] == 0
    # Part of Redis itself since 8.0.
    loaded = {module["name"] for module in info.get("modules", [])} - {"vectorset"}
    assert loaded == set() or "loadmodule" in settings.redis_extra_config
