"""The disposable hosts that are running on this machine ('make deploy' starts one, 'make clean' removes all).

Your own hosts belong in production.py beside this file.
"""

from sandbox import hosts as _sandbox
from sandbox.common import STATE as _STATE

disposable = [
    (
        host.name,
        {
            **host.deploy_data(),
            # Their passwords go when they go.
            "redis_secrets_dir": str(_STATE / "secrets"),
        },
    )
    for host in _sandbox.load()
    # The lifecycle tests break and mend hosts of their own.
    if not host.name.startswith("lifecycle-")
]
