"""TLS: issued certificates are accepted by clients and renewed in time.

Certificates from files are checked first.
"""

import ipaddress
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from redoubt import acl, certificate_store, certificates, host_files, service_drift
from redoubt.certificates import Authority, Identity
from redoubt.filesystem import AbsentPath, DesiredFile
from redoubt.redis_conf import certificate
from redoubt.secret_backends import SecretsError
from redoubt.settings.load import SettingsError, load
from redoubt.settings.model import Settings
from tests.unit.test_service_drift import UP_TO_DATE
from tests.unit.test_service_drift import state as running

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CA = certificates.new_authority(NOW)
NAMES = ("redis-1.example.com", "10.0.0.5", "::1", "*.cache.example.com")
GOOD = certificates.issue(CA, "redis-1", NAMES, NOW, 365)
OWN = certificates.issue_for_instance(CA, "redis-1", "redis", NAMES, now=NOW, days=365)


def settings(tmp_path: Path, **data: Any) -> Settings:
    return load({"redis_secrets_dir": str(tmp_path / "secrets"), "redis_tls": "required", **data})


def verify(identity: Identity, name: verification.Subject, at: datetime) -> None:
    """Verify a certificate by the rules of the web.

    They are stricter than any client of Redis.
    """
    trusted = verification.Store(x509.load_pem_x509_certificates(identity.ca.encode()))
    leaf, *intermediates = identity.chain
    verification.PolicyBuilder().store(trusted).time(at).build_server_verifier(name).verify(leaf, intermediates)


def test_issued_certificate_is_valid_for_its_names_and_time() -> None:
    verify(GOOD, x509.DNSName("redis-1.example.com"), NOW)
    verify(GOOD, x509.DNSName("any.cache.example.com"), NOW + timedelta(days=364))
    verify(GOOD, x509.IPAddress(ipaddress.ip_address("10.0.0.5")), NOW)
    for name, at in (("other.example.com", NOW), ("redis-1.example.com", NOW + timedelta(days=366))):
        with pytest.raises(verification.VerificationError):
            verify(GOOD, x509.DNSName(name), at)


def test_repr_shows_no_key() -> None:
    assert "PRIVATE" not in repr(GOOD) + repr(CA)


def test_certificate_never_outlives_its_ca() -> None:
    late = NOW + timedelta(days=certificates.AUTHORITY_DAYS - 30)
    assert certificates.issue(CA, "x", ["x"], late, 365).expires == NOW + timedelta(days=certificates.AUTHORITY_DAYS)


def usages(identity: Identity) -> list[x509.ObjectIdentifier]:
    """Return what a certificate is valid for (extended key usage)."""
    return list(identity.chain[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_certificates_are_for_servers_or_clients_alone() -> None:
    client = certificates.issue(CA, "web", (), NOW, 90)
    assert (usages(client), client.names) == ([ExtendedKeyUsageOID.CLIENT_AUTH], set())
    assert (usages(GOOD), GOOD.names) == ([ExtendedKeyUsageOID.SERVER_AUTH], set(NAMES))


def test_instance_has_a_client_certificate_of_its_own() -> None:
    assert OWN.client is not None
    assert (usages(OWN), usages(OWN.client)) == ([ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH])
    assert OWN.client.common_name == "redis on redis-1"
    assert OWN.client.key != OWN.key
    other = certificates.issue(CA, "redis on redis-1", (), NOW, 90)
    assert len({OWN.digest, replace(OWN, client=None).digest, replace(OWN, client=other).digest}) == 3
    # The pair expires, and is due, with its first certificate.
    early = replace(OWN, client=other)
    assert early.expires == NOW + timedelta(days=90)
    assert certificates.why_due(early, CA, NAMES, NOW + timedelta(days=61)) == "it expires on 2027-02-22 12:00 UTC"
    assert certificates.why_due(OWN, CA, NAMES, NOW + timedelta(days=61)) == ""


@pytest.mark.parametrize(
    ("days", "names", "ca", "why"),
    [
        (0, NAMES, CA, ""),
        (243, NAMES, CA, ""),
        (244, NAMES, CA, "it expires on 2027-11-24 12:00 UTC"),
        (400, NAMES, CA, "it expires on 2027-11-24 12:00 UTC"),
        (0, (*NAMES, "new"), CA, "it is not valid for new"),
        (0, NAMES, certificates.new_authority(NOW), "another CA issued it"),
    ],
)
def test_certificate_is_due_in_last_third_or_after_changes(
    days: int, names: tuple[str, ...], ca: Authority, why: str
) -> None:
    assert certificates.why_due(GOOD, ca, names, NOW + timedelta(days=days)) == why


def test_certificate_names_are_those_that_clients_use() -> None:
    own = load(
        {"redis_tls": "required", "redis_bind": ["0.0.0.0", "10.0.0.5"], "redis_tls_names": ["cache.example.com"]}
    )
    assert certificates.names(own, "redis-1") == (
        *("redis-1", "10.0.0.5", "cache.example.com", "localhost", "127.0.0.1", "::1", "redis"),
    )
    assert "@local" not in certificates.names(own, "@local")


def intermediate() -> tuple[Authority, str]:
    """Return a CA that the CA issued, as companies use them, and its certificate."""
    key = serialization.load_pem_private_key(CA.key.encode(), None)
    second = certificates.new_authority(NOW)
    (template,) = x509.load_pem_x509_certificates(second.certificate.encode())
    (issuer,) = x509.load_pem_x509_certificates(CA.certificate.encode())
    builder = x509.CertificateBuilder(
        issuer.subject,
        template.subject,
        template.public_key(),
        x509.random_serial_number(),
        template.not_valid_before_utc,
        template.not_valid_after_utc,
        list(template.extensions),
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signed = builder.sign(key, hashes.SHA256())
    text = signed.public_bytes(serialization.Encoding.PEM).decode()
    return Authority(text, second.key), text


def test_certificate_of_intermediate_ca_is_accepted() -> None:
    authority, text = intermediate()
    leaf = certificates.issue(authority, "redis-1", ["a.example.com"], NOW, 90)
    assert certificates.problems(replace(leaf, certificate=leaf.certificate + text, ca=CA.certificate), (), NOW) == []
    (problem,) = certificates.problems(replace(leaf, ca=CA.certificate), (), NOW)
    assert problem.startswith("the CA issued neither the certificate")


@pytest.mark.parametrize(
    ("identity", "names", "at", "message"),
    [
        (replace(GOOD, key=CA.key), (), NOW, "the key belongs to another certificate"),
        (GOOD, ("a.cache.example.com", "10.0.0.5", "*.cache.example.com", "REDIS-1.example.com"), NOW, ""),
        (GOOD, ("a.b.cache.example.com",), NOW, "is not valid for a.b.cache.example.com (redis_tls_names)"),
        (GOOD, (), NOW + timedelta(days=366), "the certificate of CN=redis-1 expired on 2027-11-24"),
        (GOOD, (), NOW - timedelta(days=1), "the certificate of CN=redis-1 is not valid before 2026-11-24"),
        (
            replace(GOOD, ca=certificates.new_authority(NOW).certificate),
            (),
            NOW,
            "the CA issued neither the certificate",
        ),
        (replace(GOOD, certificate="nothing"), (), NOW, "the certificate is not text in PEM"),
        (replace(GOOD, ca=""), (), NOW, "the CA is not text in PEM"),
        (replace(GOOD, key="nothing"), (), NOW, "the key is not text in PEM"),
        (certificates.issue(CA, "web", (), NOW, 90), (), NOW, "the certificate has no names (SAN)"),
        (
            certificates.issue(CA, "web", (), NOW, 90),
            (),
            NOW,
            "the certificate is not valid for servers (extended key usage)",
        ),
        (replace(GOOD, certificate=GOOD.key + GOOD.certificate), (), NOW, "the file of the certificate contains a key"),
        (
            replace(GOOD, ca=CA.certificate + CA.key),
            (),
            NOW,
            "the file of the CA contains a key, which others could read",
        ),
    ],
)
def test_certificate_from_files_is_checked(
    identity: Identity, names: tuple[str, ...], at: datetime, message: str
) -> None:
    problems = certificates.problems(identity, names, at)
    assert message in "\n".join(problems)
    assert bool(problems) == bool(message)


def settings_with_files(tmp_path: Path, identity: Identity) -> Settings:
    """Write a certificate to files, and return settings that name them."""
    texts = {"cert": identity.certificate, "key": identity.key, "ca": identity.ca}
    if identity.client:
        texts |= {"client_cert": identity.client.certificate, "client_key": identity.client.key}
    paths = {f"redis_tls_{name}": tmp_path / name for name in texts}
    for path, text in zip(paths.values(), texts.values(), strict=True):
        path.write_text(text)
    return load(
        {"redis_tls": "required", "redis_tls_source": "files", **{name: str(path) for name, path in paths.items()}}
    )


def with_short_key(authority: Authority, now: datetime) -> Identity:
    """Return a certificate whose key is too short for OpenSSL."""
    key, signer = (
        rsa.generate_private_key(65537, 1024),
        serialization.load_pem_private_key(authority.key.encode(), None),
    )
    (issuer,) = x509.load_pem_x509_certificates(authority.certificate.encode())
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    text = (
        x509.CertificateBuilder(
            issuer.subject, issuer.subject, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=9)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a")]), critical=False)
        .sign(signer, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Identity(text.decode(), key.private_bytes(*pem).decode(), authority.certificate)


def test_files_that_openssl_refuses_are_reported(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = certificates.new_authority(now)
    good = certificates.issue(authority, "a", ["a"], now, 90)
    assert certificate_store.check(settings_with_files(tmp_path, good), "a", now) == []
    (problem,) = certificate_store.check(settings_with_files(tmp_path, with_short_key(authority, now)), "a", now)
    assert problem.endswith("OpenSSL refuses it with this key and this CA: EE_KEY_TOO_SMALL")
    second, _ = intermediate()
    (problem,) = certificate_store.check(
        settings_with_files(tmp_path, certificates.issue(second, "a", ["a"], now, 90)), "a", now
    )
    assert problem.endswith("OpenSSL refuses it with this key and this CA: unable to get issuer certificate")
    own = settings_with_files(tmp_path, good)
    (tmp_path / "cert").write_bytes(good.chain[0].public_bytes(serialization.Encoding.DER))
    (problem,) = certificate_store.check(own, "a", now)
    assert problem.endswith("the certificate is not text in PEM (-----BEGIN CERTIFICATE-----)")


def test_client_certificate_from_files_is_checked(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = certificates.new_authority(now)
    good = certificates.issue_for_instance(authority, "a", "redis", ["a"], now=now, days=90)
    own = settings_with_files(tmp_path, good)
    assert certificate_store.check(own, "a", now) == []
    assert certificate_store.load(own, "a") == good
    short = with_short_key(authority, now)
    for client, message in (
        (
            replace(good, client=None),
            "the certificate is not valid for clients (extended key usage), and Redis refuses",
        ),
        (
            certificates.issue(certificates.new_authority(now), "x", (), now, 90),
            "the CA issued neither the certificate",
        ),
        (short, "OpenSSL refuses it with this key and this CA: EE_KEY_TOO_SMALL"),
    ):
        settings_with_files(tmp_path, replace(good, client=client))
        (problem,) = certificate_store.check(own, "a", now)
        assert problem.startswith(f"{tmp_path / 'client_cert'}: {message}")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "redis_tls_auth_clients = 'yes' needs redis_tls_client_cert and redis_tls_client_key as well: "),
        ({"redis_tls_client_cert": "LICENSE"}, "redis_tls_auth_clients = 'yes' needs redis_tls_client_key as well: "),
        (
            {"redis_tls_client_cert": "LICENSE", "redis_tls_auth_clients": "no"},
            "redis_tls_client_cert needs redis_tls_client_key as well",
        ),
        (
            {"redis_tls_client_cert": "LICENSE", "redis_tls_client_key": "nowhere"},
            "redis_tls_client_key = 'nowhere': there is no such file on this machine",
        ),
        (
            {"redis_tls_source": "ca", "redis_tls_client_cert": "LICENSE"},
            "redis_tls_client_cert: set, but redis_tls_source = 'ca' does not use it",
        ),
    ],
)
def test_client_pair_is_complete_or_absent(given: dict[str, str], problem: str) -> None:
    server = {f"redis_tls_{name}": "LICENSE" for name in ("cert", "key", "ca")}
    if given.get("redis_tls_source") == "ca":
        server = {}
    data = {"redis_tls": "required", "redis_tls_source": "files", "redis_tls_auth_clients": "yes", **server, **given}
    with pytest.raises(SettingsError) as error:
        load(data)
    assert problem in str(error.value)


def test_key_with_passphrase_is_refused() -> None:
    key = serialization.load_pem_private_key(GOOD.key.encode(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    ).decode()
    (problem,) = certificates.problems(replace(GOOD, key=locked), (), NOW)
    assert "the key has a passphrase" in problem


def test_ca_and_certificate_are_created_once(tmp_path: Path) -> None:
    own = settings(tmp_path)
    first = certificate_store.load_or_create(own, "redis-1", NOW)
    assert (
        first
        == certificate_store.load_or_create(own, "redis-1", NOW + timedelta(days=200))
        == certificate_store.load(own, "redis-1")
    )
    assert first is not None
    other = certificate_store.load_or_create(own, "redis-2", NOW)
    assert other is not None
    assert (other.ca, other.key != first.key) == (first.ca, True)
    assert first.client is not None
    later = certificate_store.load_or_create(own, "redis-1", NOW + timedelta(days=300))
    assert later is not None
    assert later.client is not None
    assert later.client.key != first.client.key
    assert later.expires == NOW + timedelta(days=665)
    assert sorted(path.name for path in tmp_path.rglob("*.yml")) == ["redis.tls.yml", "redis.tls.yml", "redoubt.ca.yml"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.yml")} == {0o600}


def test_expired_ca_or_damaged_document_is_reported(tmp_path: Path) -> None:
    own = settings(tmp_path)
    certificate_store.load_or_create(own, "redis-1", NOW)
    (problem,) = certificate_store.check(own, "redis-1", NOW + timedelta(days=4000))
    assert "the CA expired on 2036-11-21" in problem
    for place in (certificate_store.location(own, "redis-1"), certificate_store.authority_location(own)):
        text = Path(place).read_text()
        for damaged in ("certificate: SECRET", text.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\nSECRET")):
            Path(place).write_text(damaged)
            (problem,) = certificate_store.check(own, "redis-1", NOW)
            assert f"{place}: not a document of a certificate and its key" in problem
            assert "SECRET" not in problem
        Path(place).write_text(text)
    with pytest.raises(SecretsError, match="is empty: deploy redis to redis-2 first"):
        certificate_store.load(own, "redis-2")


def test_missing_or_other_ca_is_detected(tmp_path: Path) -> None:
    own = settings(tmp_path)
    certificate_store.load_or_create(own, "redis-1", NOW)
    assert certificate_store.ca_problem(own, "redis-1") == ""
    assert certificate_store.ca_problem(load({"redis_secrets_dir": str(tmp_path)}), "redis-1") == ""
    assert certificate_store.ca_problem(own, "redis-2") == f"{certificate_store.location(own, 'redis-2')} is missing"
    place = Path(certificate_store.authority_location(own))
    place.unlink()
    assert certificate_store.ca_problem(own, "redis-1") == f"{place} is missing"
    certificate_store.load_or_create_authority(own, NOW)
    assert certificate_store.ca_problem(own, "redis-1").startswith(f"{place} is another CA than that of ")


def test_client_certificate_is_issued_once_until_due(tmp_path: Path) -> None:
    own, directory = settings(tmp_path), str(tmp_path / "web")
    assert certificate_store.client_is_due(own, "web", directory, NOW) == f"{directory}/client.crt is missing"
    certificate_store.issue_client(own, "web", directory, NOW)
    first = Path(directory, "client.crt").read_text()
    certificate_store.issue_client(own, "web", directory, NOW + timedelta(days=9))
    assert Path(directory, "client.crt").read_text() == first
    certificate_store.issue_client(own, "web", directory, NOW + timedelta(days=300))
    assert Path(directory, "client.crt").read_text() != first
    certificate_store.issue_client(own, "api", directory, NOW + timedelta(days=300))
    assert (
        certificate_store.client_is_due(own, "web", directory, NOW + timedelta(days=300))
        == "it is the certificate of api"
    )
    Path(directory, "client.key").write_text(GOOD.key)
    why = "the key belongs to another certificate"
    assert certificate_store.client_is_due(own, "api", directory, NOW + timedelta(days=300)) == why
    certificate_store.issue_client(own, "api", directory, NOW + timedelta(days=300))
    # A client loads the files.
    ssl.create_default_context(cafile=f"{directory}/ca.crt").load_cert_chain(
        f"{directory}/client.crt", f"{directory}/client.key"
    )


def test_each_certificate_has_its_own_file_names() -> None:
    own = load({"redis_tls": "required"})
    entries = [*host_files.certificate_files(own, OWN), *host_files.certificate_config(own, OWN)]
    files = {entry.path: entry for entry in entries if isinstance(entry, DesiredFile)}
    conf = files["/srv/redis/config/tls.conf"].content
    for name in ("tls-cert-file", "tls-key-file", "tls-client-cert-file", "tls-client-key-file", "tls-ca-cert-file"):
        inside = certificate(own, OWN.digest)[name]
        assert f'{name} "{inside}"' in conf
        assert inside.replace("/etc/redis", "/srv/redis/config") in files
    assert [
        file.path for file in files.values() if "PRIVATE" in file.content and (file.mode, file.secret) != (0o400, True)
    ] == []
    assert sum("PRIVATE" in file.content for file in files.values()) == 2
    renewed = certificates.issue_for_instance(CA, "redis-1", "redis", NAMES, now=NOW, days=365)
    previous = host_files.previous_certificates(own, renewed, files)
    assert {entry.path for entry in previous} == {path for path in files if OWN.digest in path}
    assert len(previous) == 5
    assert {entry.path for entry in host_files.previous_certificates(own, None, files)} == set(files)
    assert all(isinstance(entry, AbsentPath) for entry in previous)


@pytest.mark.parametrize(
    ("config", "written", "reasons"),
    [
        ({}, True, ()),
        ({"tls-port": "0"}, True, ()),
        ({"tls-port": "6379", **certificate(load({"redis_tls": "required"}), "new")}, False, ()),
        (
            {"tls-port": "6379", **certificate(load({"redis_tls": "required"}), "new")},
            True,
            ("the files of redis's certificate have changed",),
        ),
        (
            {"tls-port": "6379", **certificate(load({"redis_tls": "required"}), "new"), "tls-auth-clients": "yes"},
            True,
            ("redis runs with tls-auth-clients = 'yes', should be 'no'",),
        ),
    ],
)
def test_certificate_drift_names_each_difference(
    config: dict[str, str], written: bool, reasons: tuple[str, ...]
) -> None:
    current = replace(UP_TO_DATE, config=config)
    assert service_drift.certificate_drift(load({"redis_tls": "required"}), "new", current, written=written) == reasons


@pytest.mark.parametrize(
    ("container", "problem", "reported"),
    [
        ({}, "too slow", "too slow"),
        ({}, "", ""),
        ({"health": "unhealthy"}, "too slow", ""),
        ({"status": "exited"}, "too slow", ""),
        ({"name": "old-redis"}, "too slow", ""),
        ({"config_hash": "older"}, "too slow", ""),
    ],
)
def test_healthy_redis_that_does_not_answer_is_reported(container: dict[str, Any], problem: str, reported: str) -> None:
    current = replace(running(**container), unanswered=problem)
    assert service_drift.unanswered(load({}), current) == reported


@pytest.mark.parametrize(
    ("data", "url"),
    [
        ({"redis_tls": "required"}, "rediss://sessions:PASSWORD@127.0.0.1:6379/0?ssl_ca_certs=/srv/redis/ca.crt"),
        ({"redis_tls": "both"}, "rediss://sessions:PASSWORD@127.0.0.1:6380/0?ssl_ca_certs=/srv/redis/ca.crt"),
        (
            {"redis_tls": "both", "redis_tls_port": 7000, "redis_bind": []},
            "rediss://sessions:PASSWORD@redis:6380/0?ssl_ca_certs=/srv/redis/ca.crt",
        ),
    ],
)
def test_url_has_the_tls_port(data: dict[str, Any], url: str) -> None:
    own = load(data)
    assert acl.url(own, acl.users(own)[0]) == url
