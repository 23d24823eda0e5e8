"""The facts about the deploy lock, redisctl and the Compose service."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from redoubt import compose, deploy_lock
from redoubt.facts.containers import ServiceState, parse_service_state
from redoubt.facts.script import script


class DeployLock(FactBase[deploy_lock.LockState]):
    """Who holds the lock of an instance; with the id of a deploy that is about to have it, whether that has it."""

    def command(self, instance: str, run: str) -> str:
        return script("lock-state.sh", INSTANCE=instance, RUN=run)

    def process(self, output: list[str]) -> deploy_lock.LockState:
        try:
            return deploy_lock.parse(output)
        except ValueError as error:
            raise FactProcessError(f"the lock cannot be read: {error}") from error


@dataclass(frozen=True)
class CommandResult:
    """What a program printed, on both of its streams, and how it ended."""

    lines: tuple[str, ...]
    code: int


class Redisctl(FactBase[CommandResult]):
    """What redisctl prints on the host."""

    def command(self, program: str, words: Sequence[str]) -> str:
        return f"{shlex.join([program, *words])} 2>&1 </dev/null; echo $?"

    def process(self, output: list[str]) -> CommandResult:
        return CommandResult(tuple(output[:-1]), int(output[-1]))


class ComposeService(FactBase[ServiceState]):
    """The Compose service: definition, containers, image, files and running configuration.

    On standard input it is given the ACL file as it should be: passwords are compared on the host.
    """

    @staticmethod
    def default() -> ServiceState:
        return parse_service_state([])

    def command(self, instance: str, root: str, reference: str, mounts: Sequence[tuple[str, str, str]]) -> str:
        pairs = " ".join(f"{directory}:{target}" for directory, target, _ in mounts)
        return script(
            "service-state.sh",
            INSTANCE=instance,
            ROOT=root,
            IMAGE=reference,
            MOUNTS=pairs,
            MADE_WITH=compose.COMPOSE_OVERRIDE,
        )

    def process(self, output: list[str]) -> ServiceState:
        try:
            return parse_service_state(output)
        except (ValueError, KeyError) as error:
            raise FactProcessError(f"unexpected answer of the engine: {error!r}") from error
