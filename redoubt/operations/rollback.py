"""The operation that saves Redis's configuration before a deploy replaces it."""

from pyinfra import host
from pyinfra.api import operation

from redisctl.schema import ReplaceRequest
from redoubt import host_state, service_drift
from redoubt.filesystem import DesiredFile
from redoubt.host_state import Changes
from redoubt.operations.common import Commands, RedisctlCall, fail, instance_state, note_change
from redoubt.settings.model import Settings


@operation()
def save_configuration(settings: Settings, acl: DesiredFile) -> Commands:
    """Save the configuration of the running Redis, if the deploy restarts it.

    Until Redis starts with the new files, an interruption or an error puts the saved ones back: at once by systemd,
    after a power cut before Docker starts. No change if Redis does not serve: it has nothing to go back to. Fails if
    Redis must not be restarted.
    """
    current = instance_state(settings, acl)
    if not service_drift.serves(settings, current) or not service_drift.will_be_recreated(settings, current):
        host.noop("Redis is not about to restart")
        return
    # Before the first file is replaced, and before the journal is written where the data should be.
    if blocker := service_drift.blocker(settings, service_drift.drift(settings, current)):
        yield from fail(blocker)
        return
    note_change(
        f"{settings.redis_name} restarts: its configuration comes back if the deploy is interrupted before that",
        Changes.NOTHING,
    )
    yield RedisctlCall(settings, "deploy", "replace-files", request=ReplaceRequest(run=host_state.of(host).run))
