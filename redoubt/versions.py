"""Which versions of Redis and Valkey are safe, by a table of security fixes.

A build is checked against the table. Upstream's releases are checked by their number. A distribution patches its
packages without changing upstream's number, so they are checked by the version of the package: Debian's 8.0.2-3+deb13u3
has fixes that no release of the branch 8.0 has. docs/versions.md says how to update the table.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from debian.debian_support import Version

from redoubt.facts.host import Build, Numbers
from redoubt.settings.types import TITLES, Engine

# The day on which the sources were read. The table does not have later releases.
AS_OF = "2026-11-23"


@dataclass(frozen=True)
class Fix:
    """A security fix, and the first release of each branch that has it.

    A branch without a release here never had the defect, or began after the fix.
    """

    engine: Engine
    date: str
    names: str
    releases: str
    source: str


@dataclass(frozen=True)
class EndOfLife:
    """A branch that upstream no longer maintains.

    ``lacks`` are the fixes that its last release does not have.
    """

    engine: Engine
    branch: str
    last: str
    date: str
    lacks: str
    source: str


@dataclass(frozen=True)
class Update:
    """A security update of a distribution's package, and the defects that it fixes."""

    date: str
    names: str
    version: str


@dataclass(frozen=True)
class Package:
    """A distribution's package.

    ``pattern`` matches its versions, and its last update is the lowest safe version. ``lacks`` are fixes of upstream
    that the newest package does not have.
    """

    name: str
    distribution: str
    pattern: str
    updates: tuple[Update, ...]
    source: str
    lacks: str = ""


_NOTES = (
    "https://github.com/redis/docs/tree/main/content/operate/oss_and_stack/stack-with-enterprise/release-notes/redisce"
)
_VALKEY = "https://github.com/valkey-io/valkey/releases/tag/{}"
_DEBIAN = "https://security-tracker.debian.org/tracker/source-package/{}"

_LUA_2024 = "CVE-2024-31449 CVE-2024-31228"
_LUA_2025 = "CVE-2025-49844 CVE-2025-46817 CVE-2025-46818 CVE-2025-46819"

# Without defects of modules (search, JSON, Bloom): Redis loads a module only if redis_extra_config names it.
FIXES: tuple[Fix, ...] = (
    Fix("redis", "2023-10-18", "CVE-2023-45145", "6.2.14 7.0.14 7.2.2", _NOTES),
    Fix("redis", "2024-01-09", "CVE-2023-41056", "7.0.15 7.2.4", _NOTES),
    Fix("redis", "2024-10-02", _LUA_2024, "6.2.16 7.2.6 7.4.1", _NOTES),
    Fix("redis", "2024-10-02", "CVE-2024-31227", "7.2.6 7.4.1", _NOTES),
    Fix("redis", "2025-01-06", "CVE-2024-46981", "6.2.17 7.2.7 7.4.2", "https://github.com/redis/redis/pull/13729"),
    Fix("redis", "2025-01-06", "CVE-2024-51741", "7.2.7 7.4.2", "https://github.com/redis/redis/pull/13637"),
    Fix("redis", "2025-04-23", "CVE-2025-21605", "6.2.18 7.2.8 7.4.3 8.0.0", _NOTES),
    Fix("redis", "2025-05-27", "CVE-2025-27151", "7.4.4 8.0.2", _NOTES),
    Fix(
        "redis",
        "2025-07-06",
        "CVE-2025-32023 CVE-2025-48367",
        "6.2.19 7.2.10 7.4.5 8.0.3",
        "https://github.com/redis/redis/pull/14173",
    ),
    Fix("redis", "2025-10-03", _LUA_2025, "6.2.20 7.2.11 7.4.6 8.0.4 8.2.2", _NOTES),
    Fix("redis", "2025-11-02", "CVE-2025-62507", "8.2.3", _NOTES),
    # 6.2 had no release on that day, and it is unknown whether a later one has the fix.
    Fix("redis", "2026-02-22", "CVE-2025-67733", "7.2.13 7.4.8 8.0.6 8.2.5 8.4.2 8.6.1", _NOTES),
    Fix("redis", "2026-05-05", "CVE-2026-25243 CVE-2026-23631", "6.2.22 7.2.14 7.4.9 8.2.6 8.4.3 8.6.3 8.8.0", _NOTES),
    Fix("redis", "2026-05-05", "CVE-2026-23479", "7.2.14 7.4.9 8.2.6 8.4.3 8.6.3 8.8.0", _NOTES),
    Fix("redis", "2026-07-23", "CVE-2026-66373", "6.2.23 7.2.15 7.4.10 8.2.8 8.4.5 8.6.5 8.8.1", _NOTES),
    # Also fixes CVE-2026-62356 and defects without a number. Not every branch had all of them.
    Fix(
        "redis",
        "2026-08-17",
        "CVE-2026-81934",
        "6.2.24 7.2.16 7.4.11 8.2.9 8.4.6 8.6.6 8.8.2 8.10.1",
        "https://github.com/docker-library/official-images/pull/22078",
    ),
    # Use after free if a client is disconnected because of maxmemory-clients (client eviction).
    Fix(
        "redis",
        "2026-08-17",
        "redis#15562",
        "7.2.16 7.4.11 8.2.9 8.4.6 8.6.6 8.8.2 8.10.1",
        "https://github.com/redis/redis/pull/15667",
    ),
    # A transaction checks rights again when it runs; crashes.
    Fix("redis", "2026-09-17", "redis#15673", "8.4.7 8.6.7 8.8.3 8.10.2", "https://github.com/redis/redis/pull/15801"),
    Fix("redis", "2026-09-17", "redis#15722", "8.2.10", "https://github.com/redis/redis/pull/15800"),
    # CVE-2026-92925 (messages between cluster nodes; Redoubt runs no cluster) is fixed in 8.10.0 and in Debian's
    # packages of 2026-09-24. Whether other branches have the fix is unknown.
    Fix("valkey", "2024-10-02", f"{_LUA_2024} CVE-2024-31227", "7.2.7 8.0.1", _VALKEY.format("8.0.1")),
    Fix("valkey", "2025-01-06", "CVE-2024-46981 CVE-2024-51741", "7.2.8 8.0.2", _VALKEY.format("8.0.2")),
    Fix("valkey", "2025-10-03", _LUA_2025, "7.2.11 8.0.6 8.1.4", _VALKEY.format("8.1.4")),
    Fix("valkey", "2026-02-23", "CVE-2025-67733 CVE-2026-21863", "7.2.12 8.0.7 8.1.6 9.0.3", _VALKEY.format("9.0.3")),
    Fix("valkey", "2026-02-23", "CVE-2026-27623", "9.0.3", _VALKEY.format("9.0.3")),
    # 8.0.8 was withdrawn.
    Fix(
        "valkey",
        "2026-05-05",
        "CVE-2026-23479 CVE-2026-25243 CVE-2026-23631",
        "7.2.13 8.0.9 8.1.7 9.0.4 9.1.0",
        _VALKEY.format("9.0.4"),
    ),
    Fix(
        "valkey",
        "2026-07-21",
        "CVE-2026-56684 CVE-2026-63639",
        "7.2.14 8.0.10 8.1.9 9.0.5 9.1.1",
        _VALKEY.format("9.1.1"),
    ),
    Fix("valkey", "2026-08-31", "CVE-2026-82631 CVE-2026-82677", "8.0.11 8.1.10 9.0.6 9.1.2", _VALKEY.format("9.1.2")),
    Fix("valkey", "2026-08-31", "CVE-2026-85522 CVE-2026-86227", "9.1.2", _VALKEY.format("9.1.2")),
    Fix(
        "valkey",
        "2026-10-26",
        "GHSA-f4q9-j22m-xqq9",
        "7.2.15 8.0.12 8.1.11 9.0.7 9.1.3",
        "https://github.com/valkey-io/valkey/security/advisories/GHSA-f4q9-j22m-xqq9",
    ),
    Fix("valkey", "2026-11-18", "CVE-2026-130822", "7.2.16 8.0.13 8.1.12 9.0.8 9.1.4", _VALKEY.format("9.1.4")),
)

# Debian has patched the defects that they have.
END_OF_LIFE: tuple[EndOfLife, ...] = (
    EndOfLife(
        "redis",
        "7.0",
        "7.0.15",
        "2024-01-09",
        f"{_LUA_2024} CVE-2024-31227 CVE-2024-46981 CVE-2024-51741 CVE-2025-21605 CVE-2025-27151 CVE-2025-32023 "
        f"CVE-2025-48367 {_LUA_2025} CVE-2025-67733 CVE-2026-25243 CVE-2026-23631 CVE-2026-66373 CVE-2026-81934",
        _DEBIAN.format("redis"),
    ),
    EndOfLife(
        "redis",
        "8.0",
        "8.0.6",
        "2026-02-22",
        "CVE-2026-25243 CVE-2026-23631 CVE-2026-23479 CVE-2026-66373 CVE-2026-81934",
        # Says that the branch ended. Debian's changelog has the missing fixes.
        "https://github.com/docker-library/official-images/pull/21400",
    ),
)

PACKAGES: tuple[Package, ...] = (
    Package(
        "redis-server",
        "Debian 12 (bookworm)",
        r"[~+]deb12u\d+",
        (
            Update("2024-11-28", f"{_LUA_2024} CVE-2024-31227", "5:7.0.15-1~deb12u2"),
            Update("2025-01-19", "CVE-2024-46981 CVE-2024-51741", "5:7.0.15-1~deb12u3"),
            Update("2025-05-09", "CVE-2025-21605", "5:7.0.15-1~deb12u4"),
            Update("2025-07-23", "CVE-2025-27151 CVE-2025-32023 CVE-2025-48367", "5:7.0.15-1~deb12u5"),
            Update("2025-10-07", _LUA_2025, "5:7.0.15-1~deb12u6"),
            Update("2026-05-13", "CVE-2025-67733 CVE-2026-21863", "5:7.0.15-1~deb12u7"),
            Update("2026-07-13", "CVE-2026-25243 CVE-2026-23631", "5:7.0.15-1~deb12u8"),
            Update("2026-08-06", "CVE-2026-66373", "5:7.0.15-1~deb12u9"),
            Update("2026-09-24", "CVE-2026-81934 CVE-2026-92925", "5:7.0.15-1~deb12u10"),
        ),
        _DEBIAN.format("redis"),
    ),
    Package(
        "redis-server",
        "Debian 13 (trixie)",
        r"[~+]deb13u\d+",
        (
            Update("2025-10-07", _LUA_2025, "5:8.0.2-3+deb13u1"),
            Update("2026-05-13", "CVE-2025-67733 CVE-2026-21863", "5:8.0.2-3+deb13u2"),
            Update(
                "2026-09-15",
                "CVE-2026-25243 CVE-2026-23631 CVE-2026-23479 CVE-2026-66373 CVE-2026-81934",
                "5:8.0.2-3+deb13u3",
            ),
        ),
        _DEBIAN.format("redis"),
        lacks="CVE-2026-92925 (in a cluster only)",
    ),
    # Other packages of unstable are upstream's releases without patches, so they are checked like releases.
    Package(
        "redis-server",
        "Debian unstable (sid)",
        r"^5:8\.0\.6-\d+$",
        (
            Update("2026-04-10", "CVE-2025-67733 CVE-2026-21863", "5:8.0.6-1"),
            Update(
                "2026-09-24",
                "CVE-2026-25243 CVE-2026-23631 CVE-2026-23479 CVE-2026-66373 CVE-2026-81934 CVE-2026-92925",
                "5:8.0.6-3",
            ),
        ),
        _DEBIAN.format("redis"),
    ),
    # Older than 8.1.12, but the newest package of this distribution, so it is accepted with a warning. Neither defect
    # can be reached with Redoubt's configuration: one needs a cluster, the other maxmemory-clients.
    Package(
        "valkey-server",
        "Debian 13 (trixie)",
        r"[~+]deb13u\d+",
        (
            Update("2025-10-07", _LUA_2025, "8.1.1+dfsg1-3+deb13u1"),
            Update("2026-03-29", "CVE-2025-67733 CVE-2026-21863", "8.1.1+dfsg1-3+deb13u2"),
            Update(
                "2026-10-24",
                "CVE-2026-56684 CVE-2026-63639 CVE-2026-82631 CVE-2026-82677 CVE-2026-23479 CVE-2026-23631 "
                "CVE-2026-25243",
                "8.1.1+dfsg1-3+deb13u3",
            ),
        ),
        _DEBIAN.format("valkey"),
        lacks="GHSA-f4q9-j22m-xqq9 (in a cluster only) and CVE-2026-130822 (with maxmemory-clients only)",
    ),
)


@dataclass(frozen=True)
class Verdict:
    """The result of a check: a ``problem`` is a blocker, a ``warning`` is not."""

    problem: str = ""
    warning: str = ""


def judge(build: Build) -> Verdict:
    """Check by the table whether a build has the fixes that exist for it.

    Its branch or its distribution offers these fixes.
    """
    for package in PACKAGES:
        if build.package == package.name and re.search(package.pattern, build.version):
            return _judge_package(build, package)
    # Also a package of an unknown distribution, because its patches are unknown.
    return _judge_release(build)


def lowest_safe(engine: Engine) -> dict[Numbers, Numbers]:
    """Return the lowest safe release of each maintained branch."""
    ended = {_numbers(row.branch) for row in END_OF_LIFE if row.engine == engine}
    lowest: dict[Numbers, Numbers] = {}
    for fix in FIXES:
        for release in _releases(fix) if fix.engine == engine else ():
            lowest[release[:2]] = max(release, lowest.get(release[:2], release))
    return {branch: release for branch, release in sorted(lowest.items()) if branch not in ended}


def has_fix(engine: Engine, name: str, release: Numbers) -> bool:
    """Say whether a release of upstream has a fix, by its number.

    False for a branch that the fix does not name.
    """
    fixed = [
        numbers for fix in FIXES if fix.engine == engine and name in fix.names.split() for numbers in _releases(fix)
    ]
    return any(release[:2] == first[:2] and release >= first for first in fixed)


def _judge_package(build: Build, package: Package) -> Verdict:
    # Compares like dpkg: 1~deb12u10 is above 1~deb12u9 and below 1.
    version = Version(build.version)
    missing = [update for update in package.updates if version < Version(update.version)]
    if missing:
        newest = missing[-1]
        return Verdict(
            f"{build} of {package.distribution} lacks {_names(update.names for update in missing)}; "
            f"{newest.version} of {newest.date} fixes them: build the image from the package of the security suite"
        )
    if package.lacks:
        return Verdict(
            warning=f"{build} is the newest known package of {package.distribution} and lacks {package.lacks}, which "
            f"newer releases of {TITLES[build.engine]} fix"
        )
    return Verdict()


def _judge_release(build: Build) -> Verdict:
    title = TITLES[build.engine]
    if not build.numbers:
        return Verdict(f"{build} is not a release, so its missing fixes are unknown: use a release")
    branch = build.numbers[:2]
    safe = lowest_safe(build.engine)
    missing = [fix for fix in FIXES if fix.engine == build.engine and any(_lacks(build, r) for r in _releases(fix))]
    ended = next((row for row in END_OF_LIFE if (row.engine, _numbers(row.branch)) == (build.engine, branch)), None)
    newer = f"use {', '.join(_dotted(release) for release in safe.values() if release[:2] > branch)} or above"
    if ended is not None:
        names = _names([*(fix.names for fix in missing), ended.lacks])
        return Verdict(
            f"{build} lacks {names}, and its branch {ended.branch} is no longer maintained (last release {ended.last}, "
            f"{ended.date}): {newer}"
        )
    if branch not in safe:
        if branch > max(safe):
            return Verdict(
                warning=f"{build} is newer than the table of safe versions ({AS_OF}), which does not have the branch "
                f"{_dotted(branch)}: check its security advisories yourself"
            )
        return Verdict(f"{title} {_dotted(branch)} is not a maintained branch: {newer}")
    if missing:
        return Verdict(
            f"{build} lacks {_names(fix.names for fix in missing)}: use {_dotted(safe[branch])} or above "
            f"({missing[-1].date})"
        )
    return Verdict()


def _lacks(build: Build, release: Numbers) -> bool:
    return build.numbers[:2] == release[:2] and build.numbers < release


def _releases(fix: Fix) -> list[Numbers]:
    return [_numbers(release) for release in fix.releases.split()]


def _names(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name for text in texts for name in text.split()))


def _numbers(text: str) -> Numbers:
    return tuple(map(int, text.split(".")))


def _dotted(numbers: Numbers) -> str:
    return ".".join(map(str, numbers))
