"""Commands: each user may call its own on the server that runs."""

import warnings

import pytest

from redoubt.settings.model import Settings
from tests import command_tables
from tests.host.host_under_test import Target


@pytest.mark.security("least privilege")
def test_users_may_call_exactly_their_reviewed_commands(target: Target, settings: Settings) -> None:
    """The server's own rules say so for every command that it has.

    No user has a command that a newer version brought. A warning names these commands.
    """
    unreviewed = command_tables.check_server(target.client("admin", protocol=2), settings)
    if unreviewed:
        names = ", ".join(sorted(unreviewed))
        warnings.warn(f"no user may call these commands, which were not reviewed: {names}", stacklevel=1)
