"""The operations for images: load or pull, check the version, probe the build."""

import shlex

from pyinfra import host, logger, state
from pyinfra.api import FileUploadCommand, operation

from redisctl import paths
from redisctl.deploy.preview import activedefrag_file
from redisctl.schema import ActivedefragRequest
from redoubt import host_checks, host_files, image_archive, image_config
from redoubt.facts.image import ImageBuild
from redoubt.operations.common import Commands, RedisctlCall, command, fail, instance_state, note_change
from redoubt.operations.files import files
from redoubt.settings.model import Settings


@operation()
def load_image(settings: Settings) -> Commands:
    """Load the image from an archive on this machine.

    No change if the host has that very image. Pushes the archive to a directory of the login user below ROOT, loads it
    into Docker and removes it. (With sudo, pyinfra itself would upload to /tmp, under a name that any user can
    foresee.) If the settings have the archive's digest, the host compares it before it loads the file.
    """
    reference, archive = settings.redis_image, str(settings.redis_image_archive)
    present = instance_state(settings).image
    if present and image_config.of_inspect(present) == image_archive.identity_in(archive, reference):
        host.noop(f"{reference} is loaded")
        return
    note_change(f"{reference}: {'another image has its name' if present else 'missing'}")
    directory = f"{settings.root}/.incoming"
    quoted = shlex.quote(directory)
    yield command(f'rm -rf {quoted} && install -d -m 0700 -o "${{SUDO_UID:-${{DOAS_USER:-0}}}}" {quoted}')
    yield FileUploadCommand(archive, f"{directory}/image.tar", _sudo=False, _doas=False)
    digest = (settings.redis_image_archive_digest or "").removeprefix("sha256:")
    # By another descriptor: Docker reads the file from its beginning.
    differs = f'[ "$(sha256sum </proc/self/fd/3 | cut -c 1-64)" != {digest} ]' if digest else "false"
    refuse = f"if {differs}; then echo 'the copied archive has another digest: deploy again' >&2; exit 1; fi"
    # Removed as soon as it is open, so that an interruption leaves no file behind.
    yield command(f"exec 3<{quoted}/image.tar && rm -rf {quoted} || exit; {refuse}; docker load --quiet <&3")


@operation()
def pull_image(settings: Settings) -> Commands:
    """Pull the image, unless the host has it. A pinned reference is not pulled again."""
    reference = settings.redis_image
    if instance_state(settings).image:
        host.noop(f"{reference} is present")
        return
    note_change(f"{reference}: missing")
    yield command(f"docker pull --quiet {shlex.quote(reference)}")


@operation()
def check_version(settings: Settings) -> Commands:
    """Refuse an image whose server lacks security fixes or reports no version.

    Changes nothing. Says nothing of an image that is not on the host yet, as in a dry run.
    """
    build = host.get_fact(ImageBuild, reference=settings.redis_image, owner=settings.owner)
    if build is None and not state.is_executing:
        return
    if build is None:
        yield from fail(version_unknown(settings))
        return
    verdict = host_checks.check_version(settings, build)
    if verdict.problem:
        yield from fail(verdict.problem)
        return
    host.noop(f"{settings.redis_image} is {build}")
    if verdict.warning and state.is_executing:
        logger.warning(f"{host.print_prefix}{verdict.warning}")


def version_unknown(settings: Settings) -> str:
    """Return the message for an image that does not report its version."""
    return f"redis_image = {settings.redis_image!r} does not report its version: 'redis-server --version' fails in it"


@operation()
def probe_activedefrag(settings: Settings) -> Commands:
    """Write config/activedefrag.conf.

    The file turns active defragmentation on if the image's build supports it. Runs the image to find out. The answer is
    kept with the image's id. Fails if defragmentation is required and the build has none: Redis would refuse to start.
    """
    required = settings.redis_activedefrag == "yes"
    present = instance_state(settings)
    path = f"{settings.root}/{paths.ACTIVEDEFRAG_FILE}"
    for value in ["yes"] if required else ["yes", "no"]:
        text = activedefrag_file(present.image_id, value)
        if present.image_id and f"{present.activedefrag}\n" == text:
            yield from files._inner(entries=[host_files.activedefrag_file(settings, text)])
            return
    note_change(f"{path}: not known for this image")
    request = ActivedefragRequest(settings.redis_image, settings.owner, required=required)
    yield RedisctlCall(settings, "deploy", "activedefrag", request=request)
