"""Where redisctl's file begins: it has its modules unpacked, since Python keeps nothing that it compiles of an archive.

That was three quarters of the time of every call. In /run they are in memory, only root's, and made anew after a
reboot: nothing of them can be torn by a power cut, stale, or left behind.
"""

import os
import sys

# At the end of the archive, hexadecimal: what all of it is made of (redoubt/redisctl_bundle.py).
DIGEST = 64


def unpacked(program: str) -> str:
    """The directory that has the modules of the archive; the archive itself where nothing can be unpacked."""
    with open(program, "rb") as file:
        file.seek(-DIGEST, os.SEEK_END)
        kept = modules_dir(os.path.dirname(program))
        place = os.path.join(kept, file.read().decode())
    if not os.path.isdir(place):
        try:
            _unpack(program, kept, place)
        except OSError:
            # Somebody who is not root, or no room: slower, and no reason to fail. Or another one was quicker.
            return place if os.path.isdir(place) else program
    return place


def modules_dir(root: str) -> str:
    """The directory for what is unpacked of the program below an instance's root."""
    return f"/run/redoubt-{root.strip('/').replace('/', '-')}.modules"


def _unpack(program: str, kept: str, place: str) -> None:
    """Raises OSError, also where another one is at it."""
    # Only here: to import them takes longer than all the rest.
    import fcntl
    import shutil
    import zipfile

    os.makedirs(kept, mode=0o700, exist_ok=True)
    held = os.open(kept, os.O_RDONLY)
    made = f"{place}.new"
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Of another release, or of a call that was killed here.
        for name in os.listdir(kept):
            if name != os.path.basename(place):
                shutil.rmtree(os.path.join(kept, name))
        try:
            os.mkdir(made, mode=0o700)
            with zipfile.ZipFile(program) as archive:
                archive.extractall(made)
            os.rename(made, place)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    finally:
        os.close(held)


if __name__ == "__main__":
    # The first place is the archive, by Python's own word.
    sys.path.insert(0, unpacked(os.path.realpath(sys.path[0])))
    from redisctl.cli.main import main

    main()
