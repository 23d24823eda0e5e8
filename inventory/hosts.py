"""The disposable hosts that are running on this machine ('make deploy' starts one, 'make clean' removes all).

By kind: 'pyinfra inventory deploy.py --limit vms' deploys to virtual machines alone. Your own hosts belong in
production.py beside this file.
"""

from sandbox import hosts
from sandbox.util import STATE

# The lifecycle tests break and mend hosts of their own.
_running = hosts.without_stopped(host for host in hosts.load() if not host.name.startswith("lifecycle-"))


def _of_kind(kind: str) -> list[tuple[str, dict[str, str | int | bool]]]:
    return [
        # Their passwords go when they go.
        (host.name, {**host.deploy_data(), "redis_secrets_dir": str(STATE / "secrets")})
        for host in _running
        if host.kind == kind
    ]


containers = _of_kind("container")
vms = _of_kind("vm")
