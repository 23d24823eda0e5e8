"""Verbs that a deploy calls, hidden from the help, and those by which a person stops, starts or recovers an instance.

A deploy sends its request as JSON on standard input and reads a result as JSON. ``--run`` is the id of the deploy, by
which the verb shares the deploy's lock.
"""

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from redisctl import schema
from redisctl.cli.common import as_json, discard_unsaved_option, print_json, with_instance
from redisctl.core import lock
from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.schema import Result

T = TypeVar("T")

# Requests hold an ACL file and a few settings.
_MAX_REQUEST = 4 * 1024**2

run_option = click.option("--run", default="", hidden=True, help="The deploy that calls this.")


@click.group(hidden=True)
def deploy() -> None:
    """Steps of a deploy. Each reads a request as JSON on standard input."""


def _step(kind: type[T]) -> Callable[[Callable[[Instance, T], Result]], Callable[..., None]]:
    """Make a function a step of a deploy: it holds the lock, gets its request and prints its result as JSON."""

    def decorate(function: Callable[[Instance, T], Result]) -> Callable[..., None]:
        @deploy.command(function.__name__.replace("_", "-"), help=function.__doc__)
        @run_option
        @with_instance
        @functools.wraps(function)
        def step(instance: Instance, run: str) -> None:
            request = read_request(kind)
            try:
                with lock.hold(instance.name, function.__name__, run=run):
                    result = function(instance, request)
            except Failure as error:
                result = Result(error=str(error))
            click.echo(schema.dump(result))

        return step

    return decorate


def read_request(kind: type[T]) -> T:
    """Read a request from standard input. Raises Failure."""
    try:
        return schema.load(kind, sys.stdin.read(_MAX_REQUEST))
    except schema.SchemaError as error:
        raise Failure(f"the request cannot be read: {error}. Is the deploy of another release?") from None


@_step(schema.StartRequest)
def start_service(instance: Instance, request: schema.StartRequest) -> Result:
    """Bring the Compose project up and wait until Redis is healthy."""
    from redisctl.deploy import service

    return service.start(instance, request)


@_step(schema.LiveConfigRequest)
def live_config(instance: Instance, request: schema.LiveConfigRequest) -> Result:
    """Change the running Redis without a restart."""
    from redisctl.deploy import live_config as module

    return module.apply(instance, request)


@_step(schema.CertificateRequest)
def certificate(instance: Instance, request: schema.CertificateRequest) -> Result:
    """Have the running Redis load its certificate."""
    from redisctl.deploy import live_config as module

    return module.reload_certificate(instance, request)


@_step(schema.PersistenceRequest)
def persistence(instance: Instance, request: schema.PersistenceRequest) -> Result:
    """Have the running Redis write its data in the other form."""
    from redisctl.deploy import live_config as module

    return module.switch_persistence(instance, request)


@_step(schema.AclRequest)
def acl(instance: Instance, request: schema.AclRequest) -> Result:
    """Set the users of the running Redis."""
    from redisctl.deploy import users

    return users.apply(instance, request)


@_step(schema.AclRequest)
def check_acl(instance: Instance, request: schema.AclRequest) -> Result:
    """Check that the image accepts an ACL file."""
    from redisctl.deploy import preview

    return preview.check_acl(request)


@_step(schema.ActivedefragRequest)
def activedefrag(instance: Instance, request: schema.ActivedefragRequest) -> Result:
    """Find out whether the image can defragment memory."""
    from redisctl.deploy import preview

    return preview.probe_activedefrag(instance, request)


@_step(schema.UpgradeRequest)
def check_upgrade(instance: Instance, request: schema.UpgradeRequest) -> Result:
    """Back the data up and check that another version reads it."""
    from redisctl.deploy import upgrade

    return upgrade.check(instance, request)


@click.command(hidden=True)
def state() -> None:
    """Print the state of an instance as JSON; the request is on standard input."""
    from redisctl.deploy.state import collect

    request = read_request(schema.StateRequest)
    instance = Instance(name=request.name, root=Path(request.root), session_keys="", image=request.image)
    click.echo(schema.dump(collect(instance, request)))


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

    _print(
        instance,
        as_json,
        "stopped",
        _locked(instance, "stop", run, lambda: module.stop(instance, discard_unsaved=discard_unsaved)),
    )


@click.command()
@as_json
@run_option
@with_instance
def start(instance: Instance, as_json: bool, run: str) -> None:
    """Start a stopped instance as it is, and wait until it is healthy."""
    from redisctl.deploy import lifecycle as module

    _print(instance, as_json, "running and healthy", _locked(instance, "start", run, lambda: module.start(instance)))


@click.command()
@as_json
@run_option
@click.option("--data", "confirmation", default="", help="Remove the data and backups, too: 'delete the data of NAME'.")
@click.option("--yes", is_flag=True, help="Do it.")
@with_instance
def remove(instance: Instance, as_json: bool, run: str, confirmation: str, yes: bool) -> None:
    """Remove the instance from this host. Its data and backups stay unless --data says otherwise."""
    from redisctl.deploy import lifecycle as module

    expected = f"delete the data of {instance.name}"
    if confirmation and confirmation != expected:
        raise Failure(f"nothing was removed: to remove the data, write --data '{expected}'")
    if not yes:
        raise Failure(
            f"nothing was removed: --yes removes {instance.name}; its data and backups stay unless --data is given"
        )
    _print(
        instance,
        as_json,
        "removed",
        _locked(instance, "remove", run, lambda: module.remove(instance, data=bool(confirmation))),
    )


@click.command()
@as_json
@run_option
@click.option("--wait", type=int, default=60, help="Seconds to wait until the lock is free.  [default: 60]")
@click.option("--files", "files_only", is_flag=True, hidden=True, help="Move files only; Docker does not run yet.")
@with_instance
def recover(instance: Instance, as_json: bool, run: str, wait: int, files_only: bool) -> None:
    """Finish a restore, an upgrade or a start that was interrupted.

    systemd runs this by itself, at boot and when such a process dies. It leaves the old or the new state running.
    """
    from redisctl.deploy import recovery

    with lock.hold(instance.name, "recover", run=run, wait=wait):
        if files_only:
            recovery.recover_files(instance)
            return
        message = recovery.recover(instance)
    if as_json:
        print_json(asdict(Result(changed=bool(message), messages=(message,) if message else ())))
    else:
        click.echo(message or "nothing was interrupted")


def _locked(instance: Instance, verb: str, run: str, action: Callable[[], Result]) -> Result:
    with lock.hold(instance.name, verb, run=run):
        return action()


def _print(instance: Instance, as_json: bool, state: str, result: Result) -> None:
    if as_json:
        click.echo(json.dumps(asdict(result)))
        return
    for message in result.messages:
        click.echo(message)
    click.echo(f"{instance.name} is {state}" if result.changed else f"{instance.name} was {state} already")


COMMANDS: tuple[Any, ...] = (stop, start, remove, recover, deploy, state)
