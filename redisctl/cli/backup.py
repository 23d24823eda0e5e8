"""The commands for backups: create, list, verify, prune, fetch and check."""

import time
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from redisctl.backup import catalog, offsite, retention
from redisctl.backup.catalog import BackupSet
from redisctl.backup.run import back_up
from redisctl.backup.verify import verify_backup, verify_with_image
from redisctl.cli.common import (
    UNCHANGED,
    OrderedGroup,
    as_json,
    current_instance,
    echo,
    exclusive,
    print_json,
    print_table,
    with_instance,
)
from redisctl.core.formatting import ago, size, took
from redisctl.core.instance import Instance
from redisctl.core.lock import locked

verify_option = click.option(
    "--verify/--no-verify", default=None, help="Verify the new backup, or not. Default: as the settings say."
)


@click.group(cls=OrderedGroup, invoke_without_command=True)
@verify_option
@as_json
@click.pass_context
def backup(context: click.Context, *, verify: bool | None, as_json: bool) -> None:
    """Create, list, verify, prune, fetch and check backups.

    Without a command: create one.

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
    """Create a backup, verify it, prune old backups, and copy it off the host.

    A backup contains the RDB snapshot and, if it is on, the AOF, of exactly one point in time. Writes wait for some
    milliseconds while Redis forks the process that saves. Disk space is checked first. Verification loads the backup in
    a second Redis of the same image, without network. For that the host needs the memory of the data once more.

    If a backup fails, it says why and exits with 3, and redisctl health reports it until one succeeds.
    """
    _create(instance, verify=verify, as_json=as_json)


def _create(instance: Instance, *, verify: bool | None, as_json: bool) -> None:
    with exclusive(instance, "backup"):
        finished = back_up(instance, verify=verify)
    created, repository = finished.backup, instance.backup.repository
    if as_json:
        values = _as_dict(created)
        print_json({"instance": instance.name, **values, "pruned": finished.pruned, "repository": repository or None})
        return
    metadata = created.metadata
    pause = took(metadata.write_pause)
    echo(f"backup {created.id}: {created.describe_contents()}, {size(metadata.size)}, writes waited for {pause}")
    if created.is_verified:
        echo(f"verified: loaded and compared in {took(created.verified['took'])}")
    for name in finished.pruned:
        echo(f"pruned {name}")
    if repository:
        echo(f"copied to {repository}")


@backup.command("list")
@click.option("--offsite", "off_host", is_flag=True, help="List the copies off this host instead.")
@as_json
@with_instance
def list_(instance: Instance, *, off_host: bool, as_json: bool) -> None:
    """List the complete backups, newest first."""
    (_list_copies if off_host else _list)(instance, as_json)


@backup.command()
@click.argument("name", default="latest")
@click.option("--host", default="", help="The host of the backup, if several hosts use the repository.")
@as_json
@with_instance
def fetch(instance: Instance, name: str, host: str, as_json: bool) -> None:
    """Fetch a copy from off the host into the backups of this host.

    NAME is a name from 'redisctl backup list --offsite', the beginning of one, or latest. The copy comes complete or
    not at all: every file is compared with its checksum. The next backup prunes it if it is older than the retention
    allows.
    """
    with locked(instance, "backup fetch"):
        path = offsite.fetch(instance, name, host)
    if as_json:
        print_json({"instance": instance.name, **_as_dict(catalog.open_backup(path))})
        return
    echo(f"fetched {path.name} into {path}")


@backup.command()
@as_json
@with_instance
def check(instance: Instance, as_json: bool) -> None:
    """Have restic check the structure of the repository off the host.

    It does not read every byte.
    """
    offsite.check(instance)
    if as_json:
        print_json({"instance": instance.name, "repository": instance.backup.repository, "intact": True})
        return
    echo(f"the structure of {instance.backup.repository} is intact")


def _list_copies(instance: Instance, as_json: bool) -> None:
    copies = offsite.list_copies(instance)
    if as_json:
        print_json({"instance": instance.name, "copies": [asdict(copy) for copy in copies]})
        return
    print_table(("backup", "host", "restic id"), [(copy.id, copy.host, copy.restic_id[:8]) for copy in copies])
    if not copies:
        echo(f"no copies in {instance.backup.repository} yet: redisctl backup creates one")


def _list(instance: Instance, as_json: bool) -> None:
    backups = catalog.list_backups(instance.backups)
    if as_json:
        print_json({"instance": instance.name, "backups": [_as_dict(backup) for backup in backups]})
        return
    print_table(("backup", ">age", ">size", "version", "verified", "contents"), map(_row, backups))
    if not backups:
        echo("no backups yet: redisctl backup creates one")
    for problem in catalog.list_unreadable(instance.backups):
        echo(f"redisctl: {problem}", err=True)


@backup.command()
@click.argument("name", default="newest")
@click.option("--image", default="", help="Verify with this image of the host, for example before an upgrade to it.")
@as_json
@with_instance
def verify(instance: Instance, name: str, image: str, as_json: bool) -> None:
    """Check the files of a backup, load it in a second Redis, and compare contents.

    The contents of the loaded backup are compared with its metadata.

    NAME is a name from 'redisctl backup list' or the beginning of one; without a name it is the newest. The running
    Redis is not touched. The result with another image is reported and not recorded.
    """
    with locked(instance, "backup verify"):
        backup = catalog.find_backup(instance.backups, name)
        start = time.monotonic()
        if image:
            verify_with_image(instance, backup, image)
        else:
            backup = verify_backup(instance, backup)
        seconds = time.monotonic() - start
    if as_json:
        print_json({"instance": instance.name, **_as_dict(backup)})
        return
    reader = f", and {image} reads it" if image else ""
    echo(f"backup {backup.id} is good{reader}: {backup.describe_contents()}, compared in {took(seconds)}")


def _row(backup: BackupSet) -> tuple[str, ...]:
    metadata = backup.metadata
    age = ago(time.time() - metadata.taken_at)
    version = f"{metadata.engine} {metadata.version}"
    return backup.id, age, size(metadata.size), version, _verdict(backup), backup.describe_contents()


@backup.command()
@click.option("--yes", is_flag=True, help="Do it. Without this it only shows which backups it would prune.")
@as_json
@with_instance
def prune(instance: Instance, *, yes: bool, as_json: bool) -> None:
    """Prune old backups of this host by the retention of the settings.

    Each new backup does this as well.

    All backups of the last hour and the newest verified one stay. Copies off the host are not touched.
    """
    with locked(instance, "backup prune"):
        names = retention.prune(instance) if yes else [backup.id for backup in retention.find_prunable(instance)]
    if as_json:
        print_json({"instance": instance.name, "dry_run": not yes, "pruned": names})
        return
    for name in names:
        echo(f"{'pruned' if yes else 'would prune'} {name}")
    if not names:
        echo("there is nothing to prune: the retention keeps every backup")
    elif not yes:
        echo(UNCHANGED)


def _verdict(backup: BackupSet) -> str:
    """Return the result of a backup's verification for people."""
    if not backup.verified:
        return "no"
    at = datetime.fromtimestamp(backup.verified["at"]).astimezone().strftime("%Y-%m-%d %H:%M")
    return at if backup.is_verified else f"BAD, {at}: {'; '.join(backup.verified['problems'])}"


def _as_dict(backup: BackupSet) -> dict[str, Any]:
    values = {name: value for name, value in vars(backup.metadata).items() if name not in ("files", "databases")}
    contents = backup.contents
    return {
        **values,
        # Unknown until a verification counts what is alive.
        "keys": contents.keys if contents else None,
        "databases": contents.databases if contents else None,
        "functions": contents.functions if contents else None,
        "stored": backup.metadata.databases,
        "size": backup.metadata.size,
        "path": str(backup.path),
        "verified": backup.verified,
    }
