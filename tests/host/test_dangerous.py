"""Dangerous commands that no user may call, whatever the settings disable.

They erase everything, run code or inspect the server. test_access.py checks the commands that the settings disable or
rename.
"""

import pytest
from redis.exceptions import ResponseError

from redoubt.settings.model import Settings
from tests.host.host_under_test import Target

pytestmark = pytest.mark.security("dangerous commands")


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB", "DEBUG SLEEP 0", "EVAL x 0"])
def test_no_user_may_call(target: Target, command: str) -> None:
    """The server's own rules deny the command to every user that can log in."""
    pipeline = target.admin.pipeline(transaction=False)
    for user in target.users:
        pipeline.execute_command("ACL", "DRYRUN", user, *command.split())
    answers = dict(zip(target.users, pipeline.execute(raise_on_error=False), strict=True))
    # The server does not know a disabled command.
    unknown = {
        user for user, answer in answers.items() if isinstance(answer, ResponseError) and "not found" in str(answer)
    }
    assert [user for user, answer in answers.items() if user not in unknown and "permissions" not in str(answer)] == []


def test_server_has_no_code_but_the_settings_modules(target: Target, settings: Settings) -> None:
    """Functions survive restarts, and modules have every right."""
    info = target.admin.info("everything")
    assert info["number_of_functions"] == 0
    # vectorset has been a part of Redis since 8.0.
    loaded = {module["name"] for module in info.get("modules", [])} - {"vectorset"}
    assert loaded == set() or "loadmodule" in settings.redis_extra_config
