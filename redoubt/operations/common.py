"""What the operations share."""

import shlex
from collections.abc import Generator

from pyinfra import host, logger, state
from pyinfra.api import FileUploadCommand, FunctionCommand, StringCommand
from pyinfra.api.exceptions import OperationError

from redoubt import host_files, plan_log, service_drift
from redoubt.facts.containers import ServiceState
from redoubt.facts.paths import HiddenStdin
from redoubt.facts.script import script
from redoubt.facts.service import ComposeService
from redoubt.filesystem import DesiredFile
from redoubt.settings.model import REDIS_GID, REDIS_UID, Settings

OWNER = f"{REDIS_UID}:{REDIS_GID}"

Commands = Generator[StringCommand | FileUploadCommand | FunctionCommand, None, None]


def service_state(settings: Settings, acl: DesiredFile) -> ServiceState:
    state: ServiceState = host.get_fact(
        ComposeService,
        instance=settings.redis_name,
        root=settings.root,
        reference=settings.redis_image,
        mounts=host_files.mounts(settings),
        _stdin=HiddenStdin(acl.content),
    )
    return state


def instance_script(settings: Settings, filename: str, **variables: str) -> str:
    """A script of files/ for the instance, with values for what it expects beside its name and its directory."""
    return script(filename, INSTANCE=settings.redis_name, ROOT=settings.root, **variables)


def with_instance_lock(settings: Settings, filename: str, **variables: str) -> str:
    """The same, as soon as nothing else starts or stops containers of the instance."""
    lock = instance_script(settings, "take-lock.sh", LOCK_WAIT=str(service_drift.lock_timeout(settings)))
    return f"{lock}\n{instance_script(settings, filename, **variables)}"


def fail(why: str) -> Commands:
    """Fail in words: before anything runs for all hosts, afterwards for this one alone."""
    if not state.is_executing:
        raise OperationError(why)
    yield StringCommand(f"echo {shlex.quote(why)} >&2; exit 1")


def note_change(why: str) -> None:
    """Tell the operator why something changes, beside pyinfra's own line for the operation."""
    plan_log.note(host.name, "differs", why)
    logger.info(f"{host.print_prefix}{why}")
