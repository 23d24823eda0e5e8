"""TLS: connections from other hosts are encrypted.

Clients can verify the server.
"""

import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from redoubt import certificates, redis_conf
from redoubt.certificates import RENEWAL, Identity
from redoubt.settings.model import Settings
from tests.host.host_under_test import REDIS_TIMEOUT, Target, by_redis, listed, quoted

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
def redis_cli(target: Target, settings: Settings) -> Callable[..., str]:
    """Return a function that calls redis-cli with TLS in the container.

    It returns what redis-cli prints.
    """
    (port,) = [port for port in settings.ports if port.tls]

    def call(*options: str) -> str:
        config = target.config()
        files = {"--cacert": config["tls-ca-cert-file"]}
        if settings.has_tls_client_certificate:
            files |= {"--cert": config["tls-client-cert-file"], "--key": config["tls-client-key-file"]}
        arguments = [word for pair in files.items() for word in pair]
        inside = quoted("redis-cli", "--tls", "-p", str(port.inside), *arguments, *options, "PING")
        result = target.run(f"docker exec {quoted(settings.redis_name)} {inside}")
        return result.stdout + result.stderr

    return call


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


def test_other_hosts_reach_only_the_tls_port(target: Target, settings: Settings, container: dict[str, Any]) -> None:
    """With redis_tls = 'required' every published port is the TLS port.

    Otherwise, ports without TLS are published where redis_bind says. The report then says that the control is off.
    """
    config = target.config()
    assert (config.get("tls-port", "0") == "0") == (settings.redis_tls == "off")
    assert (config["port"] == "0") == (settings.redis_tls == "required")
    published = {inside: entries for inside, entries in container["NetworkSettings"]["Ports"].items() if entries}
    plain = {entry["HostIp"] for entry in published.pop(f"{config['port']}/tcp", [])}
    assert plain == (set() if settings.redis_tls == "required" else set(settings.redis_bind))
    assert set(published) <= {f"{config.get('tls-port')}/tcp"}


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


def tls12_client(target: Target, ca: str, *suites: str) -> ssl.SSLContext:
    """Return a client of TLS 1.2 that offers these suites alone, however weak."""
    old_client = client(target, ca)
    old_client.maximum_version = ssl.TLSVersion.TLSv1_2
    old_client.set_ciphers(":".join((*suites, "@SECLEVEL=0")))
    return old_client


@pytest.mark.tls
def test_each_cipher_of_tls_1_2_is_accepted(
    target: Target, identity: Identity, tls_address: tuple[str, int], names: list[str]
) -> None:
    """A client that offers one suite alone gets it.

    All of them are GCM or CHACHA20 with forward secrecy.
    """
    is_rsa = isinstance(identity.chain[0].public_key(), rsa.RSAPublicKey)
    suites = [suite for suite in redis_conf.TLS_CIPHERS if ("-RSA-" in suite) == is_rsa]
    assert len(suites) == 3
    assert all("GCM" in suite or "CHACHA20" in suite for suite in suites)
    for suite in suites:
        assert greeting(tls_address, tls12_client(target, identity.ca, suite), names[0])[0] == "TLSv1.2"


@pytest.mark.tls
def test_all_other_ciphers_of_tls_1_2_are_refused(
    target: Target, identity: Identity, tls_address: tuple[str, int], names: list[str]
) -> None:
    """A client that offers everything else that OpenSSL knows is refused.

    That includes all suites with CBC.
    """
    known = tls12_client(target, identity.ca, "ALL", "COMPLEMENTOFALL").get_ciphers()
    others = {suite["name"] for suite in known if suite["protocol"] != "TLSv1.3"} - set(redis_conf.TLS_CIPHERS)
    assert {"ECDHE-ECDSA-AES256-SHA384", "ECDHE-RSA-AES128-SHA256", "AES128-GCM-SHA256"} <= others
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.handshake.failure"):
        greeting(tls_address, tls12_client(target, identity.ca, *others), names[0])


@pytest.mark.tls
def test_ciphers_of_tls_1_3_are_those_configured(redis_cli: Callable[..., str]) -> None:
    """Redis answers a client with one of the suites, and refuses another suite."""
    answers = {suite: redis_cli("--tls-ciphersuites", suite).strip() for suite in redis_conf.TLS_CIPHERSUITES}
    assert set(answers.values()) == {"NOAUTH Authentication required."}, answers
    assert "SSL_connect failed" in redis_cli("--tls-ciphersuites", "TLS_AES_128_CCM_SHA256")


@pytest.mark.tls
@pytest.mark.issued
def test_certificates_are_for_one_purpose(
    target: Target, identity: Identity, tls_address: tuple[str, int], names: list[str]
) -> None:
    """The server's is not valid for a client, and the client's not for a server."""
    served = x509.load_der_x509_certificate(greeting(tls_address, client(target, identity.ca), names[0])[1])
    config = target.config()
    path = config["tls-client-cert-file"].replace(redis_conf.CONFIG_DIR, "config")
    # Redis names the file.
    read = by_redis(target.settings, f"head -c 65536 {quoted(path)}")
    own = x509.load_pem_x509_certificate(target.host.check_output(read).encode())
    usages = [list(each.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) for each in (served, own)]
    assert usages == [[ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH]]


@pytest.mark.tls
def test_private_keys_are_readable_by_redis_and_root(target: Target, settings: Settings) -> None:
    """Only Redis and root can read a private key.

    There is none below the instance's root but the two that Redis has loaded.
    """
    find = f"find {quoted(settings.root)} -xdev -type f -name '*.key' -printf '%U:%G %m %p\\0'"
    owners = {entry.split(" ", 2)[2]: entry.split(" ", 2)[:2] for entry in listed(target.host, find)}
    config = target.config()
    keys = [config["tls-key-file"], config["tls-client-key-file"]]
    inside = {key.replace(redis_conf.CONFIG_DIR, f"{settings.root}/config") for key in keys if key}
    assert set(owners) == inside
    assert {tuple(owner) for owner in owners.values()} == {(settings.owner, "400")}


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
