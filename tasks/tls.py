"""TLS: the certificate of Redis, loaded without a restart."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.api.exceptions import PyinfraError

from redoubt import certificatestore, operations, render
from redoubt.instance import Instance


@deploy("TLS")
def tls(instance: Instance) -> None:
    """Write the certificate and have a running Redis load it; nothing without TLS.

    What a start and the health check read comes after, so that one that Redis refuses is nowhere but in its files. And
    before redis.conf, which includes it: at no moment does that lead nowhere.
    """
    settings, identity = instance.settings, instance.identity
    if identity is None:
        return
    written = operations.tree(name="Write the certificate", entries=render.certificate_files(settings, identity))
    operations.certificate_loaded(
        name="Have the running Redis load its certificate",
        settings=settings,
        acl=instance.acl,
        digest=identity.digest,
        written=written.did_change,
    )
    operations.tree(
        name="Keep it for the next start, and its CA for clients", entries=render.certificate_named(settings, identity)
    )


@deploy("Former certificates")
def former_certificates(instance: Instance) -> None:
    """Remove certificates that nothing names any more, with their keys; mostly nothing."""
    former = render.former_certificates(instance.settings, instance.identity, instance.facts.certificates)
    if former:
        operations.tree(name="Remove former certificates", entries=former)


@deploy("Client certificate")
def client_certificate(instance: Instance) -> None:
    """Issue a certificate for a client, into a directory on this machine; a day-2 verb, in day2/.

    ``certificate_for`` in the host's data is its name, ``certificate_to`` the directory.
    """
    name, directory = host.data.get("certificate_for"), host.data.get("certificate_to")
    try:
        certificatestore.check_client(instance.settings, name, directory)
    except ValueError as error:
        raise PyinfraError(f"nothing was changed; {host.name}: {error}") from error
    operations.client_certificate_issued(
        name=f"Issue a certificate for {name}", settings=instance.settings, client=str(name), directory=str(directory)
    )
