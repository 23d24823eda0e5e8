"""The SSH transport of a deploy: without Nagle's delay, and counted."""

import socket
from collections.abc import Callable
from typing import Any

import paramiko

# SSH commands and file transfers sent by this process, over all hosts.
commands_sent = 0


class _Transport(paramiko.Transport):
    def open_session(self, *args: Any, **kwargs: Any) -> paramiko.Channel:
        global commands_sent  # noqa: PLW0603 - one process is one deploy
        commands_sent += 1
        return super().open_session(*args, **kwargs)


def transport(sock: socket.socket, **kwargs: Any) -> paramiko.Transport:
    """A paramiko transport for ``ssh_paramiko_connect_kwargs``.

    paramiko leaves Nagle's algorithm on, which costs every command about 40 ms on a fast link. A proxy's
    socket (ProxyJump, ProxyCommand) has no such option and is used as it is.
    """
    setsockopt: Callable[[int, int, int], None] | None = getattr(sock, "setsockopt", None)
    if setsockopt is not None:
        setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _Transport(sock, **kwargs)
