"""The verbs of backups: take one, list them, verify them."""

import time
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click
from rich.table import Table

from redisctl.backup import catalog, offsite
from redisctl.backup.catalog import BackupSet
from redisctl.backup.run import back_up
from redisctl.backup.verify import verify_backup, verify_with_image
from redisctl.cli.common import OrderedGroup, as_json, console, current_instance, exclusive, print_json, with_instance
from redisctl.core.formatting import ago, size, took
from redisctl.core.instance import Instance
from redisctl.core.lock import locked

verify_option = click.option(
    "--verify/--no-verify", default=None, help="Load it in a scratch Redis, or not. Default: as deployed."
)


@click.group(cls=OrderedGroup, invoke_without_command=True)
@verify_option
@as_json
@click.pass_context
def backup(context: click.Context, *, verify: bool | None, as_json: bool) -> None:
    """Backups: create one, which is what is done without a verb; list, verify, fetch and check them.

    \b
    redisctl backup                # the same as backup create
    redisctl backup list
    redisctl backup verify         # the newest
    """
    if context.invoked_subcommand is None:
        _create(current_instance(), verify=verify, as_json=as_json)


@backup.command("create")
@verify_option
@as_json
@with_instance
def create_(instance: Instance, *, verify: bool | None, as_json: bool) -> None:
    """Take a backup, load it to see that it restores, and let go of old ones.

    It holds the snapshot and, where that is on, the log of writes, both of the same moment. Writes wait for some
    milliseconds, while Redis forks the process that saves. Room is checked first. A backup is listed only when it is
    whole, and counts only when it was loaded: in a Redis of the same image, without network, for which the host needs
    as much memory once more for a while.

    When it fails, it says why and ends with another code than 0, and redisctl health tells of it until one succeeds.
    """
    _create(instance, verify=verify, as_json=as_json)


def _create(instance: Instance, *, verify: bool | None, as_json: bool) -> None:
    with exclusive(instance, "backup"):
        finished = back_up(instance, verify=verify)
    made, removed = finished.backup, finished.pruned
    if as_json:
        copied = {"repository": instance.backup.repository or None}
        print_json({"instance": instance.name, **_as_dict(made), "removed": removed, **copied})
        return
    held = f"writes waited for {took(made.metadata.write_pause)}"
    click.echo(f"backup {made.id}: {made.metadata.keys} keys, {size(made.metadata.size)}, {held}")
    if made.is_verified:
        click.echo(f"verified: loaded and compared in {took(made.verified['took'])}")
    for name in removed:
        click.echo(f"let go of {name}")
    if instance.backup.repository:
        click.echo(f"copied to {instance.backup.repository}")


@backup.command("list")
@click.option("--offsite", "elsewhere", is_flag=True, help="List the copies off this host instead.")
@as_json
@with_instance
def list_(instance: Instance, *, elsewhere: bool, as_json: bool) -> None:
    """List backups, the newest first. Only whole ones are."""
    (_list_copies if elsewhere else _list)(instance, as_json)


@backup.command()
@click.argument("name", default="latest")
@click.option("--host", default="", help="Whose, where several hosts copy to the same repository.")
@as_json
@with_instance
def fetch(instance: Instance, name: str, host: str, as_json: bool) -> None:
    """Bring a copy from off the host back among the backups here, to restore it.

    NAME is that of redisctl backup list --offsite, its beginning, or latest. It comes whole or not at all: every file
    is compared with its checksum. The next backup lets go of it, where it is older than what is kept.
    """
    with locked(instance, "backup fetch"):
        path = offsite.fetch(instance, name, host)
    if as_json:
        print_json({"instance": instance.name, **_as_dict(catalog.open_backup(path))})
        return
    click.echo(f"{path.name} is here, in {path}")


@backup.command()
@as_json
@with_instance
def check(instance: Instance, as_json: bool) -> None:
    """Have restic look whether the repository off the host is whole: its structure, and not every byte."""
    offsite.check(instance)
    if as_json:
        print_json({"instance": instance.name, "repository": instance.backup.repository, "whole": True})
        return
    click.echo(f"{instance.backup.repository} is whole")


def _list_copies(instance: Instance, as_json: bool) -> None:
    found = offsite.list_copies(instance)
    if as_json:
        print_json({"instance": instance.name, "copies": [asdict(one) for one in found]})
        return
    table = Table("backup", "of host", "in restic", box=None, pad_edge=False)
    for one in found:
        table.add_row(one.id, one.host, one.restic_id[:8])
    if found:
        console().print(table)
    else:
        click.echo(f"no copies in {instance.backup.repository} yet: redisctl backup")


def _list(instance: Instance, as_json: bool) -> None:
    found = catalog.list_backups(instance.backups)
    if as_json:
        print_json({"instance": instance.name, "backups": [_as_dict(one) for one in found]})
        return
    table = Table("backup", "age", "keys", "size", "of", "verified", box=None, pad_edge=False)
    for one in found:
        told = one.metadata
        of = f"{told.engine} {told.version}"
        table.add_row(one.id, ago(time.time() - told.taken_at), str(told.keys), size(told.size), of, verdict(one))
    if found:
        console().print(table)
    else:
        click.echo("no backups yet: redisctl backup")
    for words in catalog.list_unreadable(instance.backups):
        click.echo(f"redisctl: {words}", err=True)


@backup.command()
@click.argument("name", default="newest")
@click.option("--image", default="", help="Load it with this image of the host, as before an upgrade to it.")
@as_json
@with_instance
def verify(instance: Instance, name: str, image: str, as_json: bool) -> None:
    """Check the files of a backup, load it in a scratch Redis and compare what is there with what it says of itself.

    NAME is that of redisctl backup list, or its beginning; without one it is the newest. The Redis that serves is not
    touched. What another image makes of it says nothing about the backup, and is not kept.
    """
    with locked(instance, "backup verify"):
        one = catalog.find_backup(instance.backups, name)
        start = time.monotonic()
        if image:
            verify_with_image(instance, one, image)
        else:
            one = verify_backup(instance, one)
        seconds = time.monotonic() - start
    if as_json:
        print_json({"instance": instance.name, **_as_dict(one)})
        return
    by = f", and {image} reads it" if image else ""
    click.echo(f"backup {one.id} is good{by}: {one.metadata.keys} keys, compared in {took(seconds)}")


def verdict(one: BackupSet) -> str:
    """What its verification said."""
    if not one.verified:
        return "no"
    when = datetime.fromtimestamp(one.verified["at"]).astimezone().strftime("%Y-%m-%d %H:%M")
    return f"{when}" if one.is_verified else f"BAD, {when}: {'; '.join(one.verified['problems'])}"


def _as_dict(one: BackupSet) -> dict[str, Any]:
    told = {name: value for name, value in vars(one.metadata).items() if name != "files"}
    return {
        **told,
        "keys": one.metadata.keys,
        "size": one.metadata.size,
        "path": str(one.path),
        "verified": one.verified,
    }
