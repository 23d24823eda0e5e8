"""One inspection of a host serves all operations until one changes the host."""

from types import SimpleNamespace
from typing import Any

import pytest

from redisctl import schema
from redisctl.schema import InstanceState, StateRequest
from redoubt import host_state, redisctl_bundle
from redoubt.facts.host import HostFacts, HostProbe, parse_host_facts
from redoubt.facts.instance import Instance as InstanceFact
from redoubt.facts.paths import Paths
from redoubt.filesystem import AbsentPath, DesiredDirectory, DesiredFile, PathState
from redoubt.host_state import Changes, HostState
from redoubt.operations import common, files
from redoubt.settings.load import load
from tests.unit.good_host import PROBE

SETTINGS = load({})
FILE = DesiredFile("/srv/redis/compose.yml", "name: redis\n")
SECRET = DesiredFile("/srv/redis/secrets/admin", "hunter2-hunter2\n", secret=True)
DIRECTORY = DesiredDirectory("/srv/redis")
GONE = AbsentPath("/srv/redis/secrets/previous")


class FakeHost:
    """A host that counts its inspections and answers each of them differently."""

    name = "redis-1"
    print_prefix = ""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, dict[str, Any]]] = []
        self.facts: HostFacts | None = parse_host_facts(PROBE.splitlines())

    def get_fact(self, kind: Any, **arguments: Any) -> Any:
        self.asked.append((kind, arguments))
        if kind is Paths:
            return {path: PathState(0o100644, 0, len(self.asked)) for path in arguments["paths"]}
        if kind is HostProbe:
            return self.facts
        return InstanceState(generation=len(self.asked), sizes={"/srv/redis": 4} if self.request.sizes else {})

    @property
    def request(self) -> StateRequest:
        """Return what redisctl was asked last."""
        stdin = str.__str__(self.asked[-1][1]["_stdin"].encode().decode())
        return schema.load(StateRequest, stdin.splitlines()[0])

    def count(self, kind: Any) -> int:
        """Return how many inspections of a kind there were."""
        return sum(asked is kind for asked, _ in self.asked)


@pytest.fixture
def host() -> Any:
    """Return a host that has not been inspected."""
    return FakeHost()


def test_paths_are_inspected_once(host: Any) -> None:
    state = HostState(entries=(DIRECTORY, FILE, SECRET, GONE))
    first = state.path_states(host, [FILE])
    assert set(first) == {entry.path for entry in state.entries}
    assert state.path_states(host, [SECRET, DIRECTORY]) is first
    assert state.path_states(host, [GONE]) is first
    assert host.count(Paths) == 1


def test_path_that_was_not_inspected_is_inspected(host: Any) -> None:
    state = HostState(entries=(DIRECTORY,))
    state.path_states(host, [DIRECTORY])
    assert FILE.path in state.path_states(host, [FILE])
    # Both are known now.
    state.path_states(host, [DIRECTORY, FILE])
    assert host.count(Paths) == 2


def test_secret_with_another_content_is_compared_again(host: Any) -> None:
    """A secret with new content is compared with the host again.

    A rotation writes other passwords than those that the command began with.
    """
    state = HostState(entries=(SECRET,))
    state.path_states(host, [SECRET])
    other = DesiredFile(SECRET.path, "another-password\n", secret=True)
    state.path_states(host, [other])
    arguments = host.asked[-1][1]
    assert host.count(Paths) == 2
    assert arguments["_stdin"].encode().decode() == f"{other.digest}  {other.path}\n"
    assert arguments["paths"] == arguments["secret"] == [SECRET.path]
    # An ordinary file is compared on this machine: its digest is known.
    state.path_states(host, [DesiredFile(FILE.path, "a\n")])
    state.path_states(host, [DesiredFile(FILE.path, "b\n")])
    assert host.count(Paths) == 3


def test_digest_of_a_secret_is_not_shown(host: Any) -> None:
    HostState().path_states(host, [SECRET])
    arguments = host.asked[-1][1]
    assert SECRET.digest not in f"{arguments}"


def test_instance_is_inspected_once(host: Any) -> None:
    state = HostState()
    first = state.instance(host, SETTINGS, "user x on\n")
    assert state.instance(host, SETTINGS, "user x on\n") is first
    # A caller that does not need the users gets the same state.
    assert state.instance(host, SETTINGS) is first
    assert host.count(InstanceFact) == 1
    assert host.request.acl == "user x on\n"


def test_another_acl_is_compared_again(host: Any) -> None:
    state = HostState()
    state.instance(host, SETTINGS)
    state.instance(host, SETTINGS, "user x on\n")
    state.instance(host, SETTINGS, "user y on\n")
    assert host.count(InstanceFact) == 3


def test_sizes_are_measured_only_if_asked(host: Any) -> None:
    state = HostState()
    assert state.instance(host, SETTINGS).sizes == {}
    assert state.instance(host, SETTINGS, sizes=True).sizes
    state.instance(host, SETTINGS)
    assert host.count(InstanceFact) == 2


def test_forgotten_host_is_inspected_again(host: Any) -> None:
    state = HostState(entries=(FILE,))
    paths, instance = state.path_states(host, [FILE]), state.instance(host, SETTINGS)
    state.forget()
    assert state.path_states(host, [FILE]) != paths
    assert state.instance(host, SETTINGS) != instance


@pytest.mark.parametrize("is_executing", [True, False])
def test_change_forgets_the_host_only_during_the_deploy(
    host: Any, monkeypatch: pytest.MonkeyPatch, is_executing: bool
) -> None:
    """A change causes a new inspection during the deploy, not during the plan.

    While the plan is made nothing changes, so every operation is planned from one inspection.
    """

    class State:
        pass

    State.is_executing = is_executing  # type: ignore[attr-defined]
    monkeypatch.setattr(common, "host", host)
    monkeypatch.setattr(common, "state", State)
    host_state.of(host).path_states(host, [FILE])
    host_state.of(host).instance(host, SETTINGS)
    common.note_change("a reason")
    host_state.of(host).path_states(host, [FILE])
    host_state.of(host).instance(host, SETTINGS)
    assert (host.count(Paths), host.count(InstanceFact)) == ((2, 2) if is_executing else (1, 1))


def test_users_are_compared_also_between(host: Any) -> None:
    state = HostState()
    state.instance(host, SETTINGS, "user x on\n")
    state.forget()
    again = state.instance(host, SETTINGS)
    assert host.request.acl == "user x on\n"
    assert state.instance(host, SETTINGS, "user x on\n") is again


def test_units_are_kept_over_changes_that_do_not_touch_them(host: Any) -> None:
    state = HostState()
    units = state.units(host, SETTINGS)
    state.forget(Changes.ALL_BUT_UNITS)
    assert state.units(host, SETTINGS) is units
    assert host.count(InstanceFact) == 1
    state.forget(Changes.NOTHING)
    state.forget()
    assert state.units(host, SETTINGS) is not units
    assert host.count(InstanceFact) == 2


def test_change_that_makes_nothing_outdated_keeps_all(host: Any) -> None:
    state = HostState(entries=(FILE,))
    paths, instance = state.path_states(host, [FILE]), state.instance(host, SETTINGS)
    state.forget(Changes.NOTHING)
    assert (state.path_states(host, [FILE]), state.instance(host, SETTINGS)) == (paths, instance)


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("/etc/systemd/system/redis-backup.timer", Changes.ALL),
        ("/srv/redis/compose.yml", Changes.ALL_BUT_UNITS),
    ],
)
def test_file_of_a_unit_makes_the_units_outdated(
    host: Any, monkeypatch: pytest.MonkeyPatch, path: str, changes: Changes
) -> None:
    noted = []
    monkeypatch.setattr(files, "host", host)
    monkeypatch.setattr(files, "state", SimpleNamespace(config=SimpleNamespace(DIFF=False)))
    monkeypatch.setattr(files, "note_change", lambda _, changes: noted.append(changes))
    list(files.files._inner(entries=[DesiredFile(path, "a\n")]))
    assert noted == [changes]


def test_two_hosts_have_states_of_their_own() -> None:
    first: Any = FakeHost()
    second: Any = FakeHost()
    assert host_state.of(first) is host_state.of(first)
    assert host_state.of(first) is not host_state.of(second)


def test_installed_redisctl_of_this_release_reports(host: Any) -> None:
    """Any other one, and none, runs from what travels on standard input."""
    HostState(redisctl=redisctl_bundle.digest()).instance(host, SETTINGS)
    program, stdin = host.asked[-1][1]["program"], host.asked[-1][1]["_stdin"].encode().decode()
    assert (program, stdin.count("\n")) == ("/srv/redis/redisctl", 1)
    for digest in ("", "0" * 64):
        HostState(redisctl=digest).instance(host, SETTINGS)
        program, stdin = host.asked[-1][1]["program"], host.asked[-1][1]["_stdin"].encode().decode()
        assert program == ""
        assert stdin.count("\n") > 1000


@pytest.mark.parametrize(
    ("change", "has_instance"),
    [
        (("root yes", "root yes"), True),
        (("root yes", "root "), True),
        (("python True", "python "), False),
        (("uid 0", "uid 1000"), False),
    ],
)
def test_host_that_cannot_have_an_instance_is_not_asked(host: Any, change: tuple[str, str], has_instance: bool) -> None:
    host.facts = parse_host_facts(PROBE.replace(*change).splitlines())
    facts = HostState().inspect(host, SETTINGS)
    assert facts is not None
    assert bool(facts.instance.generation) is has_instance
    assert host.count(InstanceFact) == has_instance


def test_bare_host_has_no_instance(host: Any) -> None:
    bare = PROBE.replace("root yes", "root ").replace("docker_answers 26.1.5+dfsg1", "docker_answers ")
    host.facts = parse_host_facts(
        bare.replace("docker_installed Docker version 26.1.5+dfsg1, build a72d7cd", "docker_installed ").splitlines()
    )
    state = HostState()
    assert state.inspect(host, SETTINGS) == host.facts
    # Nor is it asked later in the same plan, with the users of the first deploy.
    assert state.instance(host, SETTINGS) == state.instance(host, SETTINGS, "user x on") == InstanceState()
    assert host.count(InstanceFact) == 0
    # But it is once the deploy changes the host.
    state.forget()
    state.instance(host, SETTINGS)
    assert host.count(InstanceFact) == 1


def test_host_that_does_not_answer_has_no_facts(host: Any) -> None:
    host.facts = None
    assert HostState().inspect(host, SETTINGS) is None
    assert host.count(InstanceFact) == 0


def test_inspection_starts_from_scratch(host: Any) -> None:
    state = HostState(entries=(FILE,))
    state.inspect(host, SETTINGS)
    state.path_states(host, [FILE])
    state.inspect(host, SETTINGS)
    state.path_states(host, [FILE])
    assert (host.count(HostProbe), host.count(InstanceFact), host.count(Paths)) == (2, 2, 2)
    assert state.redisctl == "0123abcd"
