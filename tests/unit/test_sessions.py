"""Reports on the TTLs of sessions, and the sessions that a rule selects."""

import click
import pytest
from click.testing import CliRunner

from redisctl.apps.sessions import LIFETIME, LIMIT, REMOVE, Rule, Tally, bucket_rows, rows
from redisctl.cli import main, sessions
from redisctl.cli.common import DURATION
from redisctl.core.scan import Sample, batches, memory

GONE, NO_TTL = -2, -1


def test_each_session_is_counted_in_one_bucket() -> None:
    tally = Tally()
    tally.add([0, 60, 61, LIFETIME, LIFETIME + 1, 40 * 86400, NO_TTL, GONE])
    report = tally.report([])
    counts = {(bucket["from"], bucket["to"]): bucket["count"] for bucket in report["buckets"] if bucket["count"]}
    assert counts == {
        (0, 60): 2,
        (60, 600): 1,
        (3600, LIFETIME): 1,
        (LIFETIME, 86400): 1,
        (7 * 86400, None): 1,
    }
    assert (report["count"], report["without_ttl"]) == (7, 1)
    assert sum(counts.values()) + report["without_ttl"] == report["count"]
    assert report["ttl"] == {"shortest": 0, "longest": 40 * 86400}


def test_time_without_use_is_lifetime_minus_ttl() -> None:
    tally = Tally(lifetime=7200)
    tally.add([1800, 7200])
    report = tally.report([])
    assert report["longest_unused"] == 5400
    assert [row[:3] for row in bucket_rows(report)] == [
        ("10 min to 30 min", "1 h 30 min to 1 h 50 min", "1"),
        ("1 h to 2 h", "0 s to 1 h", "1"),
    ]


def test_problems_are_reported_with_advice() -> None:
    tally = Tally()
    tally.add([NO_TTL, 31 * 86400])
    report = dict(rows(tally.report([100, 300])))
    assert "expire --no-ttl" in report["without a TTL"]
    assert "--lifetime" in report["lifetime"]
    assert report["memory"] == "about 400 B: 200 B each, the largest of 2 takes 300 B"


def test_report_without_sessions() -> None:
    report = Tally().report([])
    assert dict(rows(report)) == {"sessions": "0", "without a TTL": "0"}
    assert list(bucket_rows(report)) == []


@pytest.mark.parametrize(
    ("rule", "ttl", "verdict"),
    [
        (Rule(older_than=5400), 1799, REMOVE),
        (Rule(older_than=5400), 1800, ""),
        (Rule(older_than=5400), GONE, ""),
        # Without a TTL its last use is unknown: it may be in use.
        (Rule(older_than=5400), NO_TTL, ""),
        (Rule(older_than=5400, no_ttl=True), NO_TTL, LIMIT),
        (Rule(no_ttl=True), 1, ""),
        (Rule(no_ttl=True), GONE, ""),
        # A TTL above the lifetime: another application set it, or renews it differently.
        (Rule(older_than=0), LIFETIME + 1, ""),
    ],
)
def test_rule_selects_only_these_sessions(rule: Rule, ttl: int, verdict: str) -> None:
    assert rule.verdict(ttl) == verdict


def test_sample_is_limited_and_uniform() -> None:
    hits = 0
    for _ in range(400):
        sample = Sample(10)
        for batch in batches([str(number) for number in range(100)], 7):
            sample.add(batch)
        assert len(set(sample.keys)) == 10
        assert sample.offered == 100
        hits += "99" in sample.keys
    # 40 are expected. A uniform sample leaves these bounds once in millions of runs.
    assert 12 < hits < 75


def test_total_memory_is_estimated_from_a_sample() -> None:
    assert memory([100, 300], 1000) == {"all": 200_000, "mean": 200, "largest": 300, "sampled": 2}
    assert memory([], 1000) == {"all": 0, "mean": 0, "largest": 0, "sampled": 0}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10min", 600), ("2h", 7200), ("7d", 604800), ("2 h", 7200)]
)
def test_duration_has_a_unit(text: str, seconds: int) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1m", "1.5h", "h", "1 week"])
def test_ambiguous_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 90s"):
        DURATION.convert(text, None, None)


@pytest.fixture
def runner() -> CliRunner:
    """Give a runner for verbs that must end before they use an instance."""
    return CliRunner()


def test_help_needs_no_instance_and_shows_the_lifetime(runner: CliRunner) -> None:
    for line in (["--help"], ["expire", "--help"]):
        result = runner.invoke(sessions.sessions, line)
        assert result.exit_code == 0, result.output
        assert f"{LIFETIME}s" in result.output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["expire"], "name the sessions"),
        (["expire", "--yes"], "name the sessions"),
        (["expire", "--older-than", "2h"], "expire by themselves"),
        (["expire", "--no-ttl", "--lifetime", "0"], "in use"),
    ],
)
def test_rule_for_nothing_or_too_much_is_refused(
    line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run_cli(lambda: sessions.sessions.main(line, standalone_mode=False)) == 3
    assert message in capsys.readouterr().err
