"""The operation before an upgrade: a backup that the new version reads."""

from pyinfra import host, state
from pyinfra.api import operation

from redisctl.schema import UpgradeRequest
from redoubt import host_files
from redoubt.facts.host import Build
from redoubt.facts.image import ImageBuild
from redoubt.operations.common import Commands, RedisctlCall, fail, note_change
from redoubt.operations.image import version_unknown
from redoubt.settings.model import Settings


@operation()
def check_upgrade(settings: Settings, running: Build) -> Commands:
    """Back the data up and have the new version load the backup.

    This happens before the new version is started. No change for the same version. Writes a backup on the host. Fails
    without a change to Redis if there is no room or the new version does not read what the old one wrote.
    """
    build = host.get_fact(ImageBuild, reference=settings.redis_image, owner=settings.owner)
    if build is None and not state.is_executing:
        note_change(f"{settings.redis_name} runs {running}. If the new image has another version, a backup comes first")
        return
    if build is None:
        yield from fail(f"{version_unknown(settings)}. {running} keeps running")
        return
    if (build.engine, build.numbers) == (running.engine, running.numbers):
        host.noop(f"{settings.redis_image} has the version that runs")
        return
    note_change(f"{settings.redis_name} runs {running}, and {settings.redis_image} is {build}")
    config = host_files.redis_conf_file(settings).content
    request = UpgradeRequest(settings.redis_image, verify=settings.redis_upgrade_verify, config=config)
    yield RedisctlCall(settings, "deploy", "check-upgrade", request=request)
