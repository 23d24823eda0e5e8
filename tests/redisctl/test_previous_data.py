"""Present keys survive every verb that replaces data, although no file has them.

The AOF is off, and Redis has not saved yet. Undo brings the keys back, and a verb that fails leaves them to the running
Redis. tests/lifecycle/test_foreign_data.py has the same on a host.
"""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redisctl import paths
from redisctl.core import journal, scratch_redis
from redisctl.core.errors import Failure
from redisctl.core.formatting import size
from redisctl.core.journal import Journal, Stage
from redisctl.deploy import configuration, preview
from redisctl.deploy import service as deploy_service
from redisctl.migrate import migration
from redisctl.migrate.replica import Replica
from redisctl.schema import ReplaceRequest, StartRequest
from tests.deployed_redis import wait_until
from tests.redisctl.foreign_files import LIBRARY, command
from tests.redisctl.local_docker import NEW_IMAGE, OLD_IMAGE, POLICY, LocalDocker, local_docker
from tests.redisctl.local_redis import LocalRedis, Output, load_as, local_redis

KEYS = 40
# Bytes of a value: more than a full disk takes, and hard to compress.
LARGE = 1_000_000
WITHOUT_FILES: dict[str, Any] = {"redis_appendonly": False, "redis_save": "3600 1000000000"}
DISK = 160 * 1024**2


@dataclass
class Setting:
    """A Redis on a small disk of its own, with keys that are in no file.

    ``steps`` are what happens at stages of the next transaction.
    """

    server: LocalRedis
    docker: LocalDocker
    directory: Path
    stack: ExitStack
    line: str
    steps: dict[Stage, Callable[[], Any]] = field(default_factory=dict)

    @property
    def live(self) -> Path:
        return self.server.root / paths.LIVE

    @property
    def filler(self) -> Path:
        return self.server.root / paths.DATA / "filler"

    def run(self, line: str = "") -> Output:
        """Run a command line of redisctl, by default the verb of the test."""
        return self.server.redisctl((line or self.line).format(root=self.server.root))

    def large(self) -> int:
        with self.server.client() as client:
            return int(client.strlen("rq:large"))

    def damage(self) -> None:
        """Damage the new data."""
        for path in self.live.rglob("*"):
            if path.is_file():
                path.write_text("damaged\n")

    def present(self) -> set[bytes]:
        with self.server.client() as client:
            return set(client.scan_iter("app:*", count=1000))

    def slow_bgsave(self) -> None:
        """Begin a BGSAVE that takes longer than the test."""
        self.server.execute_renamed("CONFIG", "SET", "rdb-key-save-delay", "1000000")
        with self.server.client() as client:
            client.execute_command("BGSAVE")
            self.server.execute_renamed("CONFIG", "SET", "rdb-key-save-delay", "0")
            assert client.info("persistence")["rdb_bgsave_in_progress"] == 1

    def fill_disk(self) -> None:
        """Leave room for the journal, and for nothing that Redis writes."""
        space = os.statvfs(self.filler.parent)
        self.filler.write_bytes(bytes(space.f_bavail * space.f_frsize - 128 * 1024))
        with self.server.client() as client:
            if client.info("persistence")["aof_enabled"]:
                # All other keys are in the AOF already.
                client.set("rq:large", os.urandom(LARGE))
                wait_until(lambda: client.info("persistence")["aof_last_write_status"] == "err", "a write fails", 10)


def write_keys(client: Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(KEYS - 1):
            pipe.set(f"app:session:{number}", number, ex=72000)
        pipe.set("rq:large", os.urandom(LARGE))
        pipe.execute()


# -- The verbs. Each replaces the data by one key of another Redis.


@dataclass
class Verb:
    """A verb that replaces data.

    It has what comes before it, its command line, and the settings of Redis.
    """

    prepare: Callable[[Setting], None]
    line: str
    settings: dict[str, Any] = field(default_factory=lambda: WITHOUT_FILES)


def write_aof(setting: Setting) -> None:
    (setting.server.root / "foreign.aof").write_bytes(command("SELECT", "0") + command("SET", "foreign", "1"))


def replace_once(setting: Setting) -> None:
    """Make the present keys those of a restored Redis, in no file."""
    write_aof(setting)
    result = setting.run(RESTORE)
    assert result.returncode == 0, result
    with setting.server.client() as client:
        assert client.dbsize() == 1
        write_keys(client)
        client.rename("foreign", "app:session:late")
    (setting.live / "dump.rdb").unlink()


def lose_manifest(setting: Setting) -> None:
    """Have Redis start empty next to an AOF that it ignores, and get new keys."""
    with setting.server.client() as client:
        client.bgrewriteaof()
        aof = setting.live / "appendonlydir"
        wait_until((aof / "appendonly.aof.2.incr.aof").exists, "the AOF is rewritten", 10)
        wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, "the AOF is rewritten", 10)
    setting.server.stop()
    (aof / "appendonly.aof.manifest").unlink()
    (setting.live / "dump.rdb").unlink(missing_ok=True)
    setting.server.start()
    with setting.server.client() as client:
        assert client.dbsize() == 0
        write_keys(client)
        client.set("app:session:late", 1)


def start_import(setting: Setting) -> None:
    instance = load_as(setting.server.instance_type, setting.server.root)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    directory = setting.directory / "source"
    directory.mkdir()
    os.chown(directory, *instance.owner)
    name = f"{instance.name}-source"
    options = {"port": str(port), "bind": "127.0.0.1", "repl-diskless-sync-delay": "0", "enable-debug-command": "yes"}
    setting.stack.callback(setting.docker.remove, name)
    limit = 256 * 1024**2
    scratch_redis.start(instance, name, directory, options, limit, label="test", network="host")
    with scratch_redis.connected(name, instance.owner, limit) as source:
        source.set("foreign", "1")
        source.set("gone", "1", px=1)
    setting.stack.callback(setting.server.redisctl, "import cancel")
    password = setting.directory / "password"
    password.write_text("")
    line = f"import start --from 127.0.0.1:{port} --password-file {password} --overwrite"
    result = setting.server.redisctl(line)
    assert result.returncode == 0, result
    assert ": 1 keys, 0 with a TTL, " in result.stdout


RESTORE = "restore {root}/foreign.aof --yes"
VERBS = {
    "restore": Verb(write_aof, RESTORE),
    "undo": Verb(replace_once, "restore --undo --yes"),
    "import": Verb(start_import, "import finish --yes"),
    "repair": Verb(lose_manifest, "repair --yes", {}),
}


@pytest.fixture
def setting(request: pytest.FixtureRequest, image_root: Path, tmp_path: Path) -> Iterator[Setting]:
    """Give a Redis that is ready for the verb of the test."""
    verb = VERBS[request.param] if isinstance(request.param, str) else Verb(lambda _: None, "", request.param)
    data = tmp_path / "previous" / paths.DATA
    data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(data)], check=True)
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", "--lazy", str(data)], check=True)
        server = stack.enter_context(
            local_redis(image_root, tmp_path, "previous", redis_maxmemory="32mb", **verb.settings)
        )
        (tmp_path / "logs").mkdir()
        docker = stack.enter_context(local_docker(server, tmp_path / "logs"))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        made = Setting(server, docker, tmp_path, stack, verb.line)
        write = journal._write

        def write_and_step(instance: Any, record: Journal) -> Journal:
            written = write(instance, record)
            if step := made.steps.pop(record.stage, None):
                step()
            return written

        patch.setattr(journal, "_write", write_and_step)
        with server.client() as client:
            write_keys(client)
        verb.prepare(made)
        assert "dump.rdb" not in os.listdir(made.live)
        yield made


@pytest.mark.parametrize("bgsave", [False, True], ids=["quiet", "bgsave"])
@pytest.mark.parametrize("setting", VERBS, indirect=True)
def test_present_keys_become_previous_data(setting: Setting, *, bgsave: bool) -> None:
    present = setting.present()
    assert len(present) >= KEYS - 1
    if bgsave:
        setting.slow_bgsave()
    result = setting.run()
    assert result.returncode == 0, result
    assert "did not stop cleanly" not in result.stdout
    assert setting.present() != present
    assert setting.run("restore --undo --yes").returncode == 0
    assert (setting.present(), setting.large()) == (present, LARGE)
    assert setting.docker.policy == POLICY


@pytest.mark.parametrize("setting", VERBS, indirect=True)
def test_failure_ends_with_the_present_keys(setting: Setting) -> None:
    """Redis does not start with the new data."""
    present = setting.present()
    setting.steps[Stage.STARTING] = setting.damage
    result = setting.run()
    assert result.returncode == 3, result
    assert "The old data is back and Redis serves it" in result.stderr
    assert (setting.present(), setting.large(), setting.steps) == (present, 1_000_000, {})
    assert setting.docker.policy == POLICY
    assert not (setting.server.root / paths.JOURNAL).exists()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("setting", VERBS, indirect=True)
def test_ctrl_c_at_a_stage_is_one_line_and_is_recovered(setting: Setting) -> None:
    """tests/lifecycle/test_restore_interrupted.py has kill and power cuts."""
    present = setting.present()
    for stage in (Stage.STOPPING, Stage.STOPPED, Stage.INSTALLING, Stage.STARTING):
        setting.steps = {stage: interrupt}
        result = setting.run()
        assert result.returncode == 3, (stage, result)
        # The others are steps that took long.
        (line,) = (line for line in result.stderr.splitlines() if line.startswith("redisctl: "))
        assert " was interrupted. " in line, (stage, line)
        if (setting.server.root / paths.JOURNAL).exists():
            assert setting.run("recover").returncode == 0, stage
        assert (setting.present(), setting.large()) == (present, LARGE), stage
        assert setting.docker.policy == POLICY


@pytest.mark.parametrize("setting", VERBS, indirect=True)
def test_full_disk_at_the_last_save_replaces_nothing(setting: Setting) -> None:
    present, pid = setting.present(), setting.server.pid
    setting.docker.before_stop = setting.fill_disk
    result = setting.run()
    assert result.returncode == 3
    problem = "its last write to the AOF failed" if setting.line == "repair --yes" else "it cannot save its data"
    assert problem in result.stderr
    assert "Nothing has changed" in result.stderr
    assert (setting.server.pid, setting.present(), setting.large()) == (pid, present, LARGE)
    assert setting.docker.policy == POLICY
    assert not (setting.server.root / paths.JOURNAL).exists()
    setting.filler.unlink()
    # The same verb works once there is room.
    result = setting.run()
    assert result.returncode == 0, result
    assert setting.run("restore --undo --yes").returncode == 0
    assert setting.present() == present


@pytest.mark.parametrize("setting", [{}], indirect=True, ids=["aof"])
def test_long_aof_needs_room_for_a_copy_and_its_data(setting: Setting) -> None:
    """Three copies of it do not fit, and it has one key."""
    value = os.urandom(450_000)
    (setting.server.root / "foreign.aof").write_bytes(command("SELECT", "0") + command("SET", "foreign", value) * 100)
    result = setting.run(RESTORE)
    assert result.returncode == 0, result
    with setting.server.client() as client:
        assert client.get("foreign") == value


# -- An undo after the settings have changed


def replace_and_change(setting: Setting, *changes: tuple[str, str]) -> Path:
    """Replace the present data, then have Redis start with other directives.

    A deploy changes them. Returns the previous data.
    """
    write_aof(setting)
    result = setting.run(RESTORE)
    assert result.returncode == 0, result
    (previous,) = (setting.server.root / paths.PREVIOUS).iterdir()
    setting.server.stop()
    conf = setting.server.root / paths.CONFIG / "redis.conf"
    text = conf.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    conf.write_text(text)
    for path in setting.live.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    setting.server.start()
    return previous


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("setting", "changes", "kind"),
    [
        (WITHOUT_FILES, [("appendonly no", "appendonly yes")], "rdb"),
        ({}, [("appendonly yes", "appendonly no"), ("sigterm nosave", "sigterm default")], "aof"),
    ],
    indirect=["setting"],
    ids=["AOF on", "AOF off"],
)
def test_undo_brings_data_back_in_the_other_form(setting: Setting, changes: list[tuple[str, str]], kind: str) -> None:
    """Redis would start empty with the files, or with an old snapshot.

    The files stay the previous data, and so does what the undo replaces.
    """
    present = setting.present()
    if kind == "aof":
        # As after a backup: Redis does not read it, and it is old.
        with setting.server.client() as client:
            client.rename("app:session:1", "app:session:old")
            client.save()
            client.rename("app:session:old", "app:session:1")
    previous = replace_and_change(setting, *changes)
    assert previous.name.endswith(f"-{kind}")
    before = contents(previous)
    report = json.loads(setting.run("restore --undo --json").stdout)
    assert (report["dry_run"], report["keys"], report["previous"]) == (True, len(present) + 1, [previous.name])
    assert setting.run("restore --undo --yes").returncode == 0
    assert (setting.present(), setting.large()) == (present, LARGE)
    setting.server.stop()
    setting.server.start()
    assert (setting.present(), setting.large()) == (present, LARGE)
    assert contents(previous) == before
    assert setting.run("restore --undo --yes").returncode == 0
    assert setting.present() == set()


@pytest.mark.parametrize("setting", [WITHOUT_FILES, {}], indirect=True, ids=["rdb", "aof"])
def test_undo_without_a_change_keeps_the_exact_files(setting: Setting) -> None:
    previous = replace_and_change(setting)
    before = contents(previous)
    setting.steps[Stage.STARTING] = lambda: swapped.update(contents(setting.live))
    swapped: dict[str, bytes] = {}
    assert setting.run("restore --undo --yes").returncode == 0
    assert swapped == before
    assert not previous.exists()


@pytest.mark.parametrize("setting", [WITHOUT_FILES], indirect=True, ids=["rdb"])
def test_undo_is_refused_if_redis_would_not_serve_the_data(setting: Setting) -> None:
    """It does not fit any more, is damaged, or was never saved. Nothing changes."""
    previous = replace_and_change(setting, ("maxmemory 33554432", "maxmemory 1500000"))
    pid = setting.server.pid
    assert "redis_maxmemory is 1.4 MiB: Redis would evict" in setting.run("restore --undo --yes").stderr
    rdb = previous / "dump.rdb"
    rdb.write_bytes(rdb.read_bytes()[:-5])
    result = setting.run("restore --undo --yes")
    assert f"{rdb}: at byte" in result.stderr
    assert "it is truncated" in result.stderr
    rdb.unlink()
    result = setting.run("restore --undo --yes")
    assert (result.returncode, "has no dump.rdb" in result.stderr) == (3, True), result
    assert setting.server.pid == pid


def resync(setting: Setting, *commands: tuple[str, ...]) -> None:
    """Have the copy of an import receive everything again, with changes.

    No command is replicated, so the copy counts no write.
    """
    instance = load_as(setting.server.instance_type, setting.server.root)
    copy = migration.replica_of(instance, migration.current_migration(instance))
    name = f"{instance.name}-source"
    with scratch_redis.client(name, instance.owner, 0) as source, copy.client() as client:
        with source.pipeline() as transaction:
            for words in (("CLIENT", "KILL", "TYPE", "REPLICA"), ("DEBUG", "CHANGE-REPL-ID"), *commands):
                transaction.execute_command(*words)
            transaction.execute()
        identity = source.info("replication")["master_replid"]
        wait_until(
            lambda: (
                (info := client.info("replication"))["master_replid"] == identity and info["master_link_status"] == "up"
            ),
            "the copy is synchronized again",
            20,
        )


@pytest.mark.parametrize("stays", [True, False])
@pytest.mark.parametrize("setting", ["import"], indirect=True)
def test_functions_that_arrive_after_the_comparison(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, *, stays: bool
) -> None:
    """Neither the copy nor the saved snapshot brings them without a flag."""
    save = Replica.save

    def save_with_functions(copy: Replica) -> Path:
        resync(setting, ("FUNCTION", "LOAD", LIBRARY))
        path = save(copy)
        if not stays:
            saved = path.rename(path.with_name("saved.rdb"))
            resync(setting, ("FUNCTION", "FLUSH"))
            saved.rename(path)
        return path

    monkeypatch.setattr(Replica, "save", save_with_functions)
    present = setting.present()
    result = setting.run()
    assert result.returncode == 3, result
    assert "functions of the libraries lib, and functions are code: --with-functions imports them" in result.stderr
    assert ("the data has changed since the comparison" in result.stderr) == stays
    assert ("The old data is back" in result.stderr) == (not stays)
    with setting.server.client() as client:
        assert client.execute_command("FUNCTION", "LIST") == []
    assert setting.present() == present
    if stays:
        monkeypatch.undo()
        accepted = setting.run("import finish --yes --with-functions")
        assert (accepted.returncode, "functions of lib" in accepted.stdout) == (0, True), accepted


@pytest.mark.parametrize("setting", ["import"], indirect=True)
def test_copy_without_memory_says_what_it_needs(setting: Setting) -> None:
    """The copy may use what the host has. What has ended can start again."""
    instance = load_as(setting.server.instance_type, setting.server.root)
    state = migration.current_migration(instance)
    assert state.limit > scratch_redis.memory_needed(state.memory)
    container = setting.docker.running[migration.replica_of(instance, state).container]
    setting.docker.out_of_memory.add(container.pid)
    container.kill()
    container.wait(20)
    output = setting.run("import status").stdout
    assert f"killed for lack of memory. It may use up to {size(state.limit)}, its data should take about 1" in output
    assert "stop something else or give the host more memory, and start the import again" in output


@pytest.mark.parametrize("setting", [WITHOUT_FILES], indirect=True, ids=["no files"])
def test_repair_leaves_keys_without_a_file_alone(setting: Setting) -> None:
    """With the AOF off repair changes nothing.

    Redis serves, is down, and has a damaged snapshot.
    """
    present, pid = setting.present(), setting.server.pid
    assert "Redis serves: there is nothing to repair" in setting.run("repair --yes").stdout
    assert (setting.server.pid, setting.present()) == (pid, present)
    setting.server.stop()
    saved = (setting.live / "dump.rdb").read_bytes()
    assert "nothing is damaged" in setting.run("repair --yes").stdout
    (setting.live / "dump.rdb").write_bytes(saved[:500])
    result = setting.run("repair --yes")
    assert (result.returncode, "it is truncated" in result.stdout) == (1, True), result
    assert (setting.live / "dump.rdb").read_bytes() == saved[:500]
    assert not list((setting.server.root / paths.PREVIOUS).glob("*"))
    (setting.live / "dump.rdb").write_bytes(saved)
    setting.server.start()
    assert setting.present() == present


# -- Restarts and upgrades by a deploy replace no data, and must not lose any.


def restart(setting: Setting) -> str:
    """Restart Redis as a deploy does. Returns the error."""
    return deploy(setting, OLD_IMAGE, recreate=(setting.docker.name,))


def upgrade(setting: Setting) -> str:
    """Upgrade as a deploy does. Returns the error."""
    return deploy(setting, NEW_IMAGE)


def deploy(setting: Setting, image: str, recreate: tuple[str, ...] = ()) -> str:
    """Replace the container as a deploy does. Returns the error."""
    instance = load_as(setting.server.instance_type, setting.server.root)
    configuration.begin_replacing(instance, ReplaceRequest(run="test"))
    setting.docker.next_image = image
    request = StartRequest(image="name", owner="999:999", timeout=10, restart=POLICY, recreate=recreate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preview, "check_config", lambda *_: None)
        try:
            deploy_service.start(instance, request)
        except Failure as error:
            return str(error)
    return ""


@pytest.fixture
def upgraded(setting: Setting) -> Iterator[Setting]:
    """Check what every restart and upgrade leaves."""
    present = setting.present()
    yield setting
    assert (setting.present(), setting.large()) == (present, LARGE)
    assert setting.docker.policy == POLICY
    for name in (paths.JOURNAL, paths.ROLLBACK_DATA, paths.ROLLBACK_CONFIG):
        assert not (setting.server.root / name).exists()


NO_FILES = pytest.mark.parametrize("setting", [WITHOUT_FILES], indirect=True, ids=["no files"])


@NO_FILES
@pytest.mark.parametrize("bgsave", [False, True], ids=["quiet", "bgsave"])
@pytest.mark.parametrize(("replace", "image"), [(restart, OLD_IMAGE), (upgrade, NEW_IMAGE)], ids=["restart", "upgrade"])
def test_deploy_keeps_keys_that_are_in_no_file(
    upgraded: Setting, replace: Callable[[Setting], str], image: str, *, bgsave: bool
) -> None:
    pid = upgraded.server.pid
    if bgsave:
        upgraded.slow_bgsave()
    assert replace(upgraded) == ""
    assert upgraded.server.pid != pid
    assert upgraded.docker.image == image


@NO_FILES
def test_failed_upgrade_ends_with_the_present_keys(upgraded: Setting) -> None:
    upgraded.docker.new_version_starts = False
    assert "the previous version is back and serves its data" in upgrade(upgraded)
    assert upgraded.docker.image == OLD_IMAGE


@pytest.mark.parametrize("setting", [{}], indirect=True, ids=["aof"])
def test_restart_waits_until_the_aof_has_every_write(upgraded: Setting) -> None:
    pid = upgraded.server.pid
    upgraded.fill_disk()
    message = restart(upgraded)
    assert "its newest writes are only in memory" in message
    assert "The running Redis was left alone" in message
    assert upgraded.server.pid == pid
    upgraded.filler.unlink()
    with upgraded.server.client() as client:
        wait_until(lambda: client.info("persistence")["aof_last_write_status"] == "ok", "the AOF is written", 10)
    assert restart(upgraded) == ""


@NO_FILES
@pytest.mark.parametrize("replace", [restart, upgrade])
def test_full_disk_at_the_last_save_stops_a_deploy(upgraded: Setting, replace: Callable[[Setting], str]) -> None:
    pid = upgraded.server.pid
    upgraded.docker.before_stop = upgraded.fill_disk
    message = replace(upgraded)
    assert "it cannot save its data" in message
    assert "The running Redis was left alone" in message
    assert (upgraded.server.pid, upgraded.docker.image) == (pid, OLD_IMAGE)
    upgraded.filler.unlink()
    assert replace(upgraded) == ""
