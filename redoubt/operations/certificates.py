"""The operations for certificates."""

from collections.abc import Callable
from datetime import UTC, datetime

from pyinfra import host, state
from pyinfra.api import FunctionCommand, StringCommand, operation

from redoubt import certificate_store, redis_conf, service_drift
from redoubt.filesystem import DesiredFile
from redoubt.operations.common import Commands, instance_script, note_change, service_state
from redoubt.settings.model import Settings


@operation()
def reload_certificate(settings: Settings, acl: DesiredFile, digest: str, written: Callable[[], bool]) -> Commands:
    """Have the running Redis load the certificate of this digest, without a restart; connections stay open.

    ``written`` tells, once the deploy is under way, whether its files were: whoever changed them by hand may have had
    Redis load what they made of them. Nothing where it is about to start anew and reads it by itself. Fails when Redis
    refuses it, and keeps the former.
    """
    current = service_state(settings, acl)
    anew = state.is_executing and written()
    reasons = service_drift.certificate_drift(settings, digest, current, written=anew)
    if not reasons or service_drift.will_be_recreated(settings, current):
        host.noop("as wanted, or read at the start to come")
        return
    for reason in reasons:
        note_change(reason)
    directives = " ".join(f'{name} "{value}"' for name, value in redis_conf.certificate(settings, digest).items())
    yield StringCommand(instance_script(settings, "load-certificate.sh", DIRECTIVES=directives))


@operation()
def issue_client_certificate(settings: Settings, client: str, directory: str) -> Commands:
    """Issue a certificate for a client, into a directory on this machine; nothing while the one there is good."""
    why = certificate_store.client_is_due(settings, client, directory, datetime.now(UTC))
    if not why:
        host.noop("as wanted")
        return
    note_change(f"{directory}: {why}")
    yield FunctionCommand(certificate_store.issue_client, (settings, client, directory, datetime.now(UTC)), {})
