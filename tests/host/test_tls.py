"""TLS: connections from other hosts are encrypted.

Clients can verify the server.
"""

import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from redoubt import certificates
from redoubt.certificates import RENEWAL, Identity
from redoubt.settings.model import Settings
from tests.host.host_under_test import REDIS_TIMEOUT, Target

pytestmark = pytest.mark.security("TLS")

# Certificates expire if no deploy renews them in this time.
MIN_VALIDITY = timedelta(days=14)


@pytest.fixture(scope="module")
def tls_address(target: Target, settings: Settings) -> tuple[str, int]:
    """Return the address and port of this machine that lead to the TLS port."""
    (port,) = [port for port in settings.ports if port.tls]
    address, number = target.reached(port)
    if target.entry.is_local:
        return address, number
    bracketed = f"[{address}]" if ":" in address else address
    return "127.0.0.1", target.forwarded_port(f"{bracketed}:{number}")


@pytest.fixture(scope="module")
def identity(target: Target) -> Identity:
    """Return the certificate of the settings."""
    assert target.identity is not None
    return target.identity


@pytest.fixture(scope="module")
def names(target: Target, identity: Identity) -> list[str]:
    """Return the names that clients use and that the certificate must have."""
    is_issued = target.settings.redis_tls_source == "ca"
    names = certificates.names(target.settings, target.entry.name) if is_issued else target.settings.redis_tls_names
    return [name.replace("*", "any") for name in names or sorted(identity.names)[:1]]


def client(target: Target, ca: str) -> ssl.SSLContext:
    """Return an SSL context that trusts a CA.

    It has a client certificate if the settings require one.
    """
    context = ssl.create_default_context(cadata=ca)
    if certificate := target.tls.get("ssl_certfile"):
        context.load_cert_chain(certificate, target.tls["ssl_keyfile"])
    return context


def greeting(tls_address: tuple[str, int], client: ssl.SSLContext, name: str) -> tuple[str, bytes]:
    """Connect and wait for Redis to answer.

    Returns the version of TLS and the server's certificate.
    """
    with (
        socket.create_connection(tls_address, timeout=REDIS_TIMEOUT) as plain,
        client.wrap_socket(plain, server_hostname=name) as secured,
    ):
        secured.sendall(b"PING\r\n")
        answer = secured.recv(64)
        assert answer.startswith((b"-", b"+")), answer
        return str(secured.version()), secured.getpeercert(binary_form=True) or b""


def test_other_hosts_reach_only_the_tls_port(target: Target, settings: Settings) -> None:
    """A port without TLS is published on the loopback addresses only."""
    assert (target.config().get("tls-port", "0") == "0") == (settings.redis_tls == "off")
    plain = [port for port in settings.ports if not port.tls]
    outside_addresses = [address for address in settings.redis_bind if not ipaddress.ip_address(address).is_loopback]
    if plain and outside_addresses:
        # The settings allow it, so it is no failure. But it is not encrypted: a skip makes the report say "not proven".
        pytest.skip(
            f"redis_bind publishes a port without TLS at {', '.join(outside_addresses)}: redis_tls is not 'required'"
        )


@pytest.mark.tls
def test_server_has_the_configured_certificate(
    target: Target, identity: Identity, tls_address: tuple[str, int], names: list[str]
) -> None:
    """A client that checks the CA, the validity and each name accepts it."""
    for name in names:
        version, certificate = greeting(tls_address, client(target, identity.ca), name)
        assert version in ("TLSv1.2", "TLSv1.3")
        assert ssl.DER_cert_to_PEM_cert(certificate).strip() in identity.certificate


@pytest.mark.tls
def test_other_names_and_cas_are_refused(target: Target, identity: Identity, tls_address: tuple[str, int]) -> None:
    """The clients of these tests do check the name and the CA."""
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)hostname mismatch"):
        greeting(tls_address, client(target, identity.ca), "another.invalid")
    other_ca = certificates.new_authority(datetime.now(UTC)).certificate
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)issuer|self.signed"):
        greeting(tls_address, client(target, other_ca), "localhost")


@pytest.mark.tls
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_tls_versions_are_refused(
    target: Target, identity: Identity, tls_address: tuple[str, int], version: str
) -> None:
    """The server refuses a client that speaks only the old version."""
    old_client = client(target, identity.ca)
    old_client.minimum_version = old_client.maximum_version = ssl.TLSVersion[version]
    old_client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.protocol.version"):
        greeting(tls_address, old_client, "localhost")


@pytest.mark.tls
def test_tls_port_does_not_answer_without_tls(tls_address: tuple[str, int]) -> None:
    """Redis sends no answer, not even an error."""
    with socket.create_connection(tls_address, timeout=REDIS_TIMEOUT) as plain:
        plain.sendall(b"PING\r\n")
        try:
            answer = plain.recv(64)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith((b"-", b"+"))


@pytest.mark.tls
def test_client_certificate_is_required_if_configured(
    target: Target, identity: Identity, tls_address: tuple[str, int], names: list[str]
) -> None:
    """A client without a certificate is refused exactly if the settings require one."""
    requirement = target.settings.redis_tls_auth_clients
    assert target.config()["tls-auth-clients"] == requirement
    without_certificate = ssl.create_default_context(cadata=identity.ca)
    if requirement == "yes":
        # With TLS 1.3 the refusal comes after the client's part of the handshake.
        with pytest.raises((ssl.SSLError, ConnectionResetError), match=r"(?i)certificate.required|handshake|reset"):
            greeting(tls_address, without_certificate, names[0])
    else:
        greeting(tls_address, without_certificate, names[0])


@pytest.mark.tls
def test_certificate_is_valid_long_enough(target: Target, identity: Identity) -> None:
    """The certificate is valid for long enough to be renewed in time.

    A deploy renews an issued certificate in the last third of its life; the operator renews a given one.
    """
    remaining = identity.expires - datetime.now(UTC)
    if target.settings.redis_tls_source == "ca":
        # A short-lived certificate is renewed in its last third, too.
        assert remaining > min(MIN_VALIDITY, RENEWAL / 2 * timedelta(days=target.settings.redis_tls_days))
    else:
        assert remaining > MIN_VALIDITY
