"""Operations: each compares one part of a host with what is wanted and mends the difference.

All are no-ops when nothing differs, and say why they change what they change.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pyinfra import host
from pyinfra.api import StringCommand, operation

from redoubt import compose, redis_conf, service_drift
from redoubt.filesystem import DesiredFile
from redoubt.operations.common import (
    OWNER,
    Commands,
    fail,
    instance_script,
    note_change,
    service_state,
    with_instance_lock,
)
from redoubt.settings.model import Settings, changed_settings


@operation()
def switch_persistence(settings: Settings, to: Literal["log", "dump"]) -> Commands:
    """Have the running Redis start its log of writes, or see to it that its stop writes a snapshot.

    What a configuration does not read is not there for it: turned on over a snapshot, the log starts empty.
    """
    note_change(
        "turns the log of writes on, and waits until all data is in it" if to == "log" else "turns snapshots on"
    )
    yield StringCommand(
        instance_script(
            settings,
            "hand-over-data.sh",
            TO=to,
            SAVE=settings.redis_save,
            WAIT=str(settings.stop_grace_period),
        )
    )


@operation()
def apply_live_changes(settings: Settings, acl: DesiredFile, deployed: Mapping[str, Any]) -> Commands:
    """Change the running Redis and the limits of its container to what the settings say; connections stay open.

    Nothing where it is about to start anew. ``deployed`` are the settings of the last deploy, to say which differ.
    Fails when Redis or the engine refuses: Redis takes all or nothing.
    """
    current = service_state(settings, acl)
    change = service_drift.live_change(settings, current)
    if not change:
        host.noop("as wanted, or read at the start to come")
        return
    for why in (*changed_settings(settings, deployed, "live"), *change.reasons):
        note_change(why)
    yield StringCommand(
        instance_script(
            settings,
            "change-live.sh",
            CONFIG_SET="\n".join(redis_conf.set_commands(settings, dict(change.config))),
            UPDATE=service_drift.update_options(settings) if change.limits else "",
            GROWS="yes" if change.raises_limits else "",
            MEMORY=str(settings.memory_limit),
            OVERLAY=compose.override_file(settings, change.created_with),
            MADE_WITH=compose.COMPOSE_OVERRIDE,
        )
    )


@operation()
def compose_up(settings: Settings, acl: DesiredFile, deployed: Mapping[str, Any]) -> Commands:
    """Bring the Compose project up, wait until it is healthy, and replace what runs from older files.

    Does nothing when what runs is what the settings say. Tries the configuration first, beside what runs. When Redis
    does not become healthy the operation fails and shows the containers and the last lines of their logs. Where that is
    another version, the former one comes back with its files and its data, and what the new one wrote is kept aside.
    Broken off by a reboot, it is gone on with at boot, by a unit that is there only meanwhile.
    ``deployed`` are the settings of the last deploy, to say for which of them Redis starts anew.
    """
    current = service_state(settings, acl)
    drift = service_drift.drift(settings, current)
    if not drift:
        host.noop("healthy, and made from these files")
        return
    if service_drift.will_restart(settings, current):
        for why in changed_settings(settings, deployed, "restart") or ["what follows"]:
            note_change(f"{settings.redis_name} starts anew for {why}")
    for reason in drift.reasons:
        note_change(reason)
    if drift.data_lost:
        yield from fail(
            f"{settings.redis_name} runs on a directory that is no longer {settings.root}/data: what it holds may be "
            "in memory alone, and a restart would lose it. Nothing was restarted. Put the directory back, or save the "
            f"data through a client; then run docker stop {settings.redis_name} on the host and deploy again"
        )
        return
    if drift.foreign_containers:
        yield from fail(
            f"{' and '.join(drift.networks)} must be made anew, and containers of others are on it: "
            f"{', '.join(drift.foreign_containers)}. Nothing was restarted. Stop them, or take them off by docker "
            "network disconnect; then deploy again, and start them"
        )
        return
    recover = settings.redis_health_interval + settings.redis_health_timeout
    wait = service_drift.wait_timeout(settings)
    script = instance_script(
        settings,
        "compose-up.sh",
        WAIT=str(wait),
        REPLACE=" ".join(drift.replace),
        PAUSED=" ".join(drift.paused),
        RECOVER=str(recover) if drift.stale else "",
        NETWORKS=" ".join(drift.networks),
        MADE_WITH=compose.COMPOSE_OVERRIDE,
        IMAGE=settings.redis_image,
        OWNER=OWNER,
    )
    units = "/etc/systemd/system"
    yield StringCommand(
        with_instance_lock(
            settings,
            "run-through.sh",
            SCRIPT=service_drift.start_script(settings),
            UNIT=f"{units}/{service_drift.unit(settings)}",
            TEXT=service_drift.start_unit(settings),
            WANTED=f"{units}/multi-user.target.wants/{service_drift.unit(settings)}",
        ),
        _stdin=f"{instance_script(settings, 'way-back.sh')}\n{script}",
    )
