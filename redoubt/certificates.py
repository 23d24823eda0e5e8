"""Certificates of instances, and the small CA that issues them. Pure.

Certificates from files are checked as well. Keys and certificates are text in PEM. repr never shows a key.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from redoubt.settings.model import Settings
from redoubt.settings.types import HOST_NAME

# Long, because an operator copies the CA's certificate to every client.
AUTHORITY_DAYS = 3650
# How far the clock of a client may be behind.
_SKEW = timedelta(hours=1)
# The first deploy in the last third of a certificate's life renews it, as ACME clients do.
RENEWAL = 1 / 3

_CLIENT, _SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


class CertificateError(ValueError):
    """A certificate or key that is no PEM, or a pair that does not match.

    The message says which and why.
    """


@dataclass(frozen=True)
class Authority:
    """The CA: its certificate, and the key with which it issues others."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Identity:
    """A certificate, its key, and the CAs that clients and server trust.

    The intermediate certificates are part of ``certificate``. ``client`` is the certificate with which an instance
    connects as a client: its health check does, to itself.
    """

    certificate: str
    key: str = field(repr=False)
    ca: str
    client: "Identity | None" = field(default=None, kw_only=True)

    @property
    def digest(self) -> str:
        """Return a short hash of the identity.

        The names of its files contain it, so that Redis loads a new identity.
        """
        texts = [text for pair in self.pairs for text in (pair.certificate, pair.key)]
        return hashlib.sha256("\0".join((*texts, self.ca)).encode()).hexdigest()[:12]

    @property
    def pairs(self) -> list["Identity"]:
        """The certificate, and the client's if there is one."""
        return [self, self.client] if self.client else [self]

    @cached_property
    def chain(self) -> list[x509.Certificate]:
        """The certificate and the intermediate ones. Raises CertificateError."""
        return _certificates(self.certificate, "certificate")

    def check(self) -> None:
        """Check that the key can be read and belongs to the certificate.

        The same for the client's. Raises CertificateError.
        """
        for pair in self.pairs:
            if _private_key(pair.key).public_key() != pair.chain[0].public_key():
                raise CertificateError("the key belongs to another certificate")

    @property
    def expires(self) -> datetime:
        """Return when the first certificate of the chains expires.

        Clients refuse the chain from then on, or Redis refuses its own client.
        """
        return min(certificate.not_valid_after_utc for pair in self.pairs for certificate in pair.chain)

    @property
    def common_name(self) -> str:
        """Return the common name of the certificate's subject."""
        attributes = self.chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return " ".join(str(attribute.value) for attribute in attributes)

    @property
    def names(self) -> set[str]:
        """Return the names and addresses (SAN) that the certificate is valid for."""
        try:
            sans = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return set()
        return {*sans.get_values_for_type(x509.DNSName), *map(str, sans.get_values_for_type(x509.IPAddress))}


def names(settings: Settings, host_name: str) -> tuple[str, ...]:
    """Return the names and addresses that clients use.

    The clients are on the host, on the network of containers, and outside.
    """
    published = (address for address in settings.redis_bind if not ipaddress.ip_address(address).is_unspecified)
    inventory = [host_name] if re.fullmatch(HOST_NAME, host_name) else []
    local = ("localhost", "127.0.0.1", "::1", settings.redis_name)
    return tuple(dict.fromkeys((*inventory, *published, *settings.redis_tls_names, *local)))


def new_authority(now: datetime) -> Authority:
    """Create a CA that can issue certificates but no other CAs."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # A name of its own, so that the error of a client shows which CA it is.
    name = _name(f"Redoubt CA {identifier.digest.hex()[:8]}")
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(_pem(certificate), _key_pem(key))


def issue(authority: Authority, common_name: str, sans: Iterable[str], now: datetime, days: int) -> Identity:
    """Issue a certificate with a new key.

    A server's is for ``sans`` (names and addresses) and valid for servers alone. A client's has none and is valid for
    clients alone. A certificate never outlives the CA.
    """
    (issuer,) = _certificates(authority.certificate, "certificate of the CA")
    signer = serialization.load_pem_private_key(authority.key.encode(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey), "new_authority creates this kind"
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [_alternative(name) for name in sans]
    builder = (
        x509.CertificateBuilder(issuer.subject, _name(common_name), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(min(now + timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_SERVER if alternatives else _CLIENT]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return Identity(_pem(builder.sign(signer, hashes.SHA256())), _key_pem(key), authority.certificate)


def issue_for_instance(
    authority: Authority, host_name: str, instance: str, names: Sequence[str], *, now: datetime, days: int
) -> Identity:
    """Issue the certificate of an instance and its client certificate."""
    client = issue(authority, f"{instance} on {host_name}", (), now, days)
    return replace(issue(authority, host_name, names, now, days), client=client)


def why_due(identity: Identity, authority: Authority, names: Sequence[str], now: datetime) -> str:
    """Return why an issued certificate must be replaced; empty if it need not be."""
    if identity.ca != authority.certificate:
        return "another CA issued it"
    if missing := [name for name in names if name not in identity.names]:
        return f"it is not valid for {', '.join(missing)}"
    for leaf in (pair.chain[0] for pair in identity.pairs):
        remaining = leaf.not_valid_after_utc - now
        if remaining < RENEWAL * (leaf.not_valid_after_utc - leaf.not_valid_before_utc):
            return f"it expires on {_minute(leaf.not_valid_after_utc)}"
    return ""


def problems(identity: Identity, names: Iterable[str], now: datetime, *, is_client: bool = False) -> list[str]:
    """Return every reason why a certificate from files cannot be used.

    ``names`` are those that clients use. ``is_client`` says that it is a client's, which needs no names.
    """
    try:
        leaf, *intermediates = identity.chain
        trusted = _certificates(identity.ca, "CA")
        _private_key(identity.key)
    except CertificateError as error:
        return [str(error)]
    errors = []
    try:
        identity.check()
    except CertificateError as error:
        errors.append(str(error))
    for certificate in (leaf, *intermediates, *trusted):
        if certificate.not_valid_after_utc <= now:
            errors.append(f"{_subject(certificate)} expired on {_minute(certificate.not_valid_after_utc)}")
        elif certificate.not_valid_before_utc > now:
            errors.append(f"{_subject(certificate)} is not valid before {_minute(certificate.not_valid_before_utc)}")
    if is_client:
        pass
    elif not identity.names:
        errors.append("the certificate has no names (SAN). Clients refuse it: they no longer read the common name")
    elif missing := [name for name in names if not _covers(identity.names, name)]:
        errors.append(f"the certificate is not valid for {', '.join(missing)} (redis_tls_names)")
    if not _leads_to(leaf, intermediates, trusted):
        errors.append("the CA issued neither the certificate nor an intermediate one in its file that leads to it")
    if is_client and not _is_valid_for(_CLIENT, leaf):
        errors.append("the certificate is not valid for clients (extended key usage), and Redis refuses it")
    if not is_client and not _is_valid_for(_SERVER, leaf):
        errors.append("the certificate is not valid for servers (extended key usage), and clients refuse it")
    return errors


def _covers(sans: set[str], name: str) -> bool:
    """Say whether a certificate's names cover a name, ignoring case.

    ``*.example.com`` covers one label.
    """
    name, lower = name.lower(), {san.lower() for san in sans}
    return name in lower or f"*.{name.partition('.')[2]}" in lower


def _leads_to(leaf: x509.Certificate, intermediates: list[x509.Certificate], trusted: list[x509.Certificate]) -> bool:
    if any(_issued(leaf, ca) for ca in trusted):
        return True
    return any(
        _issued(leaf, issuer) and _leads_to(issuer, [other for other in intermediates if other is not issuer], trusted)
        for issuer in intermediates
    )


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_valid_for(purpose: x509.ObjectIdentifier, certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return purpose in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _certificates(pem: str, what: str) -> list[x509.Certificate]:
    # --diff shows certificates, and every user of the host can read the CA's.
    if "PRIVATE KEY-----" in pem:
        raise CertificateError(
            f"the file of the {what} contains a key, which others could read: put it in its own file"
        )
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise CertificateError(f"the {what} is not text in PEM (-----BEGIN CERTIFICATE-----)") from None


def _private_key(pem: str) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        raise CertificateError(
            "the key has a passphrase, which Redis cannot ask for when it starts: store the key without one"
        ) from None
    except ValueError:
        raise CertificateError("the key is not text in PEM (-----BEGIN PRIVATE KEY-----)") from None


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    # X.509 allows 64 characters.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _subject(certificate: x509.Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string() or 'an unnamed subject'}"


def _minute(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
