"""A plain redis-server on this machine, without Docker.

Its directories and configuration are those of a deploy. The server comes from the sandbox's Redis image. It runs as uid
999 in its own mount and network namespaces, with the image as its root and the same directories mounted as in a
container. So redisctl reaches it as on a host: by its process id, through /proc/PID/root. `LocalInstance` replaces only
what Docker would say of the container.
"""

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from redisctl import paths, schema
from redisctl.cli.main import cli, run_cli
from redisctl.core.instance import Instance
from redisctl.core.redis_socket import SOCKET
from redoubt import host_files, secret_store
from redoubt.filesystem import DesiredDirectory, DesiredFile
from redoubt.secret_store import Secrets
from redoubt.settings.load import load
from redoubt.settings.model import Settings
from sandbox import images

_PID_FILE = "server.pid"
_START_TIMEOUT = 10

# $1 is the root of the image, $2 the uid, $3 the gid; then, for each mount, source, target below the root, ro or rw.
_START = """
set -e
umask 077
root=$1 uid=$2 gid=$3; shift 3
while [ $# -gt 0 ]; do
  mount --bind "$1" "$root$2"
  if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
  shift 3
done
mount -t tmpfs -o uid=$uid,gid=$gid,mode=0700,size=64k tmpfs "$root/run/redis"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot --userspec=$uid:$gid "$root" redis-server /etc/redis/redis.conf
"""


class LocalInstance(Instance):
    """An instance whose server runs without Docker.

    The process of the server describes its container.
    """

    @cached_property
    def container(self) -> dict[str, Any]:
        """Return what Docker would report of the server's process.

        Empty before the first start.
        """
        try:
            pid = int((self.root / _PID_FILE).read_text())
        except FileNotFoundError:
            return {}
        running = _is_running(pid)
        state = {"Status": "running" if running else "exited", "Pid": pid if running else 0, "Running": running}
        state["StartedAt"] = f"start of {pid}"
        return {"State": state, "RestartCount": 0}


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def load_local_instance(root: Path) -> LocalInstance:
    """Return the instance that redisctl.json describes."""
    return load_as(LocalInstance, root)


InstanceT = TypeVar("InstanceT", bound=Instance)


def load_as(instance_type: type[InstanceT], root: Path) -> InstanceT:
    """Return the instance that redisctl.json describes, as a type."""
    return schema.load(instance_type, (root / paths.PROGRAM_CONFIG).read_text())


@dataclass(frozen=True)
class Output:
    """What a command line printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class LocalRedis:
    """One server with its directory and its secrets.

    ``instance_type`` is what redisctl gets: an ``Instance`` asks Docker, which must be a ``LocalDocker``.
    """

    image_root: Path
    settings: Settings
    secrets: Secrets = field(repr=False)
    process: subprocess.Popen[bytes] | None = None
    instance_type: type[Instance] = LocalInstance

    @property
    def root(self) -> Path:
        """The directory of the instance."""
        return Path(self.settings.root)

    @property
    def pid(self) -> int:
        """The process of the server."""
        assert self.process is not None
        return self.process.pid

    @property
    def socket(self) -> str:
        """The path of the server's socket."""
        return f"/proc/{self.pid}/root/{SOCKET}"

    def start(self) -> None:
        """Start the server and wait until it has loaded its data."""
        process = self.launch()
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.answers():
            assert process.poll() is None, (self.root / "logs/redis.log").read_text()
            assert time.monotonic() < deadline, "the local Redis does not answer"
            time.sleep(0.01)

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start the server, and do not wait for it."""
        mounts = [
            word
            for directory, target, mode in host_files.mounts(self.settings)
            for word in (str(self.root / directory), target, mode)
        ]
        command = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", _START, "sh"]
        self.process = subprocess.Popen(
            [*command, str(self.image_root), str(self.settings.redis_uid), str(self.settings.redis_gid), *mounts],
            stdin=subprocess.DEVNULL,
        )
        (self.root / _PID_FILE).write_text(str(self.process.pid))
        return self.process

    def answers(self) -> bool:
        """Say whether the server answers."""
        try:
            with self.client() as client:
                client.ping()
        except (RedisError, OSError):
            return False
        return True

    def stop(self) -> None:
        """Stop the server as Docker does, and wait until it has ended."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(20)

    def client(self, user: str = "admin", **options: Any) -> Redis:
        """Return a client that is logged in as a user and never retries."""
        return Redis(
            unix_socket_path=self.socket,
            username=user,
            password=self.secrets.passwords[user],
            retry=Retry(NoBackoff(), 0),
            **{"socket_timeout": 30, **options},
        )

    def execute_renamed(self, command: str, *arguments: str) -> Any:
        """Run a command that has a secret name, as admin."""
        with self.client(decode_responses=True) as client:
            return client.execute_command(self.secrets.renamed_command(command), *arguments)

    # -- redisctl

    def redisctl(self, line: str) -> Output:
        """Run a command line of redisctl in this process."""
        instance = load_as(self.instance_type, self.root)
        stdout, stderr = io.StringIO(), io.StringIO()
        returncode = 0
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                arguments = shlex.split(line)
                returncode = run_cli(lambda: cli.main(arguments, "redisctl", standalone_mode=False, obj=instance))
            except SystemExit as error:
                returncode = int(error.code or 0)
        return Output(returncode, stdout.getvalue(), stderr.getvalue())

    def report(self, line: str) -> dict[str, Any]:
        """Return what a verb prints as JSON. It must succeed and print nothing else."""
        output = self.redisctl(f"{line} --json")
        assert (output.returncode, output.stderr) == (0, ""), (line, output)
        report: dict[str, Any] = json.loads(output.stdout)
        return report

    def refusal(self, line: str) -> str:
        """Return the error message of a verb that must fail and print nothing else."""
        output = self.redisctl(line)
        assert (output.returncode, output.stdout) == (3, ""), (line, output)
        return output.stderr


@contextlib.contextmanager
def local_redis(image_root: Path, directory: Path, name: str, **settings: Any) -> Iterator[LocalRedis]:
    """Lay an instance out below a directory as a deploy would, and run it."""
    values = {
        "redis_name": name,
        "redis_root": str(directory / name),
        "redis_secrets_dir": str(directory / "secrets"),
        "redis_image": images.redis_reference(),
        **settings,
    }
    loaded = load(values)
    redis = LocalRedis(image_root, loaded, secret_store.load_or_create(loaded, "local"))
    _write_files(redis)
    redis.start()
    try:
        yield redis
    finally:
        redis.stop()
        Path(paths.start_record(name)).unlink(missing_ok=True)


def _write_files(redis: LocalRedis) -> None:
    settings = redis.settings
    for entry in (*host_files.root(settings), *host_files.directories(settings)):
        if isinstance(entry, DesiredDirectory):
            _make_directory(entry)
    files = [
        *host_files.config_files(settings),
        host_files.acl_file(settings, redis.secrets),
        *host_files.secret_files(settings, redis.secrets),
        host_files.redisctl_config(settings),
        host_files.activedefrag_file(settings),
    ]
    for file in files:
        if isinstance(file, DesiredFile):
            Path(file.path).write_bytes(file.data)
            Path(file.path).chmod(file.mode)
            os.chown(file.path, file.uid, file.gid)


def _make_directory(directory: DesiredDirectory) -> None:
    Path(directory.path).mkdir(parents=True, exist_ok=True)
    Path(directory.path).chmod(directory.mode)
    os.chown(directory.path, directory.uid, directory.gid)
