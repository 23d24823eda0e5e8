"""Passwords: strong, different for each user, and the same after a restart."""

import pytest

from redoubt.secret_store import MIN_PASSWORD_LENGTH, Secrets
from redoubt.settings.model import Settings
from tests.conftest import FLEET
from tests.host.host_under_test import Target, quoted

pytestmark = pytest.mark.security("authentication")


def test_passwords_cannot_be_guessed(secrets: Secrets) -> None:
    """Length and variety are those of 128 bits at least.

    Generated passwords have 256 bits. No password is shown.
    """
    weak = [
        user
        for user, password in secrets.passwords.items()
        if len(password) < MIN_PASSWORD_LENGTH or len(set(password)) < MIN_PASSWORD_LENGTH // 2
    ]
    assert weak == []


def test_each_password_belongs_to_one_user_of_one_host(target: Target, request: pytest.FixtureRequest) -> None:
    """A leaked password opens one user of one Redis."""
    other_targets = [other for other in request.config.stash[FLEET].targets.values() if other is not target]
    passwords = list(target.secrets.passwords.values())
    foreign = {password for other in other_targets for password in other.secrets.passwords.values()}
    assert (len(passwords) - len(set(passwords)), len(foreign & set(passwords))) == (0, 0)


def test_restart_keeps_the_current_passwords(target: Target, settings: Settings) -> None:
    """The ACL file, which Redis reads at startup, has the running server's hashes.

    It has no password in plain text.
    """
    lines = target.host.check_output(f"cat {quoted(settings.root)}/config/users.acl").splitlines()
    rules = {words[1]: words[2:] for words in map(str.split, lines) if words[:1] == ["user"]}
    # ">" adds a password in plain text to a user, and "<" removes one.
    plain = [name for name, user_rules in rules.items() if any(rule[0] in "><" for rule in user_rules)]
    assert plain == [], "a password is not hashed"
    assert set(rules) == set(target.admin.acl_users())
    different = [
        name for name, user_rules in rules.items() if _logins(user_rules) != _logins(_running_rules(target, name))
    ]
    assert different == []


def _running_rules(target: Target, user: str) -> list[str]:
    """Return a user's rules of the running server."""
    (rules,) = [rules for rules in (str(line).split() for line in target.admin.acl_list()) if rules[1] == user]
    return rules[2:]


def _logins(rules: list[str]) -> tuple[bool, bool, set[str]]:
    """Return whether the user is on and needs no password, and its hashes."""
    return "on" in rules, "nopass" in rules, {rule for rule in rules if rule.startswith("#")}
