"""AOF manifests: in agreement with their files, or rebuilt from their names."""

import time

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


@pytest.mark.parametrize("name", ["appendonly.aof.1.base.rdb", "my log", "\u00e9", 'a"b', "a'b", "\\x41", "\udcff"])
def test_names_are_quoted_as_redis_does(name: str) -> None:
    parts = [aof_manifest.Part(name, 1, "b")]
    assert aof_manifest.parse(aof_manifest.to_text(parts)) == parts


def test_long_line_is_refused_at_once() -> None:
    """Splitting a line must not take the square of its length."""
    began = time.process_time()
    with pytest.raises(aof_manifest.ManifestError, match="a line of more than 4096 bytes"):
        aof_manifest.parse("a " * (aof_manifest.MAX_MANIFEST // 2))
    assert len(aof_manifest._split("a " * 100_000)) == 100_000
    assert time.process_time() - began < 1


def test_quoted_names_of_redis_are_read() -> None:
    (part,) = aof_manifest.parse('file "my \\"log\\" \\xc3\\xa9.1.base.rdb" seq 1 type b')
    assert part.name == 'my "log" \u00e9.1.base.rdb'
    with pytest.raises(aof_manifest.ManifestError, match="a quotation mark is missing"):
        aof_manifest.parse('file "my log seq 1 type b')


@pytest.mark.parametrize("name", ["../x", '"..\\x2fx"', "/etc/passwd", "'../x'"])
def test_name_that_leaves_the_directory_is_refused(name: str) -> None:
    with pytest.raises(aof_manifest.ManifestError, match="lies in the AOF's directory"):
        aof_manifest.parse(f"file {name} seq 1 type b")
