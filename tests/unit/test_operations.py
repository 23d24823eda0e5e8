"""Operations: what the output shows of redisctl calls and of Redis errors.

A call shows its verb and never its request. A Redis error is shown without secrets.
"""

import hashlib
from typing import Any

from redisctl.deploy.preview import mask_secrets
from redisctl.schema import AclRequest
from redoubt.facts.paths import HiddenStdin
from redoubt.operations.common import RedisctlCall, _result
from redoubt.settings.load import load

HASH = hashlib.sha256(b"a password").hexdigest()


def test_redisctl_call_shows_its_verb_but_not_its_request() -> None:
    """pyinfra prints commands with --debug-operations."""
    call = RedisctlCall(load({}), "deploy", "acl", request=AclRequest(f"user admin on #{HASH} ~* +@all\n"))
    assert (repr(call), str(call)) == ("redisctl deploy acl", "redisctl deploy acl")


def test_hidden_stdin_is_sent_but_not_shown() -> None:
    """pyinfra prints the arguments of facts with -vv and --debug-facts."""
    text: Any = HiddenStdin(f"{HASH}\n")
    assert HASH not in f"{text} {text!r}"
    assert [*text.splitlines()] == [HASH]


def test_result_of_a_dead_redisctl_is_its_output() -> None:
    assert _result([], ["Killed"]).error == "Killed"
    assert "printed no result" in _result([], []).error


def test_server_errors_are_masked() -> None:
    text = mask_secrets(f"user admin on #{HASH}\n>>> 'rename-command CONFIG config-0123456789'")
    assert text == "user admin on (hash not shown)\n>>> 'rename-command CONFIG (not shown)'"
