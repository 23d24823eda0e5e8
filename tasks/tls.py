"""TLS: the certificate of Redis, loaded without a restart."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.exceptions import PyinfraError

from redoubt import certificate_store, host_files
from redoubt.instance import Instance
from redoubt.operations.files import files
from redoubt.operations.tls import issue_client_certificate, reload_certificate


@deploy("TLS")
def tls(instance: Instance) -> None:
    """Write the certificate and have the running Redis load it.

    Does nothing without TLS. tls.conf, which the next start and the health check read, comes last: it must not name a
    certificate that Redis refused. It comes before redis.conf, which includes it.
    """
    settings, identity = instance.settings, instance.identity
    if identity is None:
        return
    certificate = files(name="Write the certificate", entries=host_files.certificate_files(settings, identity))
    reload_certificate(
        name="Load the certificate into the running Redis",
        settings=settings,
        acl=instance.acl,
        digest=identity.digest,
        written=certificate.did_change,
    )
    files(
        name="Write tls.conf and the CA for clients",
        entries=host_files.certificate_config(settings, identity),
    )


@deploy("Previous certificates")
def previous_certificates(instance: Instance) -> None:
    """Remove certificates that nothing uses any more, with their keys."""
    previous = host_files.previous_certificates(
        instance.settings, instance.identity, instance.facts.instance.certificates
    )
    if previous:
        files(name="Remove previous certificates", entries=previous)


@deploy("Client certificate")
def client_certificate(instance: Instance) -> None:
    """Issue a client's certificate into a directory on this machine.

    This is a day-2 verb, in day2/. ``redis_certificate_for`` in the host's data is the client's name,
    ``redis_certificate_to`` the directory.
    """
    name, directory = host.data.get("redis_certificate_for"), host.data.get("redis_certificate_to")
    try:
        certificate_store.check_client(instance.settings, name, directory)
    except ValueError as error:
        raise PyinfraError(f"Nothing was changed. {host.name}: {error}") from error
    issue_client_certificate(
        name=f"Issue a certificate for {name}", settings=instance.settings, client=str(name), directory=str(directory)
    )
