"""The operations that change Redis live or start its Compose project."""

from collections.abc import Mapping
from typing import Any

from pyinfra import host
from pyinfra.api import operation

from redisctl.schema import LiveConfigRequest, StartRequest
from redoubt import compose, redis_conf, service_drift
from redoubt.container_limits import ContainerLimits
from redoubt.filesystem import DesiredFile
from redoubt.host_state import Changes
from redoubt.operations.common import Commands, RedisctlCall, fail, instance_state, note_change
from redoubt.settings.changes import changed_settings
from redoubt.settings.model import Settings


@operation()
def apply_live_changes(settings: Settings, acl: DesiredFile, deployed: Mapping[str, Any]) -> Commands:
    """Apply the settings to the running Redis and its container's limits.

    Connections stay open. No change if Redis is about to restart. ``deployed`` are the settings of the last deploy, to
    report which differ. Fails if Redis or Docker refuses: Redis takes all or nothing.
    """
    change = service_drift.live_change(settings, instance_state(settings, acl))
    if not change:
        host.noop("up to date, or read at the next start")
        return
    for reason in (*changed_settings(settings, deployed, "live"), *change.reasons):
        note_change(reason, Changes.ALL_BUT_UNITS)
    limits = ContainerLimits.of(settings)
    request = LiveConfigRequest(
        config=tuple(redis_conf.set_commands(settings, dict(change.config))),
        limits=limits.update_options() if change.limits else (),
        raise_limits_first=change.raises_limits,
        memory=limits.memory,
        override=compose.override_file(settings, change.created_with),
    )
    yield RedisctlCall(settings, "deploy", "live-config", request=request)


@operation()
def start_service(settings: Settings, acl: DesiredFile, deployed: Mapping[str, Any]) -> Commands:
    """Bring the Compose project up and wait until it is healthy.

    Replaces what runs from older files. No change if what runs is up to date. Tries the configuration first, next to
    the running Redis. If Redis does not become healthy, the operation fails and shows the containers and the last lines
    of their logs; an upgrade is rolled back to the previous version, its files and its data. An interruption is
    finished at boot or by systemd. ``deployed`` are the settings of the last deploy, to report which of them restart
    Redis.
    """
    current = instance_state(settings, acl)
    drift = service_drift.drift(settings, current)
    if not drift:
        host.noop("healthy and up to date")
        return
    if service_drift.will_restart(settings, current):
        for reason in changed_settings(settings, deployed, "restart") or ["what follows"]:
            note_change(f"{settings.redis_name} restarts because of {reason}", Changes.ALL_BUT_UNITS)
    for reason in drift.reasons:
        note_change(reason, Changes.ALL_BUT_UNITS)
    if blocker := service_drift.blocker(settings, drift):
        yield from fail(blocker)
        return
    request = StartRequest(
        image=settings.redis_image,
        owner=settings.owner,
        timeout=settings.start_timeout,
        restart=settings.redis_restart,
        recreate=drift.replace,
        paused=drift.paused,
        recovery_seconds=settings.redis_health_interval + settings.redis_health_timeout if drift.stale else 0,
        recreate_networks=bool(drift.networks),
    )
    yield RedisctlCall(settings, "deploy", "start-service", request=request)
