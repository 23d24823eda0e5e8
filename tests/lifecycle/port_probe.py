"""What answers at an address and port, as seen from a host."""

import shlex

from sandbox.hosts import Host

# Sends a command without a login: only Redis itself answers "-NOAUTH", a proxy does not. All addresses at once, because
# one that does not answer takes 2 s.
_PROBE = """
import socket, sys, threading
def probe(route):
    address, port, *source = route.split()
    answer = "closed"
    try:
        bind = (source[0], 0) if source else None
        with socket.create_connection((address, int(port)), timeout=2, source_address=bind) as connection:
            connection.sendall(b"PING\\r\\n")
            answer = "redis" if connection.recv(64).startswith(b"-NOAUTH") else "other"
    except OSError:
        pass
    print(f"{route}={answer}\\n", end="")
for route in sys.argv[1:]:
    threading.Thread(target=probe, args=[route]).start()
"""


def answers(at: Host, *routes: str, within: str = "") -> dict[str, str]:
    """Return what answers at each route: redis, other or closed.

    A route is an address, a port and optionally a source. `within` is a command that runs the command in its arguments,
    such as `ip netns exec <name>`.
    """
    lines = at.run(f"{within} python3 - {shlex.join(routes)}", input=_PROBE, check=True).stdout.splitlines()
    return dict(line.split("=") for line in lines)
