"""Certificates from the user's files, or from the CA of the secret store.

The CA with its key is one document of the store, and each instance's certificate with its key another. A deploy issues
a certificate that is missing or due for renewal; until then it stays the same.
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

# The CA's document: instead of a host's name, and instead of an instance's name.
_CA = ("ca", "redoubt.ca")

_CLIENT_FILES = ("client.crt", "client.key", "ca.crt")
# The hosts of an inventory share one CA, and pyinfra works on them concurrently.
_issue_lock = RLock()

_Source = FileSource | CommandSource


def location(settings: Settings, host_name: str) -> str:
    """Return where the certificate of an instance is, for messages."""
    return str(settings.redis_tls_cert if settings.redis_tls_source == "files" else _source(settings, host_name))


def authority_location(settings: Settings) -> str:
    """Return where the CA is, for messages."""
    return str(secret_backends.backend_for(settings, *_CA))


def check(settings: Settings, host_name: str, now: datetime) -> list[str]:
    """Return why the certificate of an instance or its CA cannot be used.

    Changes nothing.
    """
    if settings.redis_tls == "off":
        return []
    try:
        if settings.redis_tls_source == "files":
            identity = _from_files(settings)
            errors = certificates.problems(identity, settings.redis_tls_names, now)
            of_client = certificates.problems(identity.client, (), now, is_client=True) if identity.client else []
            if not errors and not of_client:
                errors = _openssl_errors(settings)
                of_client = [] if errors or not identity.client else _openssl_errors(settings, with_client=True)
            return [
                *(f"{settings.redis_tls_cert}: {error}" for error in errors),
                *(f"{settings.redis_tls_client_cert}: {error}" for error in of_client),
            ]
        authority = _authority(settings)
        if authority and (expiry := Identity(authority.certificate, "", "").expires) <= now:
            return [
                f"{authority_location(settings)}: the CA expired on {expiry:%Y-%m-%d}. Move it away, and remove "
                f"{settings.root}/config/tls.conf on the host: the next deploy creates another CA, whose ca.crt every "
                "client needs"
            ]
        _read_identity(_source(settings, host_name))
    except (OSError, SecretsError, CertificateError) as error:
        return [str(error)]
    return []


def ca_problem(settings: Settings, host_name: str) -> str:
    """Return why a deploy would issue the certificate with another CA than before.

    Empty if it would not. Raises SecretsError.
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
    """Say whether the CA of the store issues the certificate of an instance."""
    return settings.redis_tls != "off" and settings.redis_tls_source == "ca"


def load_or_create(settings: Settings, host_name: str, now: datetime) -> Identity | None:
    """Return the certificate of an instance, None without TLS.

    Issues and stores one that is missing or due. Changes nothing on a host. Raises SecretsError or OSError if the store
    or the files cannot be used.
    """
    if settings.redis_tls == "off":
        return None
    if settings.redis_tls_source == "files":
        return _from_files(settings)
    authority = load_or_create_authority(settings, now)
    source = _source(settings, host_name)
    names = certificates.names(settings, host_name)
    with source.locked():
        stored = _read_identity(source)
        if stored and not certificates.why_due(stored, authority, names, now):
            return stored
        issued = certificates.issue_for_instance(
            authority, host_name, settings.redis_name, names, now=now, days=settings.redis_tls_days
        )
        write_identity(source, issued)
    return issued


def load_or_create_authority(settings: Settings, now: datetime) -> Authority:
    """Return the CA; create it if there is none. Raises SecretsError."""
    source = secret_backends.backend_for(settings, *_CA)
    with source.locked():
        authority = _authority(settings)
        if authority is None:
            authority = certificates.new_authority(now)
            _write(source, {"certificate": authority.certificate, "key": authority.key})
    return authority


def load(settings: Settings, host_name: str) -> Identity | None:
    """Return the stored certificate, None without TLS.

    Raises SecretsError if there is none.
    """
    if settings.redis_tls == "off":
        return None
    if settings.redis_tls_source == "files":
        return _from_files(settings)
    source = _source(settings, host_name)
    stored = _read_identity(source)
    if stored is None:
        raise SecretsError(f"{source} is empty: deploy {settings.redis_name} to {host_name} first")
    return stored


def check_client(settings: Settings, name: object, directory: object) -> None:
    """Check that a certificate can be issued for a client of this name.

    Raises ValueError.
    """
    if not issues(settings):
        raise ValueError("only Redoubt's CA issues client certificates: set redis_tls, and redis_tls_source = 'ca'")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError(
            f"redis_certificate_for = {name!r} is not a name for a client, such as web: use letters, digits, '.', '_' "
            "and '-'"
        )
    if not isinstance(directory, str) or not directory:
        raise ValueError(
            "redis_certificate_to is missing: set the directory for the files on this machine, such as ./web"
        )
    if Path(directory).exists() and not Path(directory).is_dir():
        raise ValueError(f"redis_certificate_to = {directory!r} is a file: name a directory")


def client_is_due(settings: Settings, name: str, directory: str, now: datetime) -> str:
    """Return why a client's certificate must be issued into a directory.

    Empty if the present one is good.
    """
    try:
        present = Identity(*(Path(directory, file).read_text(errors="replace") for file in _CLIENT_FILES))
        present.check()
        if name != present.common_name:
            return f"it is the certificate of {present.common_name}"
        authority = _authority(settings)
        return certificates.why_due(present, authority, (), now) if authority else "there is no CA yet"
    except FileNotFoundError as missing:
        return f"{missing.filename} is missing"
    except CertificateError as error:
        return str(error)


def issue_client(settings: Settings, name: str, directory: str, now: datetime) -> None:
    """Issue a certificate for a client, unless the present one is good.

    Writes it, its key and the CA to a directory on this machine.
    """
    with _issue_lock:
        if not client_is_due(settings, name, directory, now):
            return
        issued = certificates.issue(load_or_create_authority(settings, now), name, (), now, settings.redis_tls_days)
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, text in zip(_CLIENT_FILES, (issued.certificate, issued.key, issued.ca), strict=True):
            FileSource(Path(directory, file)).write(text)


def _openssl_errors(settings: Settings, *, with_client: bool = False) -> list[str]:
    """Return why OpenSSL refuses the files.

    Examples are a key that is too short and a CA that is no root. A server with the certificate and a client with the
    CA make a connection in memory. ``with_client`` makes the client show its certificate, and the server require it.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # certificates.problems checks the names
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server.load_cert_chain(str(settings.redis_tls_cert), settings.redis_tls_key)
        client.load_verify_locations(settings.redis_tls_ca)
        if with_client:
            client.load_cert_chain(str(settings.redis_tls_client_cert), settings.redis_tls_client_key)
            server.verify_mode = ssl.CERT_REQUIRED
            server.load_verify_locations(settings.redis_tls_ca)
        peers = (client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True))
        for peer in peers * 2:
            with suppress(ssl.SSLWantReadError):
                peer.do_handshake()
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", error.reason)
        return [f"OpenSSL refuses it with this key and this CA: {reason}"]
    return []


def sources(settings: Settings, host_name: str) -> list[_Source]:
    """Return the documents of the instance's certificate and of its CA.

    There are none if the user's files are used.
    """
    return [_source(settings, host_name), secret_backends.backend_for(settings, *_CA)] if issues(settings) else []


def _source(settings: Settings, host_name: str) -> _Source:
    return secret_backends.backend_for(settings, host_name, f"{settings.redis_name}.tls")


def _from_files(settings: Settings) -> Identity:
    ca = _text(settings.redis_tls_ca)
    client = None
    if settings.has_tls_client_certificate:
        client = Identity(_text(settings.redis_tls_client_cert), _text(settings.redis_tls_client_key), ca)
    return Identity(_text(settings.redis_tls_cert), _text(settings.redis_tls_key), ca, client=client)


def _text(path: str | None) -> str:
    # A file that is no text, such as DER, is reported as no PEM later.
    return f"{Path(path or '').read_text(errors='replace').strip()}\n"


def _authority(settings: Settings) -> Authority | None:
    source = secret_backends.backend_for(settings, *_CA)
    values = _read(source, "certificate", "key")
    return Authority(values["certificate"], values["key"]) if values else None


def _read_identity(source: _Source) -> Identity | None:
    values = _read(source, "certificate", "key", "ca", "client_certificate", "client_key")
    if values is None:
        return None
    client = Identity(values["client_certificate"], values["client_key"], values["ca"])
    return Identity(values["certificate"], values["key"], values["ca"], client=client)


def write_identity(source: _Source, identity: Identity) -> None:
    """Store the certificate of an instance with that of its client."""
    assert identity.client is not None, "the CA issues both"
    _write(
        source,
        {
            "certificate": identity.certificate,
            "key": identity.key,
            "ca": identity.ca,
            "client_certificate": identity.client.certificate,
            "client_key": identity.client.key,
        },
    )


def _read(source: _Source, *names: str) -> dict[str, str] | None:
    text = source.read()
    if text is None:
        return None
    try:
        document = yaml.safe_load(text)
        values = {name: str(document[name]) for name in names}
        # Reported here, where the location is known.
        for prefix in ("", "client_"):
            if f"{prefix}key" in values:
                Identity(values[f"{prefix}certificate"], values[f"{prefix}key"], "").check()
    except (yaml.YAMLError, KeyError, TypeError, CertificateError):
        # The parser's message would quote the text.
        raise SecretsError(
            f"{source}: not a document of a certificate and its key; restore it from your backup"
        ) from None
    return values


def _write(source: _Source, document: dict[str, str]) -> None:
    source.write(yaml.safe_dump(document, sort_keys=True))
