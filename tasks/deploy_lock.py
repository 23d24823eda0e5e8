"""Lock: one deploy or day-2 verb at a time changes an instance.

Each leaves a record on its host.
"""

from collections.abc import Iterator, Mapping

import gevent
from gevent.pool import Pool
from gevent.queue import Empty, Queue
from paramiko import SSHException
from pyinfra import logger, state
from pyinfra.api import BaseStateCallback, Host, State, StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.context import ctx_host

from redisctl import paths
from redoubt import deploy_lock, host_state, pyinfra_patches
from redoubt.deploy_lock import Record
from redoubt.facts.instance import DeployLock
from redoubt.facts.script import script
from redoubt.settings.model import Settings

# Seconds for the hosts to write their last record before the connections are closed.
_RELEASE_TIMEOUT = 10


def hold(instances: Mapping[Host, Settings]) -> dict[Host, str]:
    """Lock these instances until this command ends, and return the blockers by host.

    A dry run locks nothing: it changes nothing, and need not wait for others.
    """
    if pyinfra_patches.command.dry:
        return {}
    state.add_callback_handler(_Recorder())
    pyinfra_patches.before_disconnect.append(_release_all)
    blockers = dict(Pool().imap_unordered(lambda host: (host, _hold(host, instances[host])), instances))
    return {host: blocker for host, blocker in blockers.items() if blocker}


def _hold(host: Host, settings: Settings) -> str:
    name = settings.redis_name
    with ctx_host.use(host):
        arguments, _ = pop_global_arguments(state, host, {})
        if arguments.get("_sudo"):
            # Have pyinfra ask for a sudo password now: the lock's command runs without a terminal.
            host.get_fact(DeployLock, instance=name, run="")
        record = Record(
            pyinfra_patches.command.verb,
            settings.digest,
            settings.redis_image,
            deploy_lock.operator(),
            deploy_lock.now(),
        )
        held_lock = _held_locks[host] = _HeldLock(host, record)
        host_state.of(host).run = record.run
        command = script(
            "deploy-lock.sh",
            LOCK=paths.lock_file(name),
            HISTORY=paths.history_file(name),
            RUN=record.run,
            HOLDER=record.holder,
            LOCK_TIMEOUT=str(deploy_lock.LOCK_TIMEOUT),
            MAX_RECORDS=str(deploy_lock.MAX_RECORDS),
        )
        connector = {key: value for key, value in arguments.items() if key in CONNECTOR_ARGUMENT_KEYS}
        held_lock.start(StringCommand(command), connector)
        lock_state: deploy_lock.LockState | None = host.get_fact(DeployLock, instance=name, run=record.run)
    return deploy_lock.problem(name, lock_state)


class _HeldLock:
    """The lock of one host, and the record that grows with the operations there."""

    def __init__(self, host: Host, record: Record) -> None:
        self.host = host
        self.record = record
        self._lines: Queue[str | None] = Queue()
        self._sent = ""
        self._command: gevent.Greenlet | None = None

    def start(self, command: StringCommand, arguments: Mapping[str, object]) -> None:
        """Start the command that holds the lock; it runs until the record ends."""
        self._command = gevent.spawn(self._run, command, arguments)

    def _run(self, command: StringCommand, arguments: Mapping[str, object]) -> None:
        own = {"_stdin": deploy_lock.StreamingLines(self._stdin_lines()), "_timeout": None, "_get_pty": False}
        try:
            self.host.run_shell_command(command, **{**arguments, **own})
        except (OSError, EOFError, SSHException) as error:
            # The operation that needs the connection reports it.
            logger.debug(f"{self.host.print_prefix}the lock: {error}")

    def _stdin_lines(self) -> Iterator[str]:
        while True:
            try:
                line = self._lines.get(timeout=deploy_lock.HEARTBEAT)
            except Empty:
                line = ""
            if line is None:
                return
            yield line if isinstance(self.host.connector, SSHConnector) else deploy_lock.pad_line(line)

    def send_record(self) -> None:
        """Send the names of the operations that changed the host.

        Does nothing if the host already has them.
        """
        self.record.changed = [
            _name(op_hash)
            for op_hash, operation in state.ops[self.host].items()
            if operation.operation_meta.is_complete() and operation.operation_meta.did_change()
        ]
        line = self.record.line()
        if line != self._sent:
            self._sent = line
            self._lines.put(line)

    def release(self, failed: str = "") -> gevent.Greenlet | None:
        """End the record and release the lock.

        Returns the greenlet that is done when the host has both. ``failed`` is the name of the operation that failed,
        empty if none did.
        """
        if not self.record.ended:
            self.record.ended = deploy_lock.now()
            self.record.failed = failed
            self.send_record()
            self._lines.put(None)
        return self._command


_held_locks: dict[Host, _HeldLock] = {}


def _name(op_hash: str) -> str:
    return ", ".join(sorted(state.get_op_meta(op_hash).names))


def _release_all() -> None:
    """Release all locks, and wait until every host has its record."""
    commands = [command for held_lock in _held_locks.values() if (command := held_lock.release())]
    gevent.joinall(commands, timeout=_RELEASE_TIMEOUT)


class _Recorder(BaseStateCallback):
    """Sends each host's record as the operations proceed there."""

    @staticmethod
    def operation_host_start(state: State, host: Host, op_hash: str) -> None:
        if host in _held_locks:
            _held_locks[host].send_record()

    @staticmethod
    def operation_host_error(
        state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        if host in _held_locks:
            _held_locks[host].release(failed=_name(op_hash))
