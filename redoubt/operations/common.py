"""What operations share: reports, failures, and calls of redisctl on the host."""

import shlex
from collections.abc import Generator
from typing import Any

from pyinfra import host, logger, state
from pyinfra.api import FileUploadCommand, FunctionCommand, Host, State, StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.exceptions import OperationError
from pyinfra.api.output import format_text

from redisctl import paths, schema
from redisctl.schema import InstanceState, Result
from redoubt import host_state, plan_log, redisctl_progress
from redoubt.facts.paths import HiddenStdin
from redoubt.facts.script import pinned
from redoubt.filesystem import DesiredFile
from redoubt.host_state import Changes
from redoubt.settings.model import Settings

Commands = Generator[StringCommand | FileUploadCommand | FunctionCommand, None, None]


def instance_state(settings: Settings, acl: DesiredFile | None = None, *, sizes: bool = False) -> InstanceState:
    """Return the state of the current host's instance."""
    return host_state.of(host).instance(host, settings, acl.content if acl else "", sizes=sizes)


def command(text: str, **arguments: Any) -> StringCommand:
    """Return a command for the host that runs in the pinned environment."""
    return StringCommand(pinned(text), **arguments)


def fail(reason: str) -> Commands:
    """Fail with a message.

    Before the first change it fails for all hosts, during the deploy for this host alone.
    """
    if not state.is_executing:
        raise OperationError(reason)
    yield command(f"echo {shlex.quote(reason)} >&2; exit 1")


def note_change(reason: str, changes: Changes = Changes.ALL) -> None:
    """Report why the operation changes the host; discard inspections of the host.

    ``changes`` says which.
    """
    plan_log.note(host.name, "differs", reason)
    logger.info(f"{host.print_prefix}{reason}")
    if state.is_executing:
        host_state.of(host).forget(changes)


class RedisctlCall(FunctionCommand):
    """A verb of redisctl on the host.

    Its request travels on standard input, its result comes back as JSON.
    """

    def __init__(self, settings: Settings, *words: str, request: Any = None) -> None:
        super().__init__(_call, (settings, words, request), {})

    def __repr__(self) -> str:
        # A request may hold password hashes.
        return f"redisctl {' '.join(self.args[1])}"


def recover_instance(host: Host, settings: Settings) -> bool:
    """Finish an interrupted transaction of a host's instance.

    Runs outside of an operation. Returns whether that worked.
    """
    host_state.of(host).forget()
    return _call(state, host, settings, ("recover", "--json"), None)


def _call(state: State, host: Host, settings: Settings, words: tuple[str, ...], request: Any) -> bool:
    """Run the verb, print its messages, and return whether it succeeded.

    pyinfra calls this with state and host.
    """
    run = host_state.of(host).run
    words_ = [f"{settings.root}/{paths.PROGRAM}", *words, *(["--run", run] if run else [])]
    arguments, _ = pop_global_arguments(state, host, {})
    connector = {key: value for key, value in arguments.items() if key in CONNECTOR_ARGUMENT_KEYS}
    stdin = HiddenStdin(f"{schema.dump(request)}\n") if request is not None else ""
    with redisctl_progress.printing():
        _, output = host.run_shell_command(
            StringCommand(pinned(shlex.join(words_))),
            print_input=state.print_input,
            print_output=state.print_output,
            **{**connector, "_stdin": stdin},
        )
    result = _result(output.stdout_lines, output.stderr_lines)
    for message in result.messages:
        logger.info(f"{host.print_prefix}{message}")
    for line in result.error.splitlines():
        logger.error(f"{host.print_prefix}{format_text(line, 'red')}")
    return not result.error


def _result(stdout: list[str], stderr: list[str]) -> Result:
    try:
        return schema.load(Result, stdout[-1] if stdout else "")
    except schema.SchemaError:
        # It exited without a result: its output explains why.
        lines = [line for line in (*stdout, *stderr) if line.strip()]
        return Result(error="\n".join(lines) or "redisctl printed no result: the connection may be lost")
