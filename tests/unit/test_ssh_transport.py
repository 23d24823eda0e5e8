"""The SSH transport: what the socket of a deploy is told, over TCP and over a proxy's pipe."""

import socket

from redoubt import ssh_transport


def test_a_host_that_vanished_is_noticed_and_commands_are_sent_at_once() -> None:
    with socket.socket() as sock:
        ssh_transport.transport(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        silence = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        probes = [sock.getsockopt(socket.IPPROTO_TCP, option) for option in (socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)]
        assert silence + probes[0] * probes[1] <= 30


def test_a_proxy_s_socket_has_no_such_options_and_is_used_as_it_is() -> None:
    class Proxy:
        def settimeout(self, seconds: float) -> None:
            pass

    ssh_transport.transport(Proxy())  # type: ignore[arg-type]
