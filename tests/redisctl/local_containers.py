"""Containers of redisctl that run without Docker.

They are scratch Redis servers and checkers. Their programs come from the sandbox's Redis image. They run as Redis's
user in mount and network namespaces of their own, with the image as their root and the directories of ``docker run``.
Memory limits and capabilities need a real Docker.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from redisctl.core import process

# $1 is the image's root, $2 the working directory, $3 the user; then, for each mount, the source, the target and "ro"
# or "rw"; after "--" the program.
_RUN = """
set -e
root=$1 workdir=$2 user=$3; shift 3
while [ "$1" != -- ]; do
  mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
  if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
  shift 3
done
shift
mount -t tmpfs -o uid=${user%:*},gid=${user#*:},mode=0700,size=64k tmpfs "$root/run/redis"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot --userspec=$user "$root" /bin/sh -c 'cd "$0"; exec "$@"' "$workdir" "$@"
"""


@dataclass
class LocalContainers:
    """Answers the Docker commands of redisctl.

    ``runs`` are the command lines of all containers, and ``logs`` is a directory for what they print. With ``limits``
    it gets the memory of each container that starts in the background, which is killed if it takes more. ``log_start``
    is the number of lines that are gone from the beginning of a log.
    """

    image_root: Path
    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    runs: list[Sequence[str]] = field(default_factory=list)
    limits: list[int] | None = None
    log_start: int = 0
    out_of_memory: set[int] = field(default_factory=set)

    def run(
        self, command: Sequence[str], *, timeout: float | None = None, stdin: str | None = None, name: str = ""
    ) -> CompletedProcess[str]:
        """Run a command as ``process.run`` does."""
        match list(command):
            case ["docker", "run", *words]:
                return self._run(words, stdin, timeout)
            case ["docker", "rm", "--force", name]:
                self.remove(name)
                output = ""
            case ["docker", "container", "inspect", *names]:
                output = json.dumps([self._inspect(name) for name in names if name in self.running])
            case ["docker", "ps", *_] | ["systemctl", *_]:
                output = ""
            case ["docker", "logs", "--tail", lines, name]:
                log = self._log(name).read_text(errors="backslashreplace").splitlines()[self.log_start :]
                output = "\n".join(log if lines == "all" else log[-int(lines) :])
            case _:
                raise AssertionError(f"no local container answers {command}")
        return CompletedProcess(command, 0, output, "")

    def _run(self, words: list[str], stdin: str | None, timeout: float | None) -> CompletedProcess[str]:
        self.runs.append(tuple(words))
        options: dict[str, list[str]] = {}
        flags = {"--detach", "--rm", "--read-only", "--init", "--interactive"}
        while words[0].startswith("--"):
            name = words.pop(0)
            options.setdefault(name, []).append("" if name in flags else words.pop(0))
        mounts = [word for volume in options["--volume"] for word in volume.split(":")]
        program = [*options["--entrypoint"], *words[1:]]
        workdir = options.get("--workdir", ["/"])[0]
        network = [] if options["--network"] == ["host"] else ["--net"]
        namespaces = ["unshare", "--mount", *network, "--propagation", "private"]
        arguments = [str(self.image_root), workdir, *options["--user"], *mounts, "--", *program]
        line = [*namespaces, "sh", "-c", _RUN, "sh", *arguments]
        if "--detach" not in options:
            return subprocess.run(
                line, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
            )
        name = options["--name"][0]
        with self._log(name).open("wb") as log:
            container = self.running[name] = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if self.limits is not None:
            limit = int(options["--memory"][0])
            self.limits.append(limit)
            threading.Thread(target=self._enforce, args=(container, limit), daemon=True).start()
        return CompletedProcess(line, 0, "", "")

    def _inspect(self, name: str) -> dict[str, Any]:
        container = self.running[name]
        code = container.poll()
        state = {"Running": code is None, "Pid": container.pid if code is None else 0, "ExitCode": code}
        state |= {"OOMKilled": container.pid in self.out_of_memory}
        return {"Name": name, "State": state}

    def _enforce(self, container: subprocess.Popen[bytes], limit: int) -> None:
        """Kill a container when it takes more memory than its limit."""
        while container.returncode is None:
            if _resident(container.pid) > limit:
                self.out_of_memory.add(container.pid)
                container.kill()
                return
            time.sleep(0.005)

    def remove(self, name: str) -> None:
        if name in self.running:
            container = self.running.pop(name)
            container.kill()
            container.wait(20)

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def _resident(pid: int) -> int:
    """Return the memory of a process in bytes; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


@contextmanager
def local_containers(image_root: Path, logs: Path) -> Iterator[LocalContainers]:
    """Run the containers of redisctl locally."""
    containers = LocalContainers(image_root, logs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "run", containers.run)
        yield containers
    assert not containers.running, "a scratch Redis was left"
