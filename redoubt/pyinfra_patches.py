"""What the ``pyinfra`` command line lacks, put in place by the project's ``config.py``.

pyinfra 3.10 reads a directory as an inventory file and stops with IsADirectoryError; it ends with exit code 0
when the inventory is misspelt, when --limit matches nothing and when it is interrupted, and with a traceback when
it wants to ask and nobody is there. ``config.py`` runs before the inventory is loaded, so the gaps are closed from
there. Three private names are wrapped (``make_inventory``, ``_get_inventory_pattern_matches`` and ``_do_confirm`` in
``pyinfra_cli.cli``), which is why ``config.py`` pins the version; ``tests/lifecycle/test_command_line.py`` runs the
real commands.
"""

import atexit
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click
import gevent
import pyinfra_cli.cli
from pyinfra import logger
from pyinfra.api import BaseStateCallback, Host, State
from pyinfra.api.output import echo
from pyinfra.api.state import StateStage
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.context import ctx_state
from pyinfra_cli.exceptions import CliError

from redoubt import plan_log, ssh_transport

DEFAULT_INVENTORY = "hosts.py"


@dataclass
class Called:
    """What pyinfra was called to do: the name of its job, and whether it only plans."""

    verb: str = ""
    dry: bool = False


called = Called()

# Called when all operations have run, while the hosts are still connected.
before_disconnect: list[Callable[[], None]] = []


def install() -> None:
    """Wrap the running pyinfra command. Call it once, from ``config.py``."""
    if context := click.get_current_context(silent=True):
        called.verb = Path(next(iter(context.params.get("operations") or ()), "")).stem
        called.dry = bool(context.params.get("dry"))
    _map_directory_to_inventory()
    _refuse_empty_selections()
    _tell_before_disconnecting()
    _ask_only_a_person()
    _end_in_words()


def _map_directory_to_inventory() -> None:
    make_inventory = pyinfra_cli.cli.make_inventory

    def from_directory(inventory: str, **kwargs: Any) -> Any:
        path = Path(inventory)
        if path.is_dir():
            inventory = str(path / DEFAULT_INVENTORY)
        if (path.suffix == ".py" or "/" in inventory) and not Path(inventory).exists() and "@" not in inventory:
            raise CliError(f"there is no inventory {inventory}")
        made = make_inventory(inventory, **kwargs)
        if not len(made):
            raise CliError(_no_hosts(inventory))
        if any(one.connector_cls is SSHConnector and not one.data.get("ssh_known_hosts_file") for one in made):
            # As ssh does by itself: pyinfra fails to note a host's key where the directory is missing.
            Path("~/.ssh").expanduser().mkdir(mode=0o700, exist_ok=True)
        return made

    pyinfra_cli.cli.make_inventory = from_directory


def _no_hosts(inventory: str) -> str:
    if Path(inventory).name == DEFAULT_INVENTORY:
        return f"{inventory} names no host: no disposable host is running; 'make deploy' starts one"
    if Path(inventory).exists():
        return f"{inventory} names no host: add yours to the list in it"
    return f"{inventory} is neither an inventory file nor a host that can be resolved"


def _refuse_empty_selections() -> None:
    matches = pyinfra_cli.cli._get_inventory_pattern_matches

    def every_pattern_matches(inventory: Any, patterns: Any, option_name: str) -> list[Host]:
        for pattern in patterns:
            if not matches(inventory, [pattern], option_name):
                names = ", ".join(sorted(host.name for host in inventory))
                raise CliError(f"{option_name} {pattern} matches no host or group; the hosts are: {names}")
        found: list[Host] = matches(inventory, patterns, option_name)
        return found

    pyinfra_cli.cli._get_inventory_pattern_matches = every_pattern_matches

    state = ctx_state.get()
    init = state.init

    def init_with_hosts(inventory: Any, config: Any, initial_limit: Any = None) -> None:
        if initial_limit is not None and not initial_limit:
            raise CliError("--limit and --exclude together leave no host")
        for one in inventory if initial_limit is None else initial_limit:
            plan_log.note(one.name, "named")
        init(inventory, config, initial_limit=initial_limit)
        state.add_callback_handler(_Progress())

    state.init = init_with_hosts


def _tell_before_disconnecting() -> None:
    state = ctx_state.get()
    set_stage = state.set_stage

    def set_stage_in_order(stage: StateStage) -> None:
        if stage == StateStage.Disconnect:
            for tell in before_disconnect:
                tell()
        set_stage(stage)

    state.set_stage = set_stage_in_order


def _ask_only_a_person() -> None:
    confirm = pyinfra_cli.cli._do_confirm

    def answer(message: str) -> bool | None:
        try:
            confirmed: bool = confirm(message)
        except EOFError:
            # Told by what is returned: of an exception the thread prints where it came from.
            return None
        return confirmed

    def confirm_or_say(message: str) -> bool:
        # Beside all else: hosts have to hear of a deploy while a person thinks about it.
        confirmed: bool | None = gevent.get_hub().threadpool.apply(answer, (message,))
        if confirmed is None:
            raise CliError("nobody is there to answer: add -y to change the hosts, or --dry to look only")
        return confirmed

    pyinfra_cli.cli._do_confirm = confirm_or_say


class _Progress(BaseStateCallback):
    """Says what a failure leaves behind."""

    @staticmethod
    def operation_host_error(
        state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        operations = [data.operation_meta for data in state.ops[host].values()]
        done = sum(operation.is_complete() and operation.did_change() for operation in operations)
        what = f"operations before it that changed the host: {done}" if done else "nothing was changed before it"
        client = getattr(host.connector, "client", None)
        if client is not None and not client.get_transport().is_active():
            logger.error(f"{host.print_prefix}the connection to the host is lost; what it was doing may go on there")
        logger.error(
            f"{host.print_prefix}the deploy stopped here: {what}. "
            "Mend the cause and run the same command again; what is done needs no undoing"
        )


def _end_in_words() -> None:
    started = time.monotonic()

    def report() -> None:
        seconds = time.monotonic() - started
        # None are seen of hosts on this machine, and of those whose data has no transport of ours.
        sent = f"{ssh_transport.commands_sent} SSH commands, " if ssh_transport.commands_sent else ""
        echo(f"--> {sent}{seconds:.1f} s", err=True)

    def interrupted(signum: int, frame: FrameType | None) -> None:
        echo("--> interrupted: hosts may be changed in part; run the same command again to finish", err=True)
        report()
        # sys.exit would wait for what the hosts are doing, or end in gevent's loop with a traceback.
        os._exit(128 + signum)

    atexit.register(report)
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
