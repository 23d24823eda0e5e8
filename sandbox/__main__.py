"""The command line of the sandbox: `python -m sandbox --help`."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import docker
import requests

from sandbox import cleanup, engine, hosts, image_build, ssh, vm
from sandbox.hosts import Host
from sandbox.util import ROOT, NoEngineError, SandboxError, lock, say

# Seconds for a cancelled command to remove its hosts.
_CLEANUP_TIMEOUT = 180


def main(argv: list[str]) -> int:
    """Run one verb and return its exit code."""
    arguments, rest = parse(argv)
    try:
        code: int = arguments.verb(arguments, rest)
    except NoEngineError as error:
        print(f"error: Docker does not answer and cannot be started: {error}", file=sys.stderr)
        print("use a virtual machine with Docker: `python -m sandbox up NAME --kind vm --image host`", file=sys.stderr)
        return 1
    except SandboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (docker.errors.DockerException, requests.RequestException) as error:
        print(f"error: Docker: {getattr(error, 'explanation', None) or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split a command line at its first `--`.

    Return the verb with its arguments, and the words after the `--`.
    """
    own, rest = argv, []
    if "--" in argv:
        cut = argv.index("--")
        own, rest = argv[:cut], argv[cut + 1 :]
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="Disposable hosts.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("up", help="create or start a host")
    verb.add_argument("name", nargs="?", default=hosts.DEFAULT)
    verb.add_argument("--kind", default="", choices=["container", "vm"], help="default: container if Docker can run")
    verb.add_argument("--image", default="", choices=["host", "bare"], help="bare: without Docker")
    verb.set_defaults(verb=_up)

    verb = verbs.add_parser("down", help="remove a host")
    verb.add_argument("name", nargs="?", default=hosts.DEFAULT)
    verb.set_defaults(verb=_down)

    verb = verbs.add_parser("ssh", help="open a shell on a host, or run one command: ssh NAME -- CMD")
    verb.add_argument("name", nargs="?", default=hosts.DEFAULT)
    verb.set_defaults(verb=_ssh)

    verb = verbs.add_parser("list", help="list all hosts")
    verb.add_argument("--json", action="store_true")
    verb.set_defaults(verb=_list)

    verb = verbs.add_parser("run", help="run a command while the default host runs: run -- CMD")
    verb.add_argument("--no-host", action="store_true", help="only build the Redis image")
    verb.set_defaults(verb=_run)

    verb = verbs.add_parser("howto", help="print what to do with the default host")
    verb.set_defaults(verb=_howto)

    verb = verbs.add_parser("clean", help="remove everything that the sandbox created")
    verb.set_defaults(verb=_clean)
    return parser.parse_args(own), rest


def _up(arguments: argparse.Namespace, _: list[str]) -> int:
    host = _host_up(arguments.name, arguments.kind, arguments.image)
    _build_redis()
    say(host.name, f"is up: {host.address or 'a virtual machine'}, SSH on 127.0.0.1:{host.ssh_port}")
    return 0


def _host_up(name: str = hosts.DEFAULT, kind: str = "", image: str = "") -> Host:
    """Start a host; `choose` decides what a new one is."""
    hosts.check_name(name)
    if not any(host.name == name for host in hosts.load()):
        kind, image = choose(name, kind, image)
    return hosts.up(name, kind=kind, image=image)


def choose(name: str, kind: str, image: str) -> tuple[str, str]:
    """Return the kind and image of a new host.

    The default is a container if Docker runs or can be started; this starts it. Otherwise the default is a virtual
    machine, whose Docker can build images; the reason goes to stderr.
    """
    if kind:
        return kind, image
    try:
        with lock():
            engine.ensure()
    except NoEngineError as error:
        say(name, f"Docker cannot be started here: {str(error).splitlines()[0]}")
        say(name, "using a virtual machine instead, whose Docker also builds the images")
        return "vm", image or "host"
    return "container", image


def _build_redis() -> None:
    """Build the Redis image with the Docker of this machine or of a virtual machine."""
    with lock():
        try:
            client = engine.ensure()
        except NoEngineError as error:
            candidates = [
                host for host in hosts.load() if (host.kind, host.image) == ("vm", "host") and host.is_running()
            ]
            if not candidates:
                raise SandboxError(
                    f"Docker cannot be started here: {error}\n"
                    "No virtual machine with Docker runs either: `make deploy` starts one"
                ) from None
            with vm.engine(candidates[0]) as client:
                image_build.ensure_redis(client)
        else:
            image_build.ensure_redis(client)


def _down(arguments: argparse.Namespace, _: list[str]) -> int:
    hosts.get(arguments.name).down()
    return 0


def _ssh(arguments: argparse.Namespace, command: list[str]) -> int:
    host = hosts.get(arguments.name)
    if not host.listens():
        raise SandboxError(f"{host.name} is stopped: `python -m sandbox up {host.name}` starts it")
    terminal = ["-t"] if sys.stdin.isatty() else []
    line = ssh.command(host.name, *terminal, *(["--", *command] if command else []))
    return subprocess.run(line, env=ssh.environment(), check=False).returncode


def _list(arguments: argparse.Namespace, _: list[str]) -> int:
    records = [{**asdict(host), "running": host.is_running()} for host in hosts.load()]
    if arguments.json:
        print(json.dumps(records, indent=2))
        return 0
    for host in records:
        host["state"] = "running" if host["running"] else "stopped"
        print("{name:<20} {state:<8} {kind:<10} {image:<5} {address!s:<15} SSH 127.0.0.1:{ssh_port}".format(**host))
    if not records:
        print("there are no hosts: `make deploy` or `python -m sandbox up` starts one", file=sys.stderr)
    return 0


def _run(arguments: argparse.Namespace, command: list[str]) -> int:
    """Run a command while the default host runs.

    Afterwards stop what this started, unless others use it.
    """
    if not command:
        raise SandboxError("there is no command: python -m sandbox run -- COMMAND")
    engine_ran = engine.is_running()
    host_ran = arguments.no_host or _default_runs()
    try:
        if not arguments.no_host:
            _host_up()
        _build_redis()
        environment = ssh.environment()
        # The programs of this virtualenv come first, even if it is not activated.
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        return _wait_for(subprocess.Popen(command, cwd=ROOT, env=environment))
    finally:
        if not host_ran and _default_runs():
            _end(hosts.get(hosts.DEFAULT))
        if not engine_ran:
            _end_engine()


def _default_runs() -> bool:
    return any(host.name == hosts.DEFAULT and host.is_running() for host in hosts.load())


def _wait_for(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code of a command.

    If this process is cancelled, it also cancels the command, with time to clean up.
    """
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The terminal has interrupted both.
        return process.wait()
    except SystemExit:
        process.terminate()
        try:
            process.wait(_CLEANUP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def _end(host: Host) -> None:
    """Stop a host cleanly, or cut its power if that fails.

    A failure is not raised, because other hosts and Docker must be stopped as well.
    """
    try:
        host.stop()
    except SandboxError as error:
        say(host.name, f"does not stop cleanly, so its power is cut: {error}")
        host.kill()


def _end_engine() -> None:
    """Stop the sandbox's Docker, unless it runs other containers."""
    with lock():
        others = engine.containers()
        if others:
            say("docker", f"keeps running for {', '.join(others)}")
        else:
            engine.stop()


def _howto(_: argparse.Namespace, __: list[str]) -> int:
    host = hosts.get(hosts.DEFAULT)
    # Its tests start further containers, which need this machine's Docker.
    test = "  make test                     run the quick tests, on this and on further disposable hosts\n"
    test = test if engine.answering() else ""
    at = f" at {host.address}" if host.address else " as a virtual machine"
    print(f"""
{host.name} is up{at}, reachable from this machine only. Redis listens on its 127.0.0.1:6379; the URLs
are above. To use them from here, until you press Ctrl-C:
  ssh -F .sandbox/ssh_config -o ControlPath=none -N -L 6379:127.0.0.1:6379 {host.name}

  make ssh                      a root shell there
  make ssh CMD='docker ps'      one command there
{test}  .venv/bin/pytest tests/host   check only this host against its settings
  make clean                    remove it, and everything else that was created here
""")
    return 0


def _clean(_: argparse.Namespace, __: list[str]) -> int:
    cleanup.clean()
    return 0


if __name__ == "__main__":
    # `run` must clean up when a CI job is cancelled, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
