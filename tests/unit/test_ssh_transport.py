"""The SSH transport: the socket options of a deploy, over TCP and over a proxy."""

import socket

from redoubt import ssh_transport


def test_socket_has_keepalive_and_no_nagle_delay() -> None:
    with socket.socket() as sock:
        ssh_transport.transport(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        silence = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        probes = [sock.getsockopt(socket.IPPROTO_TCP, option) for option in (socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)]
        assert silence + probes[0] * probes[1] <= 30


def test_proxy_socket_is_used_unchanged() -> None:
    class Proxy:
        def settimeout(self, seconds: float) -> None:
            pass

    ssh_transport.transport(Proxy())  # type: ignore[arg-type]
