"""The commands of the sandbox, and how make calls them."""

import subprocess
from pathlib import Path

import pytest

from sandbox import __main__, engine, hosts, util
from sandbox.util import NoEngineError, SandboxError


@pytest.mark.parametrize(
    "remote", ["echo $HOME", "echo 'two  words'", 'docker ps --format "{{.Names}}"', "a && b || c; d | e"]
)
def test_make_ssh_passes_the_command_unchanged(remote: str) -> None:
    script = subprocess.run(
        # Below another make, as in `make test`, make would print its directory.
        ["make", "--no-print-directory", "--dry-run", "--assume-old=.venv/.complete", "ssh", f"CMD={remote}"],
        cwd=util.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace(".venv/bin/python", "printf '%s\\n'")
    words = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words == ["-m", "sandbox", "ssh", "redoubt-1", "--", remote]


@pytest.mark.parametrize(
    ("options", "containers", "stopped"),
    [
        ([], [], ["redoubt-1", "engine"]),
        ([], ["other-1"], ["redoubt-1"]),
        (["--no-host"], [], ["engine"]),
        (["--no-host"], ["other-1"], []),
    ],
)
def test_run_stops_only_what_it_started(
    options: list[str],
    containers: list[str],
    stopped: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = [hosts.Host("other-1", "container", "host", 22001), hosts.Host("other-2", "vm", "bare", 22002)]
    existing: list[hosts.Host] = []
    done: list[str] = []

    def start(*own: hosts.Host) -> None:
        existing.extend([*own, *others])

    monkeypatch.setattr(util, "STATE", tmp_path)
    monkeypatch.setattr(hosts, "load", lambda: existing)
    monkeypatch.setattr(hosts.Host, "is_running", lambda host: True)
    monkeypatch.setattr(hosts.Host, "stop", lambda host: done.append(host.name))
    monkeypatch.setattr(engine, "is_running", lambda: False)
    monkeypatch.setattr(engine, "containers", lambda: containers)
    monkeypatch.setattr(engine, "stop", lambda: done.append("engine"))
    monkeypatch.setattr(__main__, "_host_up", lambda: start(hosts.Host("redoubt-1", "vm", "bare", 22000)))
    monkeypatch.setattr(__main__, "_build_redis", lambda: None if existing else start())
    arguments, command = __main__.parse(["run", *options, "--", "true"])
    assert arguments.verb(arguments, command) == 0
    assert done == stopped


def test_words_after_the_dashes_are_the_remote_command() -> None:
    arguments, command = __main__.parse(["ssh", "redoubt-2", "--", "ls", "--", "-l"])
    assert (arguments.name, command) == ("redoubt-2", ["ls", "--", "-l"])


@pytest.mark.parametrize(("image", "chosen"), [("", "host"), ("bare", "bare")])
def test_virtual_machine_is_chosen_with_a_one_line_reason(
    image: str,
    chosen: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def cannot() -> None:
        raise NoEngineError("the reason\nthe end of the log")

    monkeypatch.setattr(util, "STATE", tmp_path)
    monkeypatch.setattr(engine, "ensure", cannot)
    assert __main__.choose("try-1", "", image) == ("vm", chosen)
    output = capsys.readouterr().err
    assert "the reason\n" in output
    assert "the end of the log" not in output


def test_wrong_docker_host_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong DOCKER_HOST is an error, which the operator can correct.

    So the sandbox does not use a virtual machine instead.
    """
    monkeypatch.setattr(util, "STATE", tmp_path)
    monkeypatch.setattr(engine, "answering", lambda: None)
    monkeypatch.setattr(engine, "is_running", lambda: False)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    with pytest.raises(SandboxError, match="DOCKER_HOST=unix:///nowhere") as raised:
        __main__.choose("try-1", "", "")
    assert not isinstance(raised.value, NoEngineError)


def test_given_kind_is_used() -> None:
    assert __main__.choose("try-1", "vm", "") == ("vm", "")
