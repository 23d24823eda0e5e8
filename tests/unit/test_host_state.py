"""Host state: one inspection serves all operations, and never answers for other contents than it compared."""

import stat
from typing import Any

from redoubt.filesystem import DesiredFile, PathState
from redoubt.host_state import HostState


class FakeHost:
    """A host that keeps what it is asked, and has every path as an empty file."""

    def __init__(self) -> None:
        self.stdin: list[str] = []

    def get_fact(self, fact: type, *, paths: list[str], secret: list[str], _stdin: str) -> dict[str, PathState]:
        self.stdin.append("".join(_stdin))
        return {path: PathState(stat.S_IFREG | 0o400, 999, 999) for path in paths}


def _secret(path: str, content: str) -> DesiredFile:
    return DesiredFile(path, f"{content}\n", mode=0o400, secret=True)


def test_one_inspection_serves_all_entries() -> None:
    host: Any = FakeHost()
    entries = [_secret("/srv/redis/secrets/admin", "a"), DesiredFile("/srv/redis/config/redis.conf", "port 1\n")]
    state = HostState(entries=entries)
    for entry in entries:
        assert entry.path in state.path_states(host, [entry])
    assert len(host.stdin) == 1


def test_secret_is_compared_with_the_requested_content() -> None:
    """As in a rotation, which writes other passwords than those that the command began with."""
    host: Any = FakeHost()
    before, after = _secret("/srv/redis/secrets/admin", "before"), _secret("/srv/redis/secrets/admin", "after")
    state = HostState(entries=[before])
    state.path_states(host, [before])
    state.path_states(host, [after])
    assert host.stdin == [f"{entry.digest}  {entry.path}\n" for entry in (before, after)]
