"""Entry point of the program, which unpacks its modules once per boot.

Python caches no bytecode of a zip archive, and compiling took three quarters of every call. In /run the modules are in
memory and only root's, and gone after a reboot: they can be neither stale nor torn by a power cut.
"""

import os
import sys

# Length of the hexadecimal digest at the end of the archive (redoubt/redisctl_bundle.py). It identifies the contents.
DIGEST = 64
# Next to an installed program. Another one runs once, from a private directory that is removed.
_CONFIG = "redisctl.json"


def module_path(program: str) -> str:
    """Return the directory with the unpacked modules of the archive.

    Returns the archive itself if it is not unpacked.
    """
    root = os.path.dirname(program)
    if not os.path.exists(os.path.join(root, _CONFIG)):
        return program
    with open(program, "rb") as file:
        file.seek(-DIGEST, os.SEEK_END)
        directory = modules_dir(root)
        target = os.path.join(directory, file.read().decode())
    if not os.path.isdir(target):
        try:
            _unpack(program, directory, target)
        except OSError:
            # Not root, or no room: slower, but no reason to fail. Or another process was faster.
            return target if os.path.isdir(target) else program
    return target


def modules_dir(root: str) -> str:
    """Return the directory for the unpacked modules of the program.

    ``root`` is the root of the instance.
    """
    return f"/run/redoubt-{root.strip('/').replace('/', '-')}.modules"


def _unpack(program: str, directory: str, target: str) -> None:
    """Unpack the archive, one process at a time.

    Raises OSError, also while another process unpacks it.
    """
    # Imported here: importing them takes longer than everything else.
    import fcntl
    import shutil
    import zipfile

    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    partial = f"{target}.new"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Of another release, or of a call that was killed here.
        for name in os.listdir(directory):
            if name != os.path.basename(target):
                shutil.rmtree(os.path.join(directory, name))
        try:
            os.mkdir(partial, mode=0o700)
            with zipfile.ZipFile(program) as archive:
                archive.extractall(partial)
            os.rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(descriptor)


def run(program: str) -> None:
    """Run the program.

    Reports Ctrl-C even while its modules are unpacked and imported.
    """
    try:
        sys.path.insert(0, module_path(program))
        from redisctl.cli.main import main

        main()
    except KeyboardInterrupt:
        sys.stderr.write("redisctl: cancelled\n")
        sys.exit(3)


if __name__ == "__main__":
    # Python puts the archive first in the path.
    run(os.path.realpath(sys.path[0]))
