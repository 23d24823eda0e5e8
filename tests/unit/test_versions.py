"""The table of safe versions: it accepts exactly the versions with all fixes.

Messages name the missing fixes.
"""

import re
from typing import get_args

import pytest

from redoubt import host_checks, versions
from redoubt.facts.host import Build
from redoubt.settings.load import load
from redoubt.settings.types import Engine
from redoubt.versions import END_OF_LIFE, FIXES, PACKAGES, Verdict, judge, lowest_safe

# Written out by hand, not derived from the table.
LOWEST: dict[Engine, dict[str, str]] = {
    "redis": {
        "6.2": "6.2.24",
        "7.2": "7.2.16",
        "7.4": "7.4.11",
        "8.2": "8.2.10",
        "8.4": "8.4.7",
        "8.6": "8.6.7",
        "8.8": "8.8.3",
        "8.10": "8.10.2",
    },
    "valkey": {"7.2": "7.2.16", "8.0": "8.0.13", "8.1": "8.1.12", "9.0": "9.0.8", "9.1": "9.1.4"},
}
BRANCHES = [(engine, branch, lowest) for engine, rows in LOWEST.items() for branch, lowest in rows.items()]


def test_the_table_has_all_maintained_branches() -> None:
    for engine in get_args(Engine):
        branches = {".".join(map(str, b)): ".".join(map(str, r)) for b, r in lowest_safe(engine).items()}
        assert branches == LOWEST[engine]


@pytest.mark.parametrize(("engine", "branch", "lowest"), BRANCHES)
def test_the_lowest_safe_release_is_the_lowest_accepted(engine: Engine, branch: str, lowest: str) -> None:
    patch = int(lowest.rpartition(".")[2])
    assert judge(Build(engine, lowest)) == Verdict()
    assert judge(Build(engine, f"{branch}.{patch + 1}")) == Verdict()
    verdict = judge(Build(engine, f"{branch}.{patch - 1}")).problem
    newest = [fix for fix in FIXES if fix.engine == engine and lowest in fix.releases.split()]
    assert f"use {lowest} or above" in verdict
    assert newest
    assert all(name in verdict for fix in newest for name in fix.names.split())


@pytest.mark.parametrize("fix", FIXES, ids=lambda fix: f"{fix.engine} {fix.names}")
def test_a_fix_is_missing_only_before_its_release(fix: versions.Fix) -> None:
    for release in fix.releases.split():
        branch, _, patch = release.rpartition(".")
        if patch != "0":
            assert fix.names.split()[0] in judge(Build(fix.engine, f"{branch}.{int(patch) - 1}")).problem
        dead = any((row.engine, row.branch) == (fix.engine, branch) for row in END_OF_LIFE)
        assert dead or fix.names.split()[0] not in judge(Build(fix.engine, release)).problem


@pytest.mark.parametrize("row", END_OF_LIFE, ids=lambda row: f"{row.engine} {row.branch}")
def test_no_release_of_an_ended_branch_is_accepted(row: versions.EndOfLife) -> None:
    for version in (row.last, f"{row.branch}.99"):
        verdict = judge(Build(row.engine, version)).problem
        assert all(name in verdict for name in row.lacks.split())
        assert f"its branch {row.branch} is no longer maintained (last release {row.last}" in verdict


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: f"{package.distribution} {package.name}")
def test_a_package_is_accepted_from_its_last_update_on(package: versions.Package) -> None:
    engine: Engine = "redis" if package.name.startswith("redis") else "valkey"
    versions_ = [update.version for update in package.updates]
    assert judge(Build(engine, versions_[-1], package.name)).problem == ""
    # To dpkg, update 10 is above 9.
    last = re.fullmatch(r"(.*?)(\d+)", versions_[-1])
    assert last
    assert judge(Build(engine, f"{last[1]}{int(last[2]) + 10}", package.name)).problem == ""
    for update, following in zip(versions_, package.updates[1:], strict=False):
        verdict = judge(Build(engine, update, package.name)).problem
        assert following.names.split()[0] in verdict
        assert versions_[-1] in verdict


@pytest.mark.parametrize(
    ("build", "lacks"),
    [
        (
            Build("valkey", "8.1.1+dfsg1-3+deb13u3", "valkey-server"),
            "lacks GHSA-f4q9-j22m-xqq9 (in a cluster only) and CVE-2026-130822 (with maxmemory-clients only)",
        ),
        (Build("redis", "5:8.0.2-3+deb13u3", "redis-server"), "lacks CVE-2026-92925 (in a cluster only)"),
    ],
)
def test_a_warning_names_what_a_distribution_has_not_fixed(build: Build, lacks: str) -> None:
    verdict = judge(build)
    assert verdict.problem == ""
    assert lacks in verdict.warning


@pytest.mark.parametrize(
    "build",
    [
        # dpkg alone would sort these above Debian's.
        Build("redis", "5:7.0.15-1ubuntu0.24.04.2", "redis-server"),
        Build("redis", "6:8.0.2-1rl1~bookworm1", "redis-server"),
        Build("redis", "5:8.6.3-1", "redis-server"),
        Build("valkey", "8.0.1+dfsg1-1~bpo12+1", "valkey-server"),
        Build("valkey", "9.1.2-1", "valkey-server"),
        # Debian 13 before its first update.
        Build("redis", "5:8.0.2-3", "redis-server"),
        # Upstream's builds with numbers that Debian patches.
        Build("redis", "8.0.2"),
        Build("redis", "7.0.15"),
        # The other engine has the fixes in releases with these numbers.
        Build("redis", "8.1.12"),
        Build("valkey", "8.2.10"),
        Build("redis", "6.0.20"),
        Build("redis", "unstable"),
    ],
    ids=str,
)
def test_a_build_without_known_fixes_is_refused(build: Build) -> None:
    assert judge(build).problem


def test_a_package_of_an_unknown_distribution_is_a_release() -> None:
    assert judge(Build("redis", "6:8.2.10-1rl1~bookworm1", "redis-server")) == Verdict()


@pytest.mark.parametrize("build", [Build("redis", "8.12.0"), Build("valkey", "9.2.0"), Build("redis", "255.255.255")])
def test_a_branch_newer_than_the_table_only_warns(build: Build) -> None:
    verdict = judge(build)
    assert verdict.problem == ""
    assert "newer than the table of safe versions" in verdict.warning


def test_every_row_has_a_date_and_a_source() -> None:
    updates = [update for package in PACKAGES for update in package.updates]
    for date in [fix.date for fix in FIXES] + [row.date for row in END_OF_LIFE] + [update.date for update in updates]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)
        assert date <= versions.AS_OF
    sources = (
        {fix.source for fix in FIXES} | {row.source for row in END_OF_LIFE} | {package.source for package in PACKAGES}
    )
    for source in sources:
        assert source.startswith("https://")
    for package in PACKAGES:
        assert all(re.search(package.pattern, update.version) for update in package.updates)


def test_another_engine_is_refused_even_if_vulnerable_is_allowed() -> None:
    data = {"redis_engine": "valkey", "redis_image": "redis:8.10.2", "redis_allow_vulnerable_version": True}
    assert host_checks.check_version(load(data), Build("redis", "8.10.2")).problem == (
        "redis_image = 'redis:8.10.2' contains Redis, but redis_engine = 'valkey': set redis_engine = 'redis', or use "
        "another image such as docker.io/valkey/valkey:9.1.4"
    )
    assert host_checks.check_version(load({"redis_engine": "valkey"}), Build("valkey", "9.1.4")) == Verdict()
    assert "contains Valkey" in host_checks.check_version(load({}), Build("valkey", "9.1.4")).problem


def test_a_setting_allows_a_vulnerable_version() -> None:
    bad = Build("redis", "8.2.8")
    refused = host_checks.check_version(load({}), bad)
    assert "redis_image = 'docker.io/library/redis:8.10.2': Redis 8.2.8 lacks CVE-2026-81934" in refused.problem
    assert "redis_allow_vulnerable_version = True deploys it anyway" in refused.problem
    allowed = host_checks.check_version(load({"redis_allow_vulnerable_version": True}), bad)
    assert allowed.problem == ""
    assert "CVE-2026-81934" in allowed.warning
    assert (
        host_checks.check_version(load({"redis_allow_vulnerable_version": True}), Build("redis", "8.2.10")) == Verdict()
    )
