"""The verbs of backups: take one, list them, verify them."""

import shutil
import time
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click
from rich.table import Table

from redisctl import archive, offsite
from redisctl import backup as taking
from redisctl import verify as verifying
from redisctl.archive import Archive
from redisctl.cli import as_json, console, of_this_host, print_json
from redisctl.instance import Failure, Instance, in_words, installed
from redisctl.locking import locked
from redisctl.replace import refuse_interrupted
from redisctl.retention import kept
from redisctl.sizes import ago, size, took


@click.command()
@click.option("--verify/--no-verify", default=None, help="Load it in a scratch Redis, or not. Default: as deployed.")
@as_json
@of_this_host
def backup(instance: Instance, *, verify: bool | None, as_json: bool) -> None:
    """Take a backup, load it to see that it restores, and let go of old ones.

    It holds the snapshot and, where that is on, the log of writes, both of the same moment. Writes wait for some
    milliseconds, while Redis forks the process that saves. Room is checked first. A backup is listed only when it is
    whole, and counts only when it was loaded: in a Redis of the same image, without network, for which the host needs
    as much memory once more for a while.

    When it fails, it says why and ends with another code than 0, and redisctl health tells of it until one succeeds.
    """
    with locked(instance, "backup"):
        refuse_interrupted(instance)
        taking.begin(instance)
        try:
            made = taking.take(instance)
            if instance.backup.verify if verify is None else verify:
                made = verifying.verify(instance, made)
            removed = let_go(instance)
            if instance.backup.repository:
                push(instance, made)
        except (Failure, OSError) as error:
            taking.end(instance, in_words(error))
            raise
        except KeyboardInterrupt:
            taking.end(instance, "it was called off")
            raise
        taking.end(instance, id=made.id)
    if as_json:
        copied = {"repository": instance.backup.repository or None}
        print_json({"instance": instance.name, **_as_dict(made), "removed": removed, **copied})
        return
    held = f"writes waited for {took(made.backup.held)}"
    click.echo(f"backup {made.id}: {made.backup.keys} keys, {size(made.backup.size)}, {held}")
    if made.is_verified:
        click.echo(f"verified: loaded and compared in {took(made.verified['took'])}")
    for name in removed:
        click.echo(f"let go of {name}")
    if instance.backup.repository:
        click.echo(f"copied to {instance.backup.repository}")


def push(instance: Instance, one: Archive) -> None:
    """Copy a backup off the host. Raises Failure, which says that it is here all the same."""
    try:
        offsite.push(instance, one.path)
    except Failure as error:
        raise Failure(f"backup {one.id} was taken and is here, but not off this host: {error}") from None


@click.group(invoke_without_command=True)
@click.option("--offsite", "elsewhere", is_flag=True, help="List the copies off this host instead.")
@as_json
@click.pass_context
def backups(context: click.Context, *, elsewhere: bool, as_json: bool) -> None:
    """List backups, the newest first. Only whole ones are."""
    if context.invoked_subcommand is None:
        (_list_copies if elsewhere else _list)(installed(), as_json)


@backups.command()
@click.argument("name", default="latest")
@click.option("--host", default="", help="Whose, where several hosts copy to the same repository.")
@as_json
@of_this_host
def fetch(instance: Instance, name: str, host: str, as_json: bool) -> None:
    """Bring a copy from off the host back among the backups here, to restore it.

    NAME is that of redisctl backups --offsite, its beginning, or latest. It comes whole or not at all: every file is
    compared with its checksum. The next backup lets go of it, where it is older than what is kept.
    """
    with locked(instance, "backups fetch"):
        path = offsite.fetch(instance, name, host)
    if as_json:
        print_json({"instance": instance.name, **_as_dict(archive.opened(path))})
        return
    click.echo(f"{path.name} is here, in {path}")


@backups.command()
@as_json
@of_this_host
def check(instance: Instance, as_json: bool) -> None:
    """Have restic look whether the repository off the host is whole: its structure, and not every byte."""
    offsite.check(instance)
    if as_json:
        print_json({"instance": instance.name, "repository": instance.backup.repository, "whole": True})
        return
    click.echo(f"{instance.backup.repository} is whole")


def _list_copies(instance: Instance, as_json: bool) -> None:
    found = offsite.listed(instance)
    if as_json:
        print_json({"instance": instance.name, "copies": [asdict(one) for one in found]})
        return
    table = Table("backup", "of host", "in restic", box=None, pad_edge=False)
    for one in found:
        table.add_row(one.id, one.host, one.snapshot[:8])
    if found:
        console().print(table)
    else:
        click.echo(f"no copies in {instance.backup.repository} yet: redisctl backup")


def _list(instance: Instance, as_json: bool) -> None:
    found = archive.listed(instance.backups)
    if as_json:
        print_json({"instance": instance.name, "backups": [_as_dict(one) for one in found]})
        return
    table = Table("backup", "age", "keys", "size", "of", "verified", box=None, pad_edge=False)
    for one in found:
        told = one.backup
        of = f"{told.engine} {told.version}"
        table.add_row(one.id, ago(time.time() - told.taken_at), str(told.keys), size(told.size), of, verdict(one))
    if found:
        console().print(table)
    else:
        click.echo("no backups yet: redisctl backup")
    for words in archive.unreadable(instance.backups):
        click.echo(f"redisctl: {words}", err=True)


@click.command()
@click.argument("name", default="newest")
@click.option("--image", default="", help="Load it with this image of the host, as before an upgrade to it.")
@as_json
@of_this_host
def verify(instance: Instance, name: str, image: str, as_json: bool) -> None:
    """Check the files of a backup, load it in a scratch Redis and compare what is there with what it says of itself.

    NAME is that of redisctl backups, or its beginning; without one it is the newest. The Redis that serves is not
    touched. What another image makes of it says nothing about the backup, and is not kept.
    """
    with locked(instance, "verify"):
        every = archive.listed(instance.backups)
        one = every[0] if name == "newest" and every else archive.find(instance.backups, name)
        start = time.monotonic()
        if image:
            verifying.try_with(instance, one, image)
        else:
            one = verifying.verify(instance, one)
        seconds = time.monotonic() - start
    if as_json:
        print_json({"instance": instance.name, **_as_dict(one)})
        return
    by = f", and {image} reads it" if image else ""
    click.echo(f"backup {one.id} is good{by}: {one.backup.keys} keys, compared in {took(seconds)}")


def let_go(instance: Instance) -> list[str]:
    """Remove backups that retention does not keep; never the newest that was verified. Their names.

    Bad ones take nobody's place, and are kept by the same rules: another version may load what this one does not.
    """
    every = archive.listed(instance.backups)
    stays: set[float] = set()
    for is_bad in (False, True):
        moments = [one.backup.taken_at for one in every if one.is_bad == is_bad]
        stays |= kept(moments, instance.backup.keep, time.time())
    newest_good = next((one.backup.taken_at for one in every if one.is_verified), None)
    gone = [one for one in every if one.backup.taken_at not in {*stays, newest_good}]
    for one in gone:
        # Out of the list at once, whatever happens meanwhile.
        leaving = one.path.with_name(f".{one.id}.partial")
        one.path.rename(leaving)
        shutil.rmtree(leaving)
    return [one.id for one in gone]


def verdict(one: Archive) -> str:
    """What its verification said."""
    if not one.verified:
        return "no"
    when = datetime.fromtimestamp(one.verified["at"]).astimezone().strftime("%Y-%m-%d %H:%M")
    return f"{when}" if one.is_verified else f"BAD, {when}: {'; '.join(one.verified['problems'])}"


def _as_dict(one: Archive) -> dict[str, Any]:
    told = {name: value for name, value in vars(one.backup).items() if name != "files"}
    return {**told, "keys": one.backup.keys, "size": one.backup.size, "path": str(one.path), "verified": one.verified}


COMMANDS = (backup, backups, verify)
