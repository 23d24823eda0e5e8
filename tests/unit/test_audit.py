"""The security report: only tests that ran and passed prove a control.

The docs have the same promises.
"""

import ast
from pathlib import Path
from typing import Any

import pytest

from redoubt.settings.load import load
from tests.host.audit import reasons, title
from tests.host.controls import CONTROLS, Check, Control, Verdict, verdict
from tests.lifecycle.audit_harms import NEVER_FAILED, ROUNDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "audit.md"
HOST_TESTS = ROOT / "tests" / "host"
CONTROL = Control("A promise.")


def checks(*outcomes: str) -> list[Check]:
    return [Check("network", "redis-1", f"test_{outcome}", outcome, "", outcome) for outcome in outcomes]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["passed"], Verdict("proven", "proven by 1 test")),
        (["passed", "passed", "left out"], Verdict("proven", "proven by 2 tests, 1 left out")),
        (["passed", "failed", "not run"], Verdict("failed", "FAILED: 1 of 2 tests")),
        (["left out"], Verdict("left out", "left out: 1 test", "all of its tests are left out, see below")),
        ([], Verdict("not proven", "not proven", "no test of it was collected")),
        (
            ["passed", "not selected"],
            Verdict("not proven", "not proven (1 passed)", "of its tests, 1 not selected"),
        ),
        (
            ["skipped", "not run", "left out"],
            Verdict("not proven", "not proven", "of its tests, 1 not run, 1 skipped"),
        ),
    ],
)
def test_only_passed_tests_prove_a_control(outcomes: list[str], expected: Verdict) -> None:
    assert verdict(CONTROL, checks(*outcomes), load({})) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("test_apparmor_confines_redis", "AppArmor confines Redis"),
        ("test_old_tls_versions_are_refused", "Old TLS versions are refused"),
        ("test_new_names_cannot_be_guessed", "New names cannot be guessed"),
    ],
)
def test_titles_are_spelt_as_people_write(function: str, expected: str) -> None:
    assert title(function) == expected


def test_control_that_lacks_a_part_is_never_proven() -> None:
    incomplete = Control("A promise.", lacks="half of it is not tested.")
    assert verdict(incomplete, checks("passed"), load({})) == Verdict(
        "not proven", "not proven (1 passed)", incomplete.lacks
    )
    assert verdict(incomplete, checks("passed", "failed"), load({})).state == "failed"


def test_skipped_test_gives_its_reason() -> None:
    (skipped,) = checks("skipped")
    skipped.reason = "the store is elsewhere"
    assert verdict(CONTROL, [skipped], load({})).reason == "of its tests, 1 skipped: the store is elsewhere"


OPEN = {"redis_bind": ["10.0.0.5", "fd00::5"]}


@pytest.mark.parametrize(
    ("control", "settings", "reason"),
    [
        ("authentication", {"redis_enable_default_user": True}, "a client needs only a password, no user name"),
        (
            "least privilege",
            {"redis_users": {"reader": {"role": "read-only", "keys": ["shop:*", "**"]}}},
            "redis_users: the key patterns of reader match the keys of all other users",
        ),
        ("dangerous commands", {"redis_disabled_commands": ["FLUSHALL", "DEBUG", "EVAL"]}, "leave out FLUSHDB: only"),
        ("dangerous commands", {"redis_renamed_commands": []}, "leave out CONFIG, SHUTDOWN: only"),
        (
            "dangerous commands",
            {"redis_extra_config": {"loadmodule": "/usr/lib/redis/modules/redisbloom.so"}},
            "redis_extra_config loads a module, whose code has every right",
        ),
        ("network", OPEN, "Redis at 10.0.0.5, fd00::5, and redis_allow_from is empty: every host that reaches this"),
        ("network", {"redis_bind": ["::"], "redis_tls": "required", "redis_tls_names": ["a"]}, "Redis at ::, and"),
        ("network", {**OPEN, "redis_allow_from": ["10.0.0.0/8", "::/0"]}, "admits every host (IPv6)"),
        ("network", {**OPEN, "redis_allow_from": ["0.0.0.0/1", "128.0.0.0/1"]}, "admits every host (IPv4)"),
        (
            "TLS",
            {},
            "redis_tls = 'off': no other host reaches the port, but connections on the host need no encryption",
        ),
        (
            "availability",
            {"redis_unix_socket": True, "redis_unix_socket_gid": 4321},
            "redis_unix_socket_gid = 4321: no limit of connections holds for members of this group",
        ),
        ("TLS", OPEN, "redis_tls = 'off': a port without TLS is published at 10.0.0.5, fd00::5, and others on the way"),
        ("TLS", {**OPEN, "redis_tls": "both"}, "redis_tls = 'both': a port without TLS is published at 10.0.0.5"),
    ],
)
def test_protection_that_settings_turn_off_is_not_proven(control: str, settings: dict[str, Any], reason: str) -> None:
    """Its tests pass, because they compare the host with the settings.

    A failure is still a failure.
    """
    loaded = load(settings)
    result = verdict(CONTROLS[control], checks("passed", "left out"), loaded)
    assert (result.state, result.text) == ("off", "off by the settings (1 passed)")
    assert reason in result.reason
    assert verdict(CONTROLS[control], checks("passed", "failed"), loaded).state == "failed"
    assert reasons({"redis-1": result}, "off") == [result.reason]
    assert reasons({"redis-1": result}, "not proven") == []


@pytest.mark.parametrize(
    "settings",
    [
        {"redis_tls": "required"},
        {"redis_tls": "required", **OPEN, "redis_allow_from": ["10.0.0.0/8"]},
        {"redis_tls": "required", "redis_users": {"shop": {"role": "session", "keys": ["shop:*"]}}},
        # A command may be disabled instead of renamed.
        {"redis_tls": "required", "redis_disabled_commands": ["FLUSHDB", "FLUSHALL", "DEBUG", "EVAL", "CONFIG"]}
        | {"redis_renamed_commands": ["SHUTDOWN"]},
    ],
)
def test_settings_that_protect_leave_every_control_on(settings: dict[str, Any]) -> None:
    assert {name: control.off(load(settings)) for name, control in CONTROLS.items()} == dict.fromkeys(CONTROLS, "")


def security_tests() -> set[str]:
    """Return the names of all tests that prove a control."""
    names: set[str] = set()
    for path in HOST_TESTS.glob("test_*.py"):
        body = ast.parse(path.read_text()).body
        marks = [node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"]
        for test in (node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")):
            if "mark.security(" in "".join(map(ast.unparse, [*marks, *test.decorator_list])):
                names.add(test.name)
    return names


def test_every_control_is_shown_red() -> None:
    """Each control has a harm in tests/lifecycle/test_audit.py that fails it."""
    failed = {control for harms in ROUNDS.values() for harm in harms for control in harm.failures}
    assert failed == set(CONTROLS)


def test_every_test_of_a_control_is_shown_red() -> None:
    """A test that no harm fails gives a reason in NEVER_FAILED."""
    failures = [tests for harms in ROUNDS.values() for harm in harms for tests in harm.failures.values()]
    failed = {name.partition("[")[0] for tests in failures for name in tests}
    assert failed | set(NEVER_FAILED) == security_tests()
    assert failed & set(NEVER_FAILED) == set()


def test_failure_summary_is_short() -> None:
    text = ">   assert 1 == 2\nE   AssertionError: no\nE   second\nE   third\nE   fourth\n\nfile.py:3: AssertionError"
    (check,) = checks("failed")
    check.reason = text
    assert check.summary == "AssertionError: no\nsecond\nthird"
    check.reason = "something broke\nat last"
    assert check.summary == "at last"


def test_docs_have_every_control_with_its_promise() -> None:
    rows = [line.split(" | ") for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    documented = {row[0].removeprefix("| "): row[1] for row in rows}
    assert {name: documented.get(name) for name in CONTROLS} == {
        name: control.promise for name, control in CONTROLS.items()
    }
