"""Fixes for the ``pyinfra`` command line, which ``config.py`` installs.

pyinfra 3.10

- reads a directory as an inventory file,
- exits with code 0 if the inventory is misspelt, if --limit matches nothing and if it is interrupted,
- shows a traceback for a mistake in an inventory, for an SSH key that it cannot read, and if it has to ask a question
  or for a password where there is no terminal,
- begins its errors with a line of our code,
- prints what hosts answer with the control characters in it,
- prints what a command prints only when it has ended, or all of it,
- reads the source code around every caller of an operation.

``config.py`` runs before pyinfra loads the inventory, so it can fix all of this.

Patches rather than an entry point of our own on pyinfra's API: ``pyinfra inventory deploy.py`` must work as written, so
the command is pyinfra's in any case, and a second one would be a second behaviour to document and test. The patches
replace private names (``make_inventory``, ``_get_inventory_pattern_matches``, ``_do_confirm`` and ``WrappedError`` in
``pyinfra_cli.cli``, ``getpass`` in two connectors, ``stack`` and ``getframeinfo`` in ``pyinfra.api.util``). Therefore
``config.py`` pins the series of pyinfra, and ``tests/lifecycle/test_command_line.py`` and
``tests/unit/test_broken_inventory.py`` run the real commands.
"""

import atexit
import inspect
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from getpass import getpass
from pathlib import Path
from types import FrameType
from typing import IO, Any, TextIO

import click
import gevent
import pyinfra.api.util
import pyinfra.connectors.ssh_util
import pyinfra.connectors.util
import pyinfra_cli.cli
from gevent.hub import Hub
from pyinfra import logger
from pyinfra.api import BaseStateCallback, Host, State
from pyinfra.api.exceptions import ConnectorDataTypeError, PyinfraError
from pyinfra.api.output import echo, set_echo
from pyinfra.api.state import StateStage
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.context import ctx_state
from pyinfra_cli.exceptions import CliError, UnexpectedExternalError

from redisctl.schema import PROGRESS
from redoubt import plan_log, redisctl_progress, ssh_transport
from redoubt.terminal import escaped

DEFAULT_INVENTORY = "hosts.py"


@dataclass
class Command:
    """The pyinfra command that runs.

    ``verb`` is the name of its deploy file, ``dry`` says whether it is a dry run.
    """

    verb: str = ""
    dry: bool = False


command = Command()

# Called after the last operation, while the hosts are still connected.
before_disconnect: list[Callable[[], None]] = []


def install() -> None:
    """Patch the running pyinfra command. ``config.py`` calls this once."""
    if context := click.get_current_context(silent=True):
        command.verb = Path(next(iter(context.params.get("operations") or ()), "")).stem
        command.dry = bool(context.params.get("dry"))
    # gevent prints a traceback for each error of a host's connection. pyinfra reports the error itself.
    Hub.NOT_ERROR = (*Hub.NOT_ERROR, PyinfraError)
    _escape_output()
    _print_progress()
    _map_directory_to_inventory()
    _refuse_empty_selections()
    _call_before_disconnect()
    _refuse_questions_without_terminal()
    _refuse_passwords_without_terminal()
    _report_errors_without_code()
    _report_end()
    _read_no_source_code()


def _read_no_source_code() -> None:
    """Have pyinfra order operations by their callers without their source code.

    Reading it took 7 % of the processor's time of a deploy without a change.
    """
    pyinfra.api.util.stack = partial(inspect.stack, context=0)
    pyinfra.api.util.getframeinfo = partial(inspect.getframeinfo, context=0)


def _escape_output() -> None:
    print_text = click.echo

    def print_escaped(message: Any = None, *args: Any, **kwargs: Any) -> None:
        # Everything that pyinfra and redoubt print comes through here, also what commands on hosts print.
        print_text(escaped(message) if isinstance(message, str) else message, *args, **kwargs)

    click.echo = print_escaped
    set_echo(print_escaped)


def _print_progress() -> None:
    """Print the progress of redisctl as it comes, and keep it out of the output."""
    read_buffer = pyinfra.connectors.util.read_buffer

    def lines(buffer: Iterable[str | bytes], print_line: Callable[[str], str]) -> Iterator[str | bytes]:
        for line in buffer:
            text = line if isinstance(line, str) else line.decode(errors="backslashreplace")
            if text.startswith(PROGRESS):
                echo(print_line(text.removeprefix(PROGRESS).rstrip("\n")), err=True)
            else:
                yield line

    def read(
        name: str, io: Iterable[Any], output_queue: Any, print_output: Any = False, print_func: Any = None
    ) -> None:
        is_printed = name == "stdout" and print_func and redisctl_progress.is_printed()
        read_buffer(name, lines(io, print_func) if is_printed else io, output_queue, print_output, print_func)

    pyinfra.connectors.util.read_buffer = read


def _map_directory_to_inventory() -> None:
    make_inventory = pyinfra_cli.cli.make_inventory

    def make_inventory_with_hosts(inventory: str, **kwargs: Any) -> Any:
        path = Path(inventory)
        if path.is_dir():
            inventory = str(path / DEFAULT_INVENTORY)
        if (path.suffix == ".py" or "/" in inventory) and not Path(inventory).exists() and "@" not in inventory:
            raise CliError(f"there is no inventory {inventory}")
        try:
            hosts = make_inventory(inventory, **kwargs)
        except UnexpectedExternalError as error:
            raise CliError(_code_error(error.exception, error.filename)) from error
        except SyntaxError as error:
            raise CliError(_code_error(error, str(error.filename))) from error
        except PyinfraError as error:
            raise CliError(f"{inventory}: {error}") from error
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise CliError(
                f"{inventory}: a host must be a name or a pair of a name and its data, for example "
                f"('redis-1.example.com', {{'ssh_user': 'ops'}}): {error}"
            ) from error
        if not len(hosts):
            raise CliError(_no_hosts(inventory))
        over_ssh = [host for host in hosts if host.connector_cls is SSHConnector]
        for host in over_ssh:
            if (key := host.data.get("ssh_key")) and not Path(key).expanduser().is_file():
                raise CliError(f"{host.name}: ssh_key = {key!r}: there is no such file on this machine")
        if not all(host.data.get("ssh_known_hosts_file") for host in over_ssh):
            # ssh creates these itself; pyinfra cannot store a host's key without the directory.
            directory = Path("~/.ssh").expanduser()
            directory.mkdir(mode=0o700, exist_ok=True)
            if not (known_hosts := directory / "known_hosts").exists():
                known_hosts.touch(mode=0o600)
        return hosts

    pyinfra_cli.cli.make_inventory = make_inventory_with_hosts


def _code_error(error: Exception, filename: str) -> str:
    """Return the message for Python code of the operator that fails.

    It has the last line of the code that ran, and the reason.
    """
    frames = traceback.extract_tb(getattr(error, "_traceback", None))
    lines = [frame.lineno for frame in frames if frame.filename == filename]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else "?"
    return f"{filename}, line {line}: {type(error).__name__}: {getattr(error, 'msg', error)}"


def _no_hosts(inventory: str) -> str:
    if Path(inventory).name == DEFAULT_INVENTORY:
        return f"{inventory} names no host: no disposable host is running; 'make deploy' starts one"
    if Path(inventory).exists():
        return f"{inventory} names no host: add yours to the list in it"
    return f"{inventory} is neither an inventory file nor a host that can be resolved"


def _refuse_empty_selections() -> None:
    find_matches = pyinfra_cli.cli._get_inventory_pattern_matches

    def find_matches_of_each(inventory: Any, patterns: Any, option_name: str) -> list[Host]:
        for pattern in patterns:
            if not find_matches(inventory, [pattern], option_name):
                names = ", ".join(sorted(host.name for host in inventory))
                raise CliError(f"{option_name} {pattern} matches no host or group; the hosts are: {names}")
        hosts: list[Host] = find_matches(inventory, patterns, option_name)
        return hosts

    pyinfra_cli.cli._get_inventory_pattern_matches = find_matches_of_each

    state = ctx_state.get()
    init = state.init

    def init_with_hosts(inventory: Any, config: Any, initial_limit: Any = None) -> None:
        if initial_limit is not None and not initial_limit:
            raise CliError("--limit and --exclude together leave no host")
        for host in inventory if initial_limit is None else initial_limit:
            plan_log.note(host.name, "named")
        try:
            init(inventory, config, initial_limit=initial_limit)
        except ConnectorDataTypeError as error:
            raise CliError(f"the inventory's data of a host: {error}") from error
        state.add_callback_handler(_FailureReport())

    state.init = init_with_hosts


def _call_before_disconnect() -> None:
    state = ctx_state.get()
    set_stage = state.set_stage

    def set_stage_after_callbacks(stage: StateStage) -> None:
        if stage == StateStage.Disconnect:
            for callback in before_disconnect:
                callback()
        set_stage(stage)

    state.set_stage = set_stage_after_callbacks


def _refuse_questions_without_terminal() -> None:
    confirm = pyinfra_cli.cli._do_confirm

    def ask(message: str) -> bool | None:
        try:
            answer: bool = confirm(message)
        except EOFError:
            # Returned, not raised: gevent prints the traceback of an exception in a thread.
            return None
        return answer

    def ask_in_thread(message: str) -> bool:
        # A thread, so that the lock's heartbeats continue while a person thinks.
        answer: bool | None = gevent.get_hub().threadpool.apply(ask, (message,))
        if answer is None:
            raise CliError("no terminal to ask for confirmation: add -y to change the hosts, or --dry for a dry run")
        return answer

    pyinfra_cli.cli._do_confirm = ask_in_thread


def _refuse_passwords_without_terminal() -> None:
    def ask(prompt: str = "", stream: TextIO | None = None) -> str:
        try:
            return getpass(prompt, stream)
        except EOFError:
            question = click.unstyle(prompt).strip(": ")
            raise PyinfraError(
                f"{question}: there is no terminal to ask for it. Run the command in a terminal, or let the key or "
                "sudo work without a password"
            ) from None

    # sudo's password, and the passphrase of an SSH key.
    pyinfra.connectors.util.getpass = pyinfra.connectors.ssh_util.getpass = ask


class _Error(click.ClickException):
    def show(self, file: IO[Any] | None = None) -> None:
        logger.warning(f"--> {click.style('error', 'red', bold=True)}: {self}")


def _report_errors_without_code() -> None:
    # pyinfra's own report begins with the line of our code that found the error.
    pyinfra_cli.cli.WrappedError = lambda error: _Error(str(error))


class _FailureReport(BaseStateCallback):
    """Reports what a failed deploy changed on a host, and what to do."""

    @staticmethod
    def operation_host_error(
        state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        operations = [data.operation_meta for data in state.ops[host].values()]
        changes = sum(operation.is_complete() and operation.did_change() for operation in operations)
        before = (
            f"operations before it that changed the host: {changes}" if changes else "nothing was changed before it"
        )
        client = getattr(host.connector, "client", None)
        if client is not None and not client.get_transport().is_active():
            logger.error(f"{host.print_prefix}the connection to the host is lost; its last command may still run there")
        logger.error(
            f"{host.print_prefix}this command stopped here: {before}. Fix the cause and run the same command again: it "
            "continues from here"
        )


def _report_end() -> None:
    start = time.monotonic()

    def report_cost() -> None:
        seconds = time.monotonic() - start
        # The local connector sends none, and an inventory may not use our transport.
        sent = ssh_transport.commands_sent
        commands = f"{sent} SSH command{'s' if sent > 1 else ''}, " if sent else ""
        echo(f"--> {commands}{seconds:.1f} s", err=True)

    def report_interruption(signum: int, frame: FrameType | None) -> None:
        echo("--> interrupted: hosts may be changed in part; run the same command again to finish", err=True)
        report_cost()
        # sys.exit would wait for the commands on the hosts, or end in gevent's loop with a traceback.
        os._exit(128 + signum)

    atexit.register(report_cost)
    signal.signal(signal.SIGINT, report_interruption)
    signal.signal(signal.SIGTERM, report_interruption)
