"""The facts that redisctl reports, and who holds the deploy lock."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from redisctl import paths, schema
from redisctl.schema import InstanceState
from redoubt import deploy_lock
from redoubt.facts.script import pinned, script

# Reads the request from the first line of standard input and the packed program from the rest. The program runs from
# a private directory in memory, which is removed at the end, so that an inspection leaves nothing on the host.
_RUN_UPLOADED = """\
umask 077
directory=$(mktemp -d /run/redoubt-inspect.XXXXXX) || exit 1
trap 'rm -rf "$directory"' EXIT HUP INT TERM
IFS= read -r request
base64 -d | gunzip >"$directory/redisctl" || exit 1
printf '%s\\n' "$request" | python3 -I "$directory/redisctl" state"""


class Instance(FactBase[InstanceState]):
    """The state of an instance, by ``redisctl state``.

    ``program`` is the installed redisctl, empty to run the one that standard input brings. Standard input has the
    request, a line of JSON, and then the program as ``filesystem.pack`` makes it.
    """

    def command(self, program: str) -> str:
        return pinned(f"{shlex.quote(program)} state" if program else _RUN_UPLOADED)

    def process(self, output: list[str]) -> InstanceState:
        try:
            return schema.load(InstanceState, output[-1] if output else "")
        except schema.SchemaError as error:
            raise FactProcessError(f"redisctl did not report the state of the instance: {error}") from error


class DeployLock(FactBase[deploy_lock.LockState]):
    """The holder of an instance's lock.

    ``run`` is the id of a deploy that is about to hold it, else empty. The fact then also says whether it does.
    """

    def command(self, instance: str, run: str) -> str:
        return script("lock-state.sh", LOCK=paths.lock_file(instance), RUN=run)

    def process(self, output: list[str]) -> deploy_lock.LockState:
        try:
            return deploy_lock.parse(output)
        except ValueError as error:
            raise FactProcessError(f"the lock cannot be read: {error}") from error


@dataclass(frozen=True)
class CommandResult:
    """What a program printed, on both of its streams, and its exit code."""

    lines: tuple[str, ...]
    code: int


class Redisctl(FactBase[CommandResult]):
    """What redisctl prints on the host."""

    def command(self, program: str, words: Sequence[str]) -> str:
        return f"{pinned(shlex.join([program, *words]))} 2>&1 </dev/null; echo $?"

    def process(self, output: list[str]) -> CommandResult:
        return CommandResult(tuple(output[:-1]), int(output[-1]))
