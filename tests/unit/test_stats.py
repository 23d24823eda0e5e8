"""redisctl stats: the same numbers for programs and for people."""

from dataclasses import replace

from redisctl.monitor.stats import rows, stats_of
from tests.unit.test_health import HEALTHY, INFO


def test_stats_are_the_same_for_programs_and_people() -> None:
    values = stats_of(HEALTHY)
    assert (values["hit_ratio"], values["keys"], values["keys_with_ttl"]) == (0.9, 30, 20)
    lines = dict(rows(values))
    assert lines["hits"] == "90.0% of reads found their key"
    assert lines["memory"].startswith("200.0 MiB of 1.0 GiB")
    idle = stats_of(replace(HEALTHY, info={**INFO, "keyspace_hits": 0, "keyspace_misses": 0, "aof_enabled": 0}))
    assert (idle["hit_ratio"], idle["aof_size"]) == (None, None)
    assert dict(rows(idle))["hits"] == "no reads yet"
