"""Who answers at an address and port, as a host reaches it."""

import shlex

from sandbox.hosts import Host

# Asks for a login over a plain connection: "-NOAUTH" is Redis's own voice, and not that of a forgotten proxy. At all
# doors at once: one that does not answer takes its time.
_KNOCK = """
import socket, sys, threading
def knock(way):
    address, port, *source = way.split()
    said = "closed"
    try:
        own = (source[0], 0) if source else None
        with socket.create_connection((address, int(port)), timeout=2, source_address=own) as connection:
            connection.sendall(b"PING\\r\\n")
            said = "redis" if connection.recv(64).startswith(b"-NOAUTH") else "other"
    except OSError:
        pass
    print(f"{way}={said}\\n", end="")
for way in sys.argv[1:]:
    threading.Thread(target=knock, args=[way]).start()
"""


def answers(at: Host, *ways: str, within: str = "") -> dict[str, str]:
    """Who answers on each way, an address and a port, or these and the source: redis, other or closed.

    `within` is a command that starts another in its own arguments, such as `ip netns exec <name>`.
    """
    lines = at.run(f"{within} python3 - {shlex.join(ways)}", input=_KNOCK, check=True).stdout.splitlines()
    return dict(line.split("=") for line in lines)
