"""Lock: one deploy or day-2 verb at a time changes an instance, and each leaves a record on its host."""

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


def hold(wanted: Mapping[Host, Settings]) -> dict[Host, str]:
    """Lock these instances until this command ends. Returns what is in the way, by host; then nothing was changed.

    A plan (``--dry``) changes nothing, locks nothing and waits for nobody.
    """
    if pyinfra_patches.called.dry:
        return {}
    state.add_callback_handler(_Recorder())
    pyinfra_patches.before_disconnect.append(_release_all)
    found = dict(Pool().imap_unordered(lambda one: (one, _hold(one, wanted[one])), wanted))
    return {one: problem for one, problem in found.items() if problem}


def _hold(one: Host, settings: Settings) -> str:
    name = settings.redis_name
    with ctx_host.use(one):
        arguments, _ = pop_global_arguments(state, one, {})
        if arguments.get("_sudo"):
            # Who is asked for a password has to be, before a command that nobody reads from.
            one.get_fact(DeployLock, instance=name, run="")
        record = Record(
            pyinfra_patches.called.verb,
            settings.digest,
            settings.redis_image,
            deploy_lock.operator(),
            deploy_lock.now(),
        )
        holding = _held[one] = _HeldLock(one, record)
        host_state.of(one).run = record.run
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
        holding.begin(StringCommand(command), connector)
        answer: deploy_lock.LockState | None = one.get_fact(DeployLock, instance=name, run=record.run)
    return deploy_lock.problem(name, answer)


class _HeldLock:
    """The lock of one host, and the record that grows with the operations there."""

    def __init__(self, held: Host, record: Record) -> None:
        self.held = held
        self.record = record
        self._lines: Queue[str | None] = Queue()
        self._said = ""
        self._command: gevent.Greenlet | None = None

    def begin(self, command: StringCommand, arguments: Mapping[str, object]) -> None:
        """Run the command that holds it, beside all else that the deploy does there."""
        self._command = gevent.spawn(self._run, command, arguments)

    def _run(self, command: StringCommand, arguments: Mapping[str, object]) -> None:
        own = {"_stdin": deploy_lock.StreamingLines(self._told()), "_timeout": None, "_get_pty": False}
        try:
            self.held.run_shell_command(command, **{**arguments, **own})
        except (OSError, EOFError, SSHException) as error:
            # The operation that needs the connection tells of it.
            logger.debug(f"{self.held.print_prefix}the lock: {error}")

    def _told(self) -> Iterator[str]:
        while True:
            try:
                line = self._lines.get(timeout=deploy_lock.HEARTBEAT)
            except Empty:
                line = ""
            if line is None:
                return
            yield line if isinstance(self.held.connector, SSHConnector) else deploy_lock.pad_line(line)

    def send_record(self) -> None:
        """Tell the host what was changed until now, where it does not know that."""
        self.record.changed = [
            _name(op_hash)
            for op_hash, one in state.ops[self.held].items()
            if one.operation_meta.is_complete() and one.operation_meta.did_change()
        ]
        line = self.record.line()
        if line != self._said:
            self._said = line
            self._lines.put(line)

    def release(self, failed: str = "") -> gevent.Greenlet | None:
        """The deploy is at its end on this host, well or at an operation that ``failed``. What to wait for."""
        if not self.record.ended:
            self.record.ended = deploy_lock.now()
            self.record.failed = failed
            self.send_record()
            self._lines.put(None)
        return self._command


_held: dict[Host, _HeldLock] = {}


def _name(op_hash: str) -> str:
    return ", ".join(sorted(state.get_op_meta(op_hash).names))


def _release_all() -> None:
    """Every record is written before the connections are closed."""
    gevent.joinall([command for one in _held.values() if (command := one.release())], timeout=10)


class _Recorder(BaseStateCallback):
    """Has each host's record grow with the operations there."""

    @staticmethod
    def operation_host_start(state: State, host: Host, op_hash: str) -> None:
        if host in _held:
            _held[host].send_record()

    @staticmethod
    def operation_host_error(
        state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        if host in _held:
            _held[host].release(failed=_name(op_hash))
