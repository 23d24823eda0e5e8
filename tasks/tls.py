"""TLS: the certificate of Redis, loaded without a restart."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.exceptions import PyinfraError

from redoubt import certificate_store, host_files
from redoubt.instance import Instance
from redoubt.operations.certificates import issue_client_certificate, reload_certificate
from redoubt.operations.files import files


@deploy("TLS")
def tls(instance: Instance) -> None:
    """Write the certificate and have a running Redis load it; nothing without TLS.

    What a start and the health check read comes after, so that one that Redis refuses is nowhere but in its files. And
    before redis.conf, which includes it: at no moment does that lead nowhere.
    """
    settings, identity = instance.settings, instance.identity
    if identity is None:
        return
    written = files(name="Write the certificate", entries=host_files.certificate_files(settings, identity))
    reload_certificate(
        name="Have the running Redis load its certificate",
        settings=settings,
        acl=instance.acl,
        digest=identity.digest,
        written=written.did_change,
    )
    files(
        name="Keep it for the next start, and its CA for clients",
        entries=host_files.certificate_config(settings, identity),
    )


@deploy("Former certificates")
def previous_certificates(instance: Instance) -> None:
    """Remove certificates that nothing names any more, with their keys; mostly nothing."""
    former = host_files.previous_certificates(
        instance.settings, instance.identity, instance.facts.instance.certificates
    )
    if former:
        files(name="Remove former certificates", entries=former)


@deploy("Client certificate")
def client_certificate(instance: Instance) -> None:
    """Issue a certificate for a client, into a directory on this machine; a day-2 verb, in day2/.

    ``redis_certificate_for`` in the host's data is its name, ``redis_certificate_to`` the directory.
    """
    name, directory = host.data.get("redis_certificate_for"), host.data.get("redis_certificate_to")
    try:
        certificate_store.check_client(instance.settings, name, directory)
    except ValueError as error:
        raise PyinfraError(f"nothing was changed; {host.name}: {error}") from error
    issue_client_certificate(
        name=f"Issue a certificate for {name}", settings=instance.settings, client=str(name), directory=str(directory)
    )
