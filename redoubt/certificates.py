"""TLS: the certificate of an instance, the small CA that issues it, and what stands against one that is given. Pure.

Keys and certificates are text in PEM. What is a key is never shown by repr.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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

# What clients trust has to be carried to each of them: it lasts.
AUTHORITY_DAYS = 3650
# Clocks of clients are allowed to be behind by so much.
_SKEW = timedelta(hours=1)
# An issued certificate is replaced by the first deploy in the last third of its life, as ACME clients do.
RENEWAL = 1 / 3

_CLIENT, _SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


class CertificateError(ValueError):
    """Text that is no certificate or key, or a pair that does not belong together. The message says which and why."""


@dataclass(frozen=True)
class Authority:
    """The CA: its certificate, and the key by which it issues others."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Identity:
    """A certificate with what leads from it to the CA, its key, and the CAs that both sides trust."""

    certificate: str
    key: str = field(repr=False)
    ca: str

    @property
    def digest(self) -> str:
        """Tells one identity from another: Redis is told of a new one by the names of its files."""
        return hashlib.sha256("\0".join((self.certificate, self.key, self.ca)).encode()).hexdigest()[:12]

    @cached_property
    def chain(self) -> list[x509.Certificate]:
        """The certificate and those above it. Raises CertificateError."""
        return _certificates(self.certificate, "certificate")

    def check(self) -> None:
        """Raises CertificateError where the key cannot be read, or is another's."""
        if _private_key(self.key).public_key() != self.chain[0].public_key():
            raise CertificateError("the key is not that of the certificate")

    @property
    def expires(self) -> datetime:
        """When the first of them ends: clients refuse it from then on."""
        return min(one.not_valid_after_utc for one in self.chain)

    @property
    def common_name(self) -> str:
        """Whose certificate it is, in its own words."""
        return " ".join(str(one.value) for one in self.chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME))

    @property
    def names(self) -> set[str]:
        """The names and addresses for which it stands."""
        try:
            found = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return set()
        return {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}


def names(settings: Settings, host_name: str) -> tuple[str, ...]:
    """The names and addresses by which clients reach an instance: on its host, in its network, and from outside."""
    own = (address for address in settings.redis_bind if not ipaddress.ip_address(address).is_unspecified)
    inventory = [host_name] if re.fullmatch(HOST_NAME, host_name) else []
    local = ("localhost", "127.0.0.1", "::1", settings.redis_name)
    return tuple(dict.fromkeys((*inventory, *own, *settings.redis_tls_names, *local)))


def new_authority(now: datetime) -> Authority:
    """A CA that can issue certificates and no other CAs."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Two CAs of one name would be told apart by no client's error.
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
    """A server's certificate for names and addresses, or, without any, a client's; with a new key.

    A server shows it as a client as well: its health check does. It ends with the CA at the latest.
    """
    (issuer,) = _certificates(authority.certificate, "certificate of the CA")
    signer = serialization.load_pem_private_key(authority.key.encode(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey), "made by new_authority"
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [_alternative(name) for name in sans]
    builder = (
        x509.CertificateBuilder(issuer.subject, _name(common_name), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(min(now + timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_SERVER, _CLIENT] if alternatives else [_CLIENT]), critical=False)
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


def why_due(identity: Identity, authority: Authority, wanted: Sequence[str], now: datetime) -> str:
    """Why an issued certificate is to be replaced by a new one, in words; nothing while it is not."""
    if identity.ca != authority.certificate:
        return "another CA issued it"
    if missing := [name for name in wanted if name not in identity.names]:
        return f"it does not stand for {', '.join(missing)}"
    leaf = identity.chain[0]
    left = leaf.not_valid_after_utc - now
    if left < RENEWAL * (leaf.not_valid_after_utc - leaf.not_valid_before_utc):
        return f"it ends at {_day(leaf.not_valid_after_utc)}"
    return ""


def problems(identity: Identity, wanted: Iterable[str], now: datetime, *, shown_by_clients: bool) -> list[str]:
    """Everything that stands against a certificate that is given, in words.

    ``wanted`` are names that clients use; ``shown_by_clients`` says that the health check has to show it as a client.
    """
    found = []
    try:
        leaf, *above = identity.chain
        trusted = _certificates(identity.ca, "CA")
        _private_key(identity.key)
    except CertificateError as error:
        return [str(error)]
    try:
        identity.check()
    except CertificateError as error:
        found.append(str(error))
    for one in (leaf, *above, *trusted):
        if one.not_valid_after_utc <= now:
            found.append(f"{_subject(one)} ended at {_day(one.not_valid_after_utc)}")
        elif one.not_valid_before_utc > now:
            found.append(f"{_subject(one)} is valid from {_day(one.not_valid_before_utc)} on")
    if not identity.names:
        found.append("the certificate has no names (SAN), and clients refuse it: they do not read its CN any more")
    elif missing := [name for name in wanted if not _stands_for(identity.names, name)]:
        found.append(f"the certificate does not stand for {', '.join(missing)} (redis_tls_names)")
    if not _leads_to(leaf, above, trusted):
        found.append("the CA did not issue the certificate, nor do those in its file lead to it")
    if not _is_fit_for(_SERVER, leaf):
        found.append("the certificate is not for servers (extended key usage), and clients refuse it")
    if shown_by_clients and not _is_fit_for(_CLIENT, leaf):
        found.append(
            "the certificate is for servers alone (extended key usage), and with redis_tls_auth_clients = 'yes' the "
            "health check has to show it as a client"
        )
    return found


def _stands_for(sans: set[str], name: str) -> bool:
    """Whether a certificate's names cover one, in either case; ``*.example.com`` stands for one label."""
    name, lower = name.lower(), {one.lower() for one in sans}
    return name in lower or f"*.{name.partition('.')[2]}" in lower


def _leads_to(leaf: x509.Certificate, above: list[x509.Certificate], trusted: list[x509.Certificate]) -> bool:
    if any(_issued(leaf, ca) for ca in trusted):
        return True
    return any(
        _issued(leaf, one) and _leads_to(one, [other for other in above if other is not one], trusted) for one in above
    )


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_fit_for(purpose: x509.ObjectIdentifier, certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return purpose in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _certificates(pem: str, what: str) -> list[x509.Certificate]:
    # Certificates are shown by --diff, and the CA's is everybody's to read.
    if "PRIVATE KEY-----" in pem:
        raise CertificateError(f"the file of the {what} holds a key, and others would read it: store that apart")
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise CertificateError(f"the {what} is not text in PEM (-----BEGIN CERTIFICATE-----)") from None


def _private_key(pem: str) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        raise CertificateError(
            "the key needs a passphrase, which nobody could type at a start: store it without"
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
    # The longest that X.509 allows.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _subject(certificate: x509.Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string() or 'nobody'}"


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
