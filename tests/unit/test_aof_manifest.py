"""AOF manifests: in agreement with their files, or rebuilt from their names."""

import pytest

from redisctl.core import aof_manifest

BASE, INCR = "appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof"


MANIFEST = f"file {BASE} seq 2 type b\nfile {INCR} seq 2 type i startoffset 316\n"


@pytest.mark.parametrize(
    ("text", "names", "problem"),
    [
        (MANIFEST, [BASE, INCR, "m"], ""),
        (None, [], ""),
        (None, [BASE, INCR], "Redis would start empty"),
        (MANIFEST, [BASE], f"missing: {INCR}"),
        ("file appe", [BASE, INCR], "is not a line of a manifest"),
        ("", [BASE, INCR], "names no file"),
        ("file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i", ["a.1.base.rdb", "a.1.incr.aof"], ""),
        (
            "file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i",
            ["a.1.base.rdb", "a.1.incr.aof", BASE, INCR],
            f"an AOF that it ignores: {BASE}, {INCR}",
        ),
        # A rewrite that was killed leaves that.
        (MANIFEST, [BASE, INCR, "appendonly.aof.3.base.rdb", "temp-rewriteaof-9.aof"], ""),
    ],
)
def test_aof_that_differs_from_its_manifest_is_reported(text: str | None, names: list[str], problem: str) -> None:
    result = aof_manifest.find_problem(text, names)
    assert (problem in result) if problem else result == ""


def test_manifest_is_made_only_of_unambiguous_names() -> None:
    third, fourth = "appendonly.aof.3.incr.aof", "appendonly.aof.4.incr.aof"
    assert aof_manifest.from_file_names([third, BASE, INCR, "temp-1.aof"]) == [
        aof_manifest.Part(BASE, 2, "b"),
        aof_manifest.Part(INCR, 2, "i"),
        aof_manifest.Part(third, 3, "i"),
    ]
    for doubt in ([INCR], [BASE, INCR, fourth], [BASE, "appendonly.aof.3.base.rdb", INCR], []):
        assert aof_manifest.from_file_names(doubt) is None
