"""The disposable hosts that run on this machine.

'make deploy' starts one, 'make clean' removes all. They are grouped by kind: 'pyinfra inventory deploy.py --limit vms'
deploys only to virtual machines. Put your own hosts into production.py next to this file.
"""

from sandbox import hosts
from sandbox.util import STATE

# The lifecycle tests use hosts of their own, which they break and repair.
_running = hosts.without_stopped(host for host in hosts.load() if not host.name.startswith("lifecycle-"))


def _of_kind(kind: str) -> list[tuple[str, dict[str, str | int | bool]]]:
    return [
        # 'make clean' removes their passwords together with the hosts.
        (host.name, {**host.deploy_data(), "redis_secrets_dir": str(STATE / "secrets")})
        for host in _running
        if host.kind == kind
    ]


containers = _of_kind("container")
vms = _of_kind("vm")
