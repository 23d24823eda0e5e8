"""The table of docs/performance.md, and the command that measures it."""

from pathlib import Path

from tests import performance
from tests.performance import BARE, LOOPBACK, SECTIONS, Sample

DOCS = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
OUTPUT = """WARNING: Could not fetch server CONFIG
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET bench:key x","132978.72","0.21","0.06","0.199","0.31","0.463","1.2"
"""


def test_output_of_redis_benchmark_is_read() -> None:
    assert performance.parse(OUTPUT) == Sample(132978.72, 0.199, 0.463)


def test_table_compares_rounds_with_the_bare_server() -> None:
    """A ratio is the median of the rounds.

    The machine may be slower in one of them.
    """
    samples = {
        ("", BARE): [Sample(100_000, 0.2, 0.4), Sample(50_000, 0.4, 0.8), Sample(100_000, 0.2, 0.4)],
        ("", LOOPBACK): [Sample(91_000, 0.2, 0.4), Sample(47_500, 0.4, 1.2), Sample(92_000, 0.2, 0.5)],
        ("during BGSAVE", BARE): [Sample(40_000, 0.5, 2.0)],
        ("during BGSAVE", LOOPBACK): [Sample(20_000, 1.0, 3.0)],
    }
    assert list(performance.table(samples))[2:] == [
        f"| {BARE} | 1.00 | 100 000 | 0.20 ms | 0.40 ms | 1.00 |",
        f"| {LOOPBACK} | 0.92 | 91 000 | 0.20 ms | 0.50 ms | 1.25 |",
        f"| {BARE}, during BGSAVE | 1.00 | 40 000 | 0.50 ms | 2.00 ms | 1.00 |",
        f"| {LOOPBACK}, during BGSAVE | 0.50 | 20 000 | 1.00 ms | 3.00 ms | 1.50 |",
    ]
    assert performance.aim(samples).endswith("missed (0.92, p99 1.25)")
    samples["", LOOPBACK][2] = samples["", LOOPBACK][0]
    assert performance.aim(samples).endswith("reached (0.91, p99 1.00)")


def test_documentation_has_every_row() -> None:
    rows = [line.split(" | ")[0].removeprefix("| ") for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    for section in SECTIONS:
        for way in performance.ways(section, "192.0.2.1"):
            assert ", ".join(filter(None, (way.name, section))) in rows
