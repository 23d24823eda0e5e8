"""What a message says of a server that differs from its files."""

from pathlib import Path

import pytest

from redisctl.core import server_changes
from redisctl.core.instance import Instance
from redoubt import host_files, redis_conf
from redoubt.settings.load import load


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([b"b", b"a"], "a, b"),
        ([b"%d" % number for number in range(8)], "0, 1, 2, 3, 4 and 3 more"),
        ([b"\x1b[2J\xff\n"], r"\x1b[2J\xff\n"),
        (["default\u2003off\u2028".encode()], r"default\u2003off\u2028"),
        ([b"n" * 1_000_000], "n" * 64),
        ([b""], "''"),
        ([], ""),
    ],
)
def test_names_are_few_short_and_printable(names: list[bytes], text: str) -> None:
    assert server_changes.named(names) == text


@pytest.mark.parametrize(
    ("role", "primary"),
    [
        ([b"master", 0, []], ""),
        ([b"slave", b"10.0.0.1", 6379, b"connect", -1], "10.0.0.1:6379"),
        ([b"slave", b"x\r\nrole:master", 1], r"x\r\nrole:master:1"),
    ],
)
def test_role_names_the_primary(role: list[object], primary: str) -> None:
    assert server_changes.primary_of(role) == primary


def test_files_of_a_deploy_name_every_directive(tmp_path: Path) -> None:
    settings = load({"redis_root": "/srv/redis", "redis_extra_config": {"list-compress-depth": "1"}})
    (tmp_path / "config").mkdir()
    for file in (*host_files.config_files(settings), host_files.activedefrag_file(settings)):
        (tmp_path / "config" / Path(file.path).name).write_text(file.content)
    directives = server_changes.directives(Instance(name="redis", root=tmp_path, session_keys="app:*"))
    assert redis_conf.differences(settings, directives) == {}
    assert directives["list-compress-depth"] == "1"
    assert "activedefrag" in directives
