"""The socket of the Redis in a container, reached from the host.

Redis owns the directory of its socket, and can put there a link to a socket of another service, at any moment. So the
socket is opened first, without following a link, and then connected to: nothing can replace it in between. Before a
password is sent, the kernel says which process listens.
"""

import os
import socket
import stat
import struct
from pathlib import Path

from redisctl.core.errors import Failure
from redisctl.core.untrusted_files import UntrustedDirectory

SOCKET = "run/redis/redis.sock"


def connect(pid: int, uid: int, timeout: float | None) -> socket.socket:
    """Connect to the Redis whose container's first process is ``pid``.

    ``uid`` is that of Redis, ``timeout`` is in seconds. Raises OSError, and Failure if it is not that Redis that
    listens.
    """
    descriptor = UntrustedDirectory(Path(f"/proc/{pid}/root")).open_path(*SOCKET.split("/"))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISSOCK(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a socket"
            raise Failure(f"/{SOCKET} in the container of Redis is {kind}, which Redis does not create")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(f"/proc/self/fd/{descriptor}")
            _ensure_redis(connection, pid, uid)
        except BaseException:
            connection.close()
            raise
        return connection
    finally:
        os.close(descriptor)


def _ensure_redis(connection: socket.socket, pid: int, uid: int) -> None:
    """Raise Failure unless a process of Redis's container and uid listens."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    listener, listener_uid, _ = struct.unpack("3i", credentials)
    if listener_uid != uid or not _share_namespace(listener, pid):
        raise Failure(
            f"process {listener} of uid {listener_uid} listens on /{SOCKET} in the container of Redis, and it is not "
            "Redis: redisctl sends it no password"
        )


def _share_namespace(one: int, other: int) -> bool:
    """Say whether two processes are in the same container."""
    try:
        return os.path.samestat(os.stat(f"/proc/{one}/ns/pid"), os.stat(f"/proc/{other}/ns/pid"))
    except OSError:
        return False
