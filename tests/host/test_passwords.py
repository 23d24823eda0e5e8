"""Passwords: strong, each user's own, and the same after a restart as now."""

import pytest

from redoubt.secret_store import MIN_PASSWORD_LENGTH, Secrets
from redoubt.settings.model import Settings
from tests.conftest import FLEET
from tests.host.host_under_test import Target, quoted

pytestmark = pytest.mark.security("authentication")


def test_passwords_cannot_be_guessed(secrets: Secrets) -> None:
    """128 bits at the least; what Redoubt generates has 256. By length and kinds of characters: none is shown."""
    weak = [
        user
        for user, password in secrets.passwords.items()
        if len(password) < MIN_PASSWORD_LENGTH or len(set(password)) < MIN_PASSWORD_LENGTH // 2
    ]
    assert weak == []


def test_every_password_is_one_users_on_one_host(target: Target, request: pytest.FixtureRequest) -> None:
    """Who learns one has one user of one Redis, and no other."""
    others = [other for other in request.config.stash[FLEET].targets.values() if other is not target]
    own = list(target.secrets.passwords.values())
    foreign = {password for other in others for password in other.secrets.passwords.values()}
    assert (len(own) - len(set(own)), len(foreign & set(own))) == (0, 0)


def test_a_restart_lets_in_the_same_users_as_now(target: Target, settings: Settings) -> None:
    """The ACL file is what Redis reads then. It holds hashes alone, and the very ones that the server has."""
    lines = target.host.check_output(f"cat {quoted(settings.root)}/config/users.acl").splitlines()
    rules = {words[1]: words[2:] for words in map(str.split, lines) if words[:1] == ["user"]}
    assert [name for name, words in rules.items() if any(word[0] in "><" for word in words)] == [], "not hashed"
    assert set(rules) == set(target.admin.acl_users())
    different = [name for name, words in rules.items() if _logins(words) != _logins(_running(target, name))]
    assert different == []


def _running(target: Target, user: str) -> list[str]:
    """A user's rules as the server has them."""
    (rules,) = [rules for rules in (str(line).split() for line in target.admin.acl_list()) if rules[1] == user]
    return rules[2:]


def _logins(rules: list[str]) -> tuple[bool, bool, set[str]]:
    """Whether the user is on, needs no password, and the hashes of those that it has."""
    return "on" in rules, "nopass" in rules, {rule for rule in rules if rule.startswith("#")}
