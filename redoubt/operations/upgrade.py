"""The operation before an upgrade: a backup that the new version reads."""

from pyinfra import host, state
from pyinfra.api import StringCommand, operation

from redoubt import host_files
from redoubt.facts.host import Build
from redoubt.facts.image import ImageBuild
from redoubt.facts.paths import Paths
from redoubt.filesystem import plan
from redoubt.operations.common import Commands, fail, instance_script, note_change
from redoubt.operations.image import version_unknown
from redoubt.settings.model import Settings


@operation()
def check_upgrade(settings: Settings, serves: Build) -> Commands:
    """Take a verified backup and have another version load it before that is started; nothing for the same version.

    ``serves`` is what runs. On the host it writes a backup, redisctl, which takes it, and a copy of what Redis was made
    from, for ``compose_up``. Fails, with Redis untouched, where there is no room for it, or where the new version does
    not read what the old one wrote.
    """
    build = host.get_fact(ImageBuild, reference=settings.redis_image)
    if build is None and not state.is_executing:
        note_change(f"{settings.redis_name} runs {serves}, and another image comes: of another version, after a backup")
        return
    if build is None:
        yield from fail(f"{version_unknown(settings)}. {serves} goes on serving")
        return
    if (build.engine, build.numbers) == (serves.engine, serves.numbers):
        host.noop(f"{settings.redis_image} is the version that runs")
        return
    note_change(f"{settings.redis_name} runs {serves}, and {settings.redis_image} is {build}")
    program, told, *_ = host_files.redisctl_files(settings)
    present = host.get_fact(Paths, paths=[program.path, told.path], secret=[])
    # What is told of backups goes with the former settings, until a deploy has come to its end.
    wanted = [program] if told.path in present else [program, told]
    for step in plan(wanted, present):
        yield StringCommand(step.command, _stdin=step.stdin or "")
    verify = "yes" if settings.redis_upgrade_verify else ""
    prove = instance_script(settings, "prove-upgrade.sh", IMAGE=settings.redis_image, VERIFY=verify)
    yield StringCommand(f"{instance_script(settings, 'way-back.sh')}\n{prove}")
