"""A host where Redis, its files and its neighbours are hostile.

The host is a directory: the files of a deploy, a backup, and scripts in place of Docker and other programs, which point
to a fake Redis. Each verb runs in a process of its own, with a copy of the directory.
"""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from redisctl import paths
from redisctl.cli.deploy import STEPS
from redisctl.cli.main import cli
from tests.redisctl.fake_redis import HOSTILE_TEXT, REDIS

# What a verb needs to do its work, as options and standard input. A new verb with required arguments needs a line.
ARGUMENTS: dict[str, Sequence[str]] = {
    "top": ("--count", "1", "--interval", "1"),
    "latency": ("--seconds", "1"),
    "slowlog": ("--arguments",),
    "memory": ("--names", "--all"),
    "sessions expire": ("--no-ttl", "--yes"),
    "queues requeue": ("--yes",),
    "queues prune": ("--older-than", "7d", "--yes"),
    "backup fetch": ("latest",),
    "restore": ("latest", "--yes"),
    "repair": ("--names",),
    "import start": ("--from", "127.0.0.1:PORT"),
    "import finish": ("--names",),
    "remove": ("--yes",),
    "recover": ("--wait", "0"),
    **{f"deploy {step}": (step,) for step in STEPS},
}
_START = {"image": "redis:test", "owner": "999:999", "timeout": 1}
REQUESTS: dict[str, dict[str, Any]] = {
    "deploy start-service": _START,
    "deploy replace-files": {"run": "x"},
    "deploy live-config": {"config": [["maxmemory", "1gb"]], "limits": ["--memory", "2g"], "memory": 2**31},
    "deploy certificate": {"directives": {"tls-cert-file": "/etc/redis/cert.pem"}},
    "deploy persistence": {"target": "rdb", "save": "60 1", "timeout": 1},
    "deploy acl": {"acl": "user admin on\nuser other on\n"},
    "deploy check-acl": {"acl": "user admin on\n", **_START},
    "deploy activedefrag": _START,
    "deploy check-upgrade": {"image": "redis:test"},
    "state": {"mounts": [["data/live", "/data"]], "acl": "user admin on\n"},
}

_DOCKER = """\
case "$*" in
"container inspect"*|"inspect"*) /bin/cat {directory}/container.json;;
"image inspect"*) echo '[{{"Id": "sha256:f00", "RepoTags": ["redis:test"], "Config": {{}}}}]';;
"network inspect"*) echo '[]';;
logs*) /bin/cat {directory}/text;;
exec*) /bin/cat {directory}/text; exit 1;;
run*) echo f00;;
ps*"json .ID"*) /bin/cat {directory}/listing;;
ps*compose.project*) echo c0ffee;;
esac
exit 0
"""
_RESTIC = """\
case "$*" in
*"cat config"*) exit 0;;
*snapshots*) /bin/cat {directory}/snapshots.json;;
*) /bin/cat {directory}/text >&2; exit 1;;
esac
exit 0
"""
_PROGRAMS = {"docker": _DOCKER, "restic": _RESTIC, "openssl": "/bin/cat {directory}/text >&2; exit 1\n"}
# Programs that succeed and print nothing.
_SILENT = ("systemctl", "nft", "ss", "sync", "nsenter")
_REAL = ("du", "rm")


@dataclass(frozen=True)
class Result:
    """How a verb ended.

    ``memory`` is its peak in bytes, ``took`` its time in seconds.
    """

    verb: str
    code: int
    memory: int
    took: float
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Everything that a person sees."""
        return self.stdout + self.stderr


@dataclass
class FakeServer:
    """A fake Redis that runs, and the programs that lead to it."""

    directory: Path
    port: int

    @property
    def connections(self) -> int:
        """How many clients have connected until now."""
        return (self.directory / "log").read_text().count("connected")


@dataclass
class HostileHost:
    """A host below a directory, with a process that runs verbs on it."""

    directory: Path
    template: Path
    info: str
    config: list[str]
    runner: subprocess.Popen[str]
    copies: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def servers(self, kinds: Sequence[str]) -> Iterator[dict[str, FakeServer]]:
        """Run a fake Redis of each kind, see fake_redis.py."""
        with contextlib.ExitStack() as stack:
            processes = {kind: stack.enter_context(self._process(kind)) for kind in kinds}
            yield {kind: self._server(kind, process) for kind, process in processes.items()}

    @contextlib.contextmanager
    def _process(self, kind: str) -> Iterator[subprocess.Popen[str]]:
        directory = self.directory / f"server-{kind}"
        (directory / "root").mkdir(parents=True)
        (directory / "info").write_text(self.info)
        (directory / "config").write_text(json.dumps(self.config))
        files = [str(directory / name) for name in ("info", "config")]
        command = [sys.executable, "-m", "tests.redisctl.fake_redis", str(directory / "root"), kind, *files]
        with (directory / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stdin=subprocess.DEVNULL, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _server(self, kind: str, process: subprocess.Popen[str]) -> FakeServer:
        directory = self.directory / f"server-{kind}"
        while not (lines := (directory / "log").read_text().splitlines()):
            assert process.poll() is None, "the fake Redis has ended"
            time.sleep(0.05)
        _write_programs(directory, process.pid)
        return FakeServer(directory, int(lines[0]))

    def run(
        self, jobs: Sequence[tuple[str, FakeServer]], signals: Sequence[tuple[int, list[tuple[float, int]]]] = ()
    ) -> list[Result]:
        """Run verbs at the same time, each with a server.

        ``signals`` are those for each verb: a timer, and the signals with the seconds before each.
        """
        requests = [self._request(verb, server) for verb, server in jobs]
        for request, numbers in zip(requests, signals, strict=bool(signals)):
            request["signals"] = numbers
        assert self.runner.stdin is not None
        assert self.runner.stdout is not None
        self.runner.stdin.write(json.dumps(requests) + "\n")
        self.runner.stdin.flush()
        answers = json.loads(self.runner.stdout.readline())
        return [
            Result(verb, answer["code"], answer["memory"], answer["took"], *_outputs(request))
            for (verb, _), request, answer in zip(jobs, requests, answers, strict=True)
        ]

    def _request(self, verb: str, server: FakeServer) -> dict[str, Any]:
        name = f"hostile-{os.getpid()}-{len(self.copies)}"
        self.copies.append(name)
        root = self.directory / name
        shutil.copytree(self.template, root, symlinks=True, copy_function=_copy)
        os.chown(root / paths.LIVE, REDIS, REDIS)
        _write_hostile_files(root)
        _own_backup(root, name)
        config = json.loads((root / paths.PROGRAM_CONFIG).read_text())
        config |= {"name": name, "root": str(root), "stop_grace": 1, "start_timeout": 1}
        config["backup"] |= {"repository": "/srv/repository"}
        (root / paths.PROGRAM_CONFIG).write_text(json.dumps(config))
        (root / paths.COMPOSE_FILE).touch()
        (root / paths.REPOSITORY_SECRETS).mkdir(parents=True)
        if verb.startswith("import ") and verb != "import start":
            (root / paths.IMPORT / "data").mkdir(parents=True)
            source = {"host": "127.0.0.1", "port": server.port}
            state = {"source": source, "started": 1.0, "overwrite": True, "memory": 1000}
            (root / paths.IMPORT / "state.json").write_text(json.dumps(state))
        request = dict(REQUESTS.get(verb, {}))
        if verb == "state":
            request |= {"name": name, "root": str(root)}
            _name_container(server.directory, name)
        files = {stream: str(root.with_suffix(f".{stream}")) for stream in ("stdin", "stdout", "stderr")}
        Path(files["stdin"]).write_text(json.dumps(request) if request else "\n")
        arguments = [word.replace("PORT", str(server.port)) for word in ARGUMENTS.get(verb, ())]
        words = verb.split()[:1] if verb.startswith("deploy ") else verb.split()
        return {
            **files,
            "root": str(root),
            "programs": str(server.directory / "bin"),
            "arguments": [*words, *arguments],
        }

    def real_server(self, pid: int) -> FakeServer:
        """Return programs that lead to a real Redis, by its process."""
        directory = self.directory / f"server-{pid}"
        directory.mkdir()
        (directory / "log").touch()
        _write_programs(directory, pid)
        return FakeServer(directory, 1)

    def clean_up(self) -> None:
        """Remove what the copies left in /run."""
        for name in self.copies:
            Path(paths.lock_file(name)).unlink(missing_ok=True)
            Path(paths.start_record(name)).unlink(missing_ok=True)


def _own_backup(root: Path, name: str) -> None:
    """Make the newest backup one of this instance."""
    metadata = max((root / paths.BACKUPS).glob("2*")) / "backup.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"instance": name}))


def _write_hostile_files(root: Path) -> None:
    """Write what Redis, another host and another person could have written."""
    name = HOSTILE_TEXT.replace("/", "").encode(errors="surrogatepass") + b"\xff"
    live = os.fsencode(root / paths.LIVE)
    for path in (
        live + b"/" + name,
        live + b"/appendonlydir/" + name,
        os.fsencode(root / paths.PREVIOUS) + b"/" + name,
    ):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        os.chown(path, REDIS, REDIS)
    with (root / paths.LOGS / "redis.log").open("ab") as log:
        log.write(
            b"1:M 01 Jan 2026 00:00:00.000 # Bad file format reading the append only file: "
            + name.replace(b"\n", b"")
            + b"\n"
        )
    (backup,) = (root / paths.BACKUPS).glob("2*")
    foreign = root / paths.BACKUPS / "20260101T000000Z"
    shutil.copytree(backup, foreign)
    metadata = json.loads((foreign / "backup.json").read_text())
    metadata["id"] = foreign.name
    metadata |= dict.fromkeys(("instance", "host", "engine", "version"), HOSTILE_TEXT)
    (foreign / "backup.json").write_text(json.dumps(metadata))
    record: dict[str, Any] = {
        "run": "x",
        "verb": HOSTILE_TEXT,
        "who": HOSTILE_TEXT,
        "started": "2026-01-01T00:00:00",
        "settings": "x",
    }
    record |= {"ended": "2026-01-01T00:00:00", "image": HOSTILE_TEXT, "changed": [HOSTILE_TEXT], "failed": HOSTILE_TEXT}
    (root / "history").write_text(json.dumps(record) + "\n")


def _copy(source: str, target: str) -> None:
    shutil.copy2(source, target)
    status = os.stat(source)
    os.chown(target, status.st_uid, status.st_gid)


def _outputs(request: dict[str, Any]) -> list[str]:
    return [Path(request[stream]).read_text() for stream in ("stdout", "stderr")]


def _name_container(directory: Path, name: str) -> None:
    """Add a container with the name of an instance, by which ``state`` finds it."""
    containers = json.loads((directory / "container.json").read_text())
    containers.append({**containers[0], "Name": f"/{name}"})
    (directory / "container.json").write_text(json.dumps(containers))
    with (directory / "listing").open("a") as listing:
        listing.write(json.dumps(["c0ffee", name, HOSTILE_TEXT, "", ""]) + "\n")


def _write_programs(directory: Path, pid: int) -> None:
    (directory / "bin").mkdir()
    state = {"Status": "running", "Running": True, "Pid": pid, "StartedAt": "2026-01-01T00:00:00.000000000Z"}
    container = {
        "Id": "c0ffee",
        "Name": "/hostile",
        "Image": "sha256:f00",
        "RestartCount": 0,
        "State": {**state, "Health": {"Status": HOSTILE_TEXT}, "ExitCode": 0},
        "HostConfig": {"RestartPolicy": {"Name": "always"}, "PortBindings": {}, "Memory": 0},
        "Config": {"Labels": {"com.docker.compose.project": HOSTILE_TEXT}},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    }
    copies = [
        {"tags": ["hostile", "20260101T000000Z"], "hostname": HOSTILE_TEXT, "id": HOSTILE_TEXT, "time": HOSTILE_TEXT}
    ]
    (directory / "container.json").write_text(json.dumps([container]))
    (directory / "snapshots.json").write_text(json.dumps(copies))
    (directory / "text").write_bytes(HOSTILE_TEXT.encode(errors="surrogatepass") + b"\xff\n")
    scripts = {**_PROGRAMS, **dict.fromkeys(_SILENT, "exit 0\n")}
    for name, text in scripts.items():
        path = directory / "bin" / name
        path.write_text(f"#!/bin/sh\n{text.format(directory=directory)}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    for name in _REAL:
        (directory / "bin" / name).symlink_to(shutil.which(name) or "")


def verbs() -> list[str]:
    """Return every verb of the program, and every step of a deploy."""
    found = list(_walk(cli, ()))
    return sorted([*(verb for verb in found if verb != "deploy"), *(f"deploy {step}" for step in STEPS)])


def _walk(command: click.Command, names: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield " ".join(names)
        return
    if command.invoke_without_command:
        yield " ".join(names)
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from _walk(child, (*names, name))
