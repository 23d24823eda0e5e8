"""Where certificates come from: files that are given, or the CA whose key is kept beside the passwords.

The CA is one document of the secrets' source, and each instance's certificate with its key another. What is missing or
due is issued by a deploy; what is there stays the same until then.
"""

import re
import ssl
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import yaml
from gevent.lock import RLock

from redoubt import certificates, secret_backends
from redoubt.certificates import Authority, CertificateError, Identity
from redoubt.secret_backends import CommandSource, FileSource, SecretsError
from redoubt.settings.model import Settings

# In the place of a host's name and of an instance's.
_CA = ("ca", "redoubt.ca")

_CLIENT_FILES = ("client.crt", "client.key", "ca.crt")
# Hosts of one inventory have one CA, and are worked on at the same time.
_issuing = RLock()

_Source = FileSource | CommandSource


def location(settings: Settings, host_name: str) -> str:
    """Where the certificate of an instance is, in words."""
    return str(settings.redis_tls_cert if settings.redis_tls_source == "files" else _source(settings, host_name))


def authority_location(settings: Settings) -> str:
    """Where the CA is, in words."""
    return str(secret_backends.backend_for(settings, *_CA))


def check(settings: Settings, host_name: str, now: datetime) -> list[str]:
    """What stands against the certificate of an instance, or against the CA, before anything is changed, in words."""
    if settings.redis_tls == "off":
        return []
    try:
        if settings.redis_tls_source == "files":
            found = certificates.problems(
                _given(settings),
                settings.redis_tls_names,
                now,
                shown_by_clients=settings.redis_tls_auth_clients == "yes",
            )
            return [f"{settings.redis_tls_cert}: {one}" for one in found or _refused(settings)]
        authority = _authority(settings)
        if authority and (ends := Identity(authority.certificate, "", "").expires) <= now:
            return [
                f"{authority_location(settings)}: the CA ended at {ends:%Y-%m-%d}. Move it away, and remove "
                f"{settings.root}/config/tls.conf on the host: a deploy then makes another, whose ca.crt every client "
                "needs"
            ]
        _read_identity(_source(settings, host_name))
    except (OSError, SecretsError, CertificateError) as error:
        return [str(error)]
    return []


def ca_problem(settings: Settings, host_name: str) -> str:
    """Why a deploy would issue the instance's certificate by another CA than before, in words; nothing while the source
    holds both, or needs neither. Raises SecretsError.
    """
    if not issues(settings):
        return ""
    authority, stored = _authority(settings), _read_identity(_source(settings, host_name))
    if authority is None or stored is None:
        return f"{location(settings, host_name) if authority else authority_location(settings)} is missing"
    if stored.ca != authority.certificate:
        return f"{authority_location(settings)} is another CA than that of {location(settings, host_name)}"
    return ""


def issues(settings: Settings) -> bool:
    """Whether the CA of the store issues the certificate of an instance."""
    return settings.redis_tls != "off" and settings.redis_tls_source == "ca"


def load_or_create(settings: Settings, host_name: str, now: datetime) -> Identity | None:
    """The certificate of an instance; None without TLS. What is missing or due is issued and stored.

    Changes nothing on a host. Raises SecretsError and OSError when the source or the files cannot be used.
    """
    if settings.redis_tls == "off":
        return None
    if settings.redis_tls_source == "files":
        return _given(settings)
    authority = load_or_create_authority(settings, now)
    source = _source(settings, host_name)
    names = certificates.names(settings, host_name)
    with source.locked():
        stored = _read_identity(source)
        if stored and not certificates.why_due(stored, authority, names, now):
            return stored
        issued = certificates.issue(authority, host_name, names, now, settings.redis_tls_days)
        _write(source, {"certificate": issued.certificate, "key": issued.key, "ca": issued.ca})
    return issued


def load_or_create_authority(settings: Settings, now: datetime) -> Authority:
    """The CA, made when there is none. Raises SecretsError."""
    source = secret_backends.backend_for(settings, *_CA)
    with source.locked():
        authority = _authority(settings)
        if authority is None:
            authority = certificates.new_authority(now)
            _write(source, {"certificate": authority.certificate, "key": authority.key})
    return authority


def load(settings: Settings, host_name: str) -> Identity | None:
    """The certificate as a deploy left it; None without TLS. Raises SecretsError when there is none yet."""
    if settings.redis_tls == "off":
        return None
    if settings.redis_tls_source == "files":
        return _given(settings)
    source = _source(settings, host_name)
    stored = _read_identity(source)
    if stored is None:
        raise SecretsError(f"{source}: holds nothing yet; deploy {settings.redis_name} to {host_name} first")
    return stored


def check_client(settings: Settings, name: object, directory: object) -> None:
    """Whether a certificate can be issued for a client of this name. Raises ValueError in words."""
    if not issues(settings):
        raise ValueError("there is no CA of Redoubt's: that takes redis_tls, and redis_tls_source = 'ca'")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError("redis_certificate_for names the client, such as web: letters, digits, '.', '_' and '-'")
    if not isinstance(directory, str) or not directory:
        raise ValueError("redis_certificate_to names the directory for its files on this machine, such as ./web")
    if Path(directory).exists() and not Path(directory).is_dir():
        raise ValueError(f"redis_certificate_to = {directory!r} is no directory")


def client_is_due(settings: Settings, name: str, directory: str, now: datetime) -> str:
    """Why a client's certificate in a directory is to be issued, in words; nothing while it is good."""
    try:
        found = Identity(*(Path(directory, file).read_text(errors="replace") for file in _CLIENT_FILES))
        found.check()
        if name != found.common_name:
            return f"it is that of {found.common_name}"
        authority = _authority(settings)
        return certificates.why_due(found, authority, (), now) if authority else "there is no CA yet"
    except FileNotFoundError as missing:
        return f"{missing.filename} is missing"
    except CertificateError as error:
        return str(error)


def issue_client(settings: Settings, name: str, directory: str, now: datetime) -> None:
    """Issue a certificate for a client into a directory on this machine, unless another did meanwhile."""
    with _issuing:
        if not client_is_due(settings, name, directory, now):
            return
        issued = certificates.issue(load_or_create_authority(settings, now), name, (), now, settings.redis_tls_days)
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, text in zip(_CLIENT_FILES, (issued.certificate, issued.key, issued.ca), strict=True):
            FileSource(Path(directory, file)).write(text)


def _refused(settings: Settings) -> list[str]:
    """What OpenSSL itself has against files that are given: a key that is too short, a CA that is no root.

    A server that has the certificate and a client that has the CA speak to each other in memory.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # names are judged apart
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server.load_cert_chain(str(settings.redis_tls_cert), settings.redis_tls_key)
        client.load_verify_locations(settings.redis_tls_ca)
        ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
        for end in ends * 2:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLError as error:
        said = getattr(error, "verify_message", error.reason)
        return [f"OpenSSL does not take it, with this key and this CA: {said}"]
    return []


def _source(settings: Settings, host_name: str) -> _Source:
    return secret_backends.backend_for(settings, host_name, f"{settings.redis_name}.tls")


def _given(settings: Settings) -> Identity:
    paths = (settings.redis_tls_cert, settings.redis_tls_key, settings.redis_tls_ca)
    # What is no text, as DER, is said to be no PEM.
    certificate, key, ca = (f"{Path(path or '').read_text(errors='replace').strip()}\n" for path in paths)
    return Identity(certificate, key, ca)


def _authority(settings: Settings) -> Authority | None:
    source = secret_backends.backend_for(settings, *_CA)
    found = _read(source, "certificate", "key")
    return Authority(*found) if found else None


def _read_identity(source: _Source) -> Identity | None:
    found = _read(source, "certificate", "key", "ca")
    return Identity(*found) if found else None


def _read(source: _Source, *names: str) -> list[str] | None:
    text = source.read()
    if text is None:
        return None
    try:
        document = yaml.safe_load(text)
        values = [str(document[name]) for name in names]
        # Whatever is no certificate, or no key of it, is said here, with its place.
        Identity(values[0], values[1], "").check()
    except (yaml.YAMLError, KeyError, TypeError, CertificateError):
        # The parser's own message would quote the text.
        raise SecretsError(f"{source}: no document of a certificate and its key; restore it from your copy") from None
    return values


def _write(source: _Source, document: dict[str, str]) -> None:
    source.write(yaml.safe_dump(document, sort_keys=True))
