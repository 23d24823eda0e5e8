"""Verbs that a deploy calls, and those that stop, start or recover an instance.

The help does not list the verbs that a deploy calls; the others are for people. A deploy sends its request as JSON on
standard input and reads a result as JSON. ``--run`` is the id of the deploy, by which the verb shares the deploy's
lock.
"""

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from redisctl import schema
from redisctl.cli import progress
from redisctl.cli.common import (
    PRINTS_JSON,
    as_json,
    discard_unsaved_option,
    echo,
    print_json_line,
    with_instance,
)
from redisctl.core import lock
from redisctl.core.errors import Failure
from redisctl.core.formatting import printable_lines
from redisctl.core.instance import Instance, with_present_owner
from redisctl.schema import Result

T = TypeVar("T")

# Requests hold an ACL file and a few settings.
_MAX_REQUEST = 4 * 1024**2

# The steps of a deploy: what each reads on standard input, and the function below redisctl.deploy that does it. Its
# docstring says what it changes. A module is imported when its step is called.
STEPS: dict[str, tuple[type, str]] = {
    "change-owner": (schema.OwnerRequest, "owner:change"),
    "start-service": (schema.StartRequest, "service:start"),
    "replace-files": (schema.ReplaceRequest, "configuration:begin_replacing"),
    "live-config": (schema.LiveConfigRequest, "live_config:apply"),
    "certificate": (schema.CertificateRequest, "live_config:reload_certificate"),
    "persistence": (schema.PersistenceRequest, "live_config:switch_persistence"),
    "acl": (schema.AclRequest, "users:apply"),
    "check-acl": (schema.AclRequest, "preview:check_acl"),
    "activedefrag": (schema.ActivedefragRequest, "preview:probe_activedefrag"),
    "check-upgrade": (schema.UpgradeRequest, "upgrade:check"),
}

run_option = click.option("--run", default="", hidden=True, help="The deploy that calls this.")


@click.command(hidden=True)
@click.argument("step", type=click.Choice(list(STEPS)))
@run_option
@with_instance
def deploy(instance: Instance, step: str, run: str) -> None:
    """Do a step of a deploy under its lock.

    The request is JSON on standard input, the result JSON.
    """
    click.get_current_context().meta[PRINTS_JSON] = True
    kind, place = STEPS[step]
    request: Any = read_request(kind)
    module, _, name = place.partition(":")
    function = getattr(importlib.import_module(f"redisctl.deploy.{module}"), name)
    with lock.hold(instance.name, step, run=run), progress.sent_to_deploy():
        result: Result = function(instance, request)
    print_json_line(_as_dict(instance, result))


def read_request(kind: type[T]) -> T:
    """Read a request from standard input. Raises Failure."""
    try:
        return schema.load(kind, sys.stdin.read(_MAX_REQUEST))
    except schema.SchemaError as error:
        raise Failure(f"the request cannot be read: {error}. Is the deploy of another release?") from None


@click.command(hidden=True)
def state() -> None:
    """Print the state of an instance as JSON; the request is on standard input."""
    from redisctl.deploy.state import collect

    request = read_request(schema.StateRequest)
    instance = Instance(name=request.name, root=Path(request.root), session_keys="", image=request.image)
    instance = with_present_owner(instance)
    echo(schema.dump(collect(instance, request)))


@click.command()
@as_json
@run_option
@discard_unsaved_option
@with_instance
def stop(instance: Instance, as_json: bool, run: str, discard_unsaved: bool) -> None:
    """Stop Redis, its services and its backups.

    Redis saves its data first. It stays stopped over a reboot, until start or a deploy.
    """
    from redisctl.deploy import lifecycle as module

    result = _locked(instance, "stop", run, lambda: module.stop(instance, discard_unsaved=discard_unsaved))
    _print(instance, result, "stopped", as_json=as_json)


@click.command()
@as_json
@run_option
@with_instance
def start(instance: Instance, as_json: bool, run: str) -> None:
    """Start a stopped instance as it is, and wait until it is healthy."""
    from redisctl.deploy import lifecycle as module

    result = _locked(instance, "start", run, lambda: module.start(instance))
    _print(instance, result, "running and healthy", as_json=as_json)


@click.command()
@as_json
@discard_unsaved_option
@with_instance
def restart(instance: Instance, as_json: bool, discard_unsaved: bool) -> None:
    """Restart Redis, and wait until it is healthy.

    Redis saves its data first. It keeps running if it could not start again.
    """
    from redisctl.deploy import lifecycle as module

    result = _locked(instance, "restart", "", lambda: module.restart(instance, discard_unsaved=discard_unsaved))
    _print(instance, result, "running and healthy", as_json=as_json)


@click.command()
@as_json
@run_option
@click.option("--data", "confirmation", default="", help="Remove the data and backups, too: 'delete the data of NAME'.")
@click.option("--yes", is_flag=True, help="Do it.")
@with_instance
def remove(instance: Instance, as_json: bool, run: str, confirmation: str, yes: bool) -> None:
    """Remove the instance from this host.

    Its data and backups stay unless --data says otherwise.
    """
    from redisctl.deploy import lifecycle as module

    expected = f"delete the data of {instance.name}"
    if confirmation and confirmation != expected:
        raise Failure(f"nothing was removed: to remove the data, write --data '{expected}'")
    if not yes:
        raise Failure(
            f"nothing was removed: --yes removes {instance.name}; its data and backups stay unless --data is given"
        )
    result = _locked(instance, "remove", run, lambda: module.remove(instance, data=bool(confirmation)))
    _print(instance, result, "removed", as_json=as_json)


@click.command()
@as_json
@run_option
@click.option("--wait", type=int, default=60, help="Seconds to wait until the lock is free.  [default: 60]")
@click.option("--files", "files_only", is_flag=True, hidden=True, help="Move files only; Docker does not run yet.")
@with_instance
def recover(instance: Instance, as_json: bool, run: str, wait: int, files_only: bool) -> None:
    """Finish a restore, an upgrade, a start or a stop that was interrupted.

    systemd runs this by itself, at boot and when such a process dies. It leaves the old or the new state running.
    """
    from redisctl.deploy import recovery

    with lock.hold(instance.name, "recover", run=run, wait=wait):
        instance = with_present_owner(instance)
        if files_only:
            recovery.recover_files(instance)
            return
        message = recovery.recover(instance)
    if as_json:
        print_json_line(_as_dict(instance, Result(changed=bool(message), messages=(message,) if message else ())))
    else:
        echo(message or "nothing was interrupted")


@click.command(hidden=True)
@with_instance
def undo_changes(instance: Instance) -> None:
    """Wait until Redis has loaded its data, and undo what that changed.

    systemd runs this after each start of Redis by Docker. It takes no lock, and does nothing while someone holds it.
    """
    from redisctl.core.server_changes import undo_once_loaded

    for message in undo_once_loaded(instance):
        # The level of a warning (sd-daemon(3)).
        echo(f"<4>{message}")


def _locked(instance: Instance, verb: str, run: str, action: Callable[[], Result]) -> Result:
    as_json = click.get_current_context().meta.get(PRINTS_JSON, False)
    steps = progress.sent_to_deploy() if run else progress.shown(as_json=as_json)
    with lock.hold(instance.name, verb, run=run), steps:
        return action()


def _print(instance: Instance, result: Result, state: str, *, as_json: bool) -> None:
    if as_json:
        print_json_line(_as_dict(instance, result))
        return
    for message in result.messages:
        echo(message)
    echo(f"{instance.name} is {state}" if result.changed else f"{instance.name} was {state} already")


def _as_dict(instance: Instance, result: Result) -> dict[str, Any]:
    """Return a result for JSON, with printable messages.

    The deploy prints the messages, which quote what Redis logged.
    """
    messages = tuple(map(printable_lines, result.messages))
    return {"instance": instance.name, **dataclasses.asdict(dataclasses.replace(result, messages=messages))}
