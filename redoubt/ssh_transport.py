"""The SSH transport of a deploy: without Nagle's delay, not waiting for the dead, and counted."""

import socket
from collections.abc import Callable
from typing import Any

import paramiko

# SSH commands and file transfers sent by this process, over all hosts.
commands_sent = 0


# A host that is silent for 10 s is asked whether it lives; 25 s after its last word the deploy ends. Without this
# a deploy whose network is gone waits for as long as the operator does. By name: not every system has each of them.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}


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
        setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return _Transport(sock, **kwargs)
