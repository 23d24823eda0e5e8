"""The operations for images: loaded or pulled, their version checked."""

import shlex

from pyinfra import host, logger, state
from pyinfra.api import FileUploadCommand, StringCommand, operation

from redoubt import host_checks, image_config
from redoubt.facts.image import Image, ImageBuild
from redoubt.facts.paths import FileText
from redoubt.facts.script import script
from redoubt.filesystem import DesiredFile
from redoubt.operations.common import OWNER, Commands, fail, note_change
from redoubt.operations.files import files
from redoubt.settings.model import Settings

# What the file says that is written after an image was asked whether it can defragment.
_ANSWER = "# Found out by asking image {0}: {1}.\nactivedefrag {1}\n"


@operation()
def load_image(reference: str, archive: str, upload_dir: str) -> Commands:
    """Load an image from an archive on this machine, unless the host has that very image already.

    Pushes the archive to a directory of the login user's in ``upload_dir`` on the host, loads it into the engine
    and removes it. (Under sudo pyinfra itself would upload to /tmp, under a name that any user can foresee.)
    """
    wanted = image_config.in_archive(archive, reference)
    there = host.get_fact(Image, reference=reference)
    if there and image_config.of_inspect(there) == wanted:
        host.noop(f"{reference} is loaded")
        return
    note_change(f"{reference}: {'another image has its name' if there else 'missing'}")
    directory = f"{upload_dir}/.incoming"
    quoted = shlex.quote(directory)
    yield StringCommand(f'rm -rf {quoted} && install -d -m 0700 -o "${{SUDO_UID:-${{DOAS_USER:-0}}}}" {quoted}')
    yield FileUploadCommand(archive, f"{directory}/image.tar", _sudo=False, _doas=False)
    # Removed once it is open: whatever ends this early leaves nothing, and takes nothing from the run after it.
    yield StringCommand(f"exec 3<{quoted}/image.tar && rm -rf {quoted} && docker load --quiet <&3")


@operation()
def pull_image(reference: str) -> Commands:
    """Pull an image, unless the host has it. A pinned reference is not pulled again."""
    if host.get_fact(Image, reference=reference):
        host.noop(f"{reference} is there")
        return
    note_change(f"{reference}: missing")
    yield StringCommand(f"docker pull --quiet {shlex.quote(reference)}")


@operation()
def check_version(settings: Settings) -> Commands:
    """Refuse an image whose server lacks security fixes, or that does not tell its version. Changes nothing.

    For an image that could not be judged by its name or its archive: while it is not on the host yet, as in a dry run,
    nothing is said.
    """
    build = host.get_fact(ImageBuild, reference=settings.redis_image)
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
    return f"redis_image = {settings.redis_image!r} does not tell its version: 'redis-server --version' fails in it"


@operation()
def detect_activedefrag(reference: str, path: str, *, required: bool) -> Commands:
    """Write the included file that turns active defragmentation on where the image's build supports it.

    Asks the image itself. The answer is kept with the image's id, and asked for anew when the file says anything
    else. Fails when defragmentation is ``required`` and the build has none: Redis would refuse to start.
    """
    there = host.get_fact(Image, reference=reference)
    usable = [_ANSWER.format(there.get("Id"), value) for value in (["yes"] if required else ["yes", "no"])]
    text = host.get_fact(FileText, path=path)
    if text in usable:
        yield from files._inner(entries=[DesiredFile(path, text)])
        return
    note_change(f"{path}: not known for this image")
    yield StringCommand(
        script(
            "detect-activedefrag.sh",
            IMAGE=reference,
            FILE=path,
            OWNER=OWNER,
            REQUIRED="yes" if required else "no",
        )
    )
