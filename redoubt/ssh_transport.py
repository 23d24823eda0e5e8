"""The SSH transport of a deploy.

It has no Nagle delay, detects dead connections, and counts commands.
"""

import socket
from collections.abc import Callable
from typing import Any

import paramiko

# SSH commands and file transfers that this process sent, to all hosts.
commands_sent = 0


# A silent host is probed after 10 s, and the connection ends 25 s after its last packet. Without this a deploy whose
# network is down hangs. By name, because not every system has each option.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}


class _Transport(paramiko.Transport):
    def open_session(self, *args: Any, **kwargs: Any) -> paramiko.Channel:
        global commands_sent  # noqa: PLW0603 - one process is one deploy
        commands_sent += 1
        return super().open_session(*args, **kwargs)


def transport(sock: socket.socket, **kwargs: Any) -> paramiko.Transport:
    """Return a paramiko transport for ``ssh_paramiko_connect_kwargs``.

    paramiko leaves Nagle's algorithm on, which delays every command by about 40 ms on a fast link. The socket of a
    proxy (ProxyJump, ProxyCommand) has no such options and is used as it is.
    """
    setsockopt: Callable[[int, int, int], None] | None = getattr(sock, "setsockopt", None)
    if setsockopt is not None:
        setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return _Transport(sock, **kwargs)
