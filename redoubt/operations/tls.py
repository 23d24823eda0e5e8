"""The operations for certificates."""

from collections.abc import Callable
from datetime import UTC, datetime

from pyinfra import host, state
from pyinfra.api import FunctionCommand, operation

from redisctl.schema import CertificateRequest
from redoubt import certificate_store, redis_conf, service_drift
from redoubt.filesystem import DesiredFile
from redoubt.operations.common import Commands, RedisctlCall, instance_state, note_change
from redoubt.settings.model import Settings


@operation()
def reload_certificate(settings: Settings, acl: DesiredFile, digest: str, written: Callable[[], bool]) -> Commands:
    """Have the running Redis load the certificate with this digest.

    It needs no restart, and connections stay open. ``written`` says, during the deploy, whether its files were written:
    after a manual change, Redis may have loaded something else. No change if Redis is about to restart. Fails if Redis
    refuses it and keeps the previous one.
    """
    current = instance_state(settings, acl)
    changed = state.is_executing and written()
    reasons = service_drift.certificate_drift(settings, digest, current, written=changed)
    if not reasons or service_drift.will_be_recreated(settings, current):
        host.noop("up to date, or read at the next start")
        return
    for reason in reasons:
        note_change(reason)
    request = CertificateRequest(redis_conf.certificate(settings, digest))
    yield RedisctlCall(settings, "deploy", "certificate", request=request)


@operation()
def issue_client_certificate(settings: Settings, client: str, directory: str) -> Commands:
    """Issue a certificate for a client, unless the present one is good.

    Writes it to a directory on this machine.
    """
    reason = certificate_store.client_is_due(settings, client, directory, datetime.now(UTC))
    if not reason:
        host.noop("up to date")
        return
    note_change(f"{directory}: {reason}")
    yield FunctionCommand(certificate_store.issue_client, (settings, client, directory, datetime.now(UTC)), {})
