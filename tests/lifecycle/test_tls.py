"""TLS: from another host by name and address, renewed while clients stay, and nothing of it left once it is off."""

import json
import re
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Lost
from redis.retry import Retry

from redoubt import certificate_store, certificates
from redoubt.certificates import Identity
from redoubt.secret_backends import FileSource
from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer, command
from tests.lifecycle.deployed_redis import Instance, tcp_tunnel
from tests.lifecycle.expected_files import TREE, looks

NAME = "redis.example.test"

# A client in the language that the host has: by TLS with a CA and a name to check, told on standard input.
CLIENT = """
import json, socket, ssl, sys
told = json.load(sys.stdin)
try:
    with socket.create_connection((told["address"], 6379), timeout=3) as plain:
        plain.settimeout(3)
        with ssl.create_default_context(cadata=told["ca"]).wrap_socket(plain, server_hostname=told["name"]) as secured:
            secured.sendall(told["say"].encode())
            print(secured.recv(100).decode().split())
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def settings(host: Host) -> dict[str, Any]:
    """TLS alone, published to everybody: with it that needs no list of networks."""
    return {"redis_tls": "required", "redis_bind": ["0.0.0.0"], "redis_tls_names": [NAME, str(host.address)]}


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer, settings: dict[str, Any]) -> Instance:
    """The shared host with TLS."""
    result = deployer.deploy(host, **settings)
    assert result.returncode == 0, result.stderr
    assert "the CA is /srv/redis/ca.crt on the host; the certificate expires on " in result.stderr
    return Instance(host, deployer.secrets(host))


def kept(deployer: Deployer, host: Host, settings: dict[str, Any]) -> Identity:
    """The certificate as the deploy left it on this machine."""
    found = certificate_store.load(load({"redis_secrets_dir": str(deployer.secrets_dir), **settings}), host.name)
    assert found is not None
    return found


@contextmanager
def client(redis: Instance, identity: Identity, **options: Any) -> Iterator[Redis]:
    """A client on this machine, through SSH, that knows the CA. It never retries."""
    with (
        tcp_tunnel(redis.host, "127.0.0.1", 6379) as port,
        Redis(
            port=port,
            username="sessions",
            password=redis.secrets.passwords["sessions"],
            ssl=True,
            ssl_ca_data=identity.ca,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=10,
            **options,
        ) as made,
    ):
        yield made


def served(redis: Instance, identity: Identity) -> str:
    """The certificate that a new client is shown, in PEM."""
    with client(redis, identity) as made:
        connection = made.connection_pool.get_connection()
        assert isinstance(connection._sock, ssl.SSLSocket)
        shown = connection._sock.getpeercert(binary_form=True)
        assert shown
        made.connection_pool.release(connection)
    return ssl.DER_cert_to_PEM_cert(shown)


def replaced(deployer: Deployer, host: Host, settings: dict[str, Any], identity: Identity) -> None:
    """Put another certificate in the place of the one that is kept on this machine."""
    place = Path(
        certificate_store.location(load({"redis_secrets_dir": str(deployer.secrets_dir), **settings}), host.name)
    )
    document = {"certificate": identity.certificate, "key": identity.key, "ca": identity.ca}
    FileSource(place).write(json.dumps(document))


def names(identity: Identity) -> set[str]:
    """The files of a certificate on the host, of which nothing else is to be left."""
    return {f"server-{identity.digest}.crt", f"server-{identity.digest}.key", f"ca-{identity.digest}.crt"}


def files(redis: Instance) -> set[str]:
    return set(redis.host.run("ls /srv/redis/config/tls", check=True).stdout.split())


def authority(deployer: Deployer) -> certificates.Authority:
    """The CA that the deploys made."""
    return certificate_store.load_or_create_authority(
        load({"redis_secrets_dir": str(deployer.secrets_dir)}), datetime.now(UTC)
    )


def for_servers_alone(name: str, now: datetime) -> Identity:
    """A certificate as public CAs issue them by now: not to be shown by a client."""
    authority = certificates.new_authority(now)
    made = certificates.issue(authority, name, [name], now, 90)
    builder = x509.CertificateBuilder(made.chain[0].issuer, made.chain[0].subject, made.chain[0].public_key(), 2)
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=90))
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    for extension in made.chain[0].extensions:
        own = usage if isinstance(extension.value, x509.ExtendedKeyUsage) else extension.value
        builder = builder.add_extension(own, extension.critical)
    signer = serialization.load_pem_private_key(authority.key.encode(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    signed = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return Identity(signed.decode(), made.key, made.ca)


def test_the_acceptance_suite_passes_by_tls(redis: Instance, deployer: Deployer, settings: dict[str, Any]) -> None:
    """Sessions and RQ's jobs too: no other port is left."""
    again = deployer.deploy(redis.host, **settings)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    inventory = deployer.inventory(redis.host, **settings)
    suite = (sys.executable, "-m", "pytest", "tests/host", "--inventory", str(inventory), "--writes")
    done = command(*suite, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "what encryption promises" not in done.stdout
    assert re.search(r"^=+ \d{3} passed, \d+ deselected", done.stdout, re.MULTILINE), done.stdout


def test_another_host_checks_the_name_and_the_address(
    redis: Instance, deployer: Deployer, settings: dict[str, Any], start_host: Callable[..., Host]
) -> None:
    neighbour = start_host("lifecycle-bare", image="bare")
    ca = redis.host.run("cat /srv/redis/ca.crt", check=True).stdout
    login = f"AUTH sessions {redis.secrets.passwords['sessions']}\r\n"

    def answer(name: str, ca: str) -> str:
        told = {"address": str(redis.host.address), "ca": ca, "name": name, "say": login}
        neighbour.run("cat >/run/client.py", input=CLIENT, check=True)
        return neighbour.run("python3 /run/client.py", input=json.dumps(told), check=True).stdout.strip()

    assert answer(NAME, ca) == "['+OK']"
    assert answer(str(redis.host.address), ca) == "['+OK']"
    assert answer("another.example.test", ca) == "SSLCertVerificationError"
    assert answer(NAME, certificates.new_authority(datetime.now(UTC)).certificate) == "SSLCertVerificationError"
    assert ca == kept(deployer, redis.host, settings).ca


def test_a_deploy_renews_it_and_no_client_is_disconnected(
    redis: Instance, deployer: Deployer, settings: dict[str, Any]
) -> None:
    """Two thirds of its life are over: Redis takes the next one over while it runs."""
    ca, now = authority(deployer), datetime.now(UTC)
    old = certificates.issue(ca, "old", [NAME, "127.0.0.1"], now - timedelta(days=250), 365)
    before, first = redis.identity, kept(deployer, redis.host, settings)
    with client(redis, first) as staying:
        number = staying.client_id()
        replaced(deployer, redis.host, settings, old)
        renewed = deployer.deploy(redis.host, **settings)
        assert renewed.returncode == 0, renewed.stderr
        second = kept(deployer, redis.host, settings)
        assert second.certificate not in (first.certificate, old.certificate)
        assert renewed.changed == [
            "TLS | Write the certificate",
            "TLS | Load the certificate into the running Redis",
            "TLS | Write tls.conf and the CA for clients",
            "Previous certificates | Remove previous certificates",
        ]
        assert staying.client_id() == number
    assert redis.identity == before
    assert served(redis, second) == second.certificate
    assert files(redis) == names(second)
    again = deployer.deploy(redis.host, **settings)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    # And it is what a start reads.
    redis.host.run("docker restart redis && cd /srv/redis && docker compose up --detach --wait", check=True)
    assert served(redis, second) == second.certificate


def test_a_renewal_that_is_killed_is_finished_by_the_next_deploy(
    redis: Instance, deployer: Deployer, settings: dict[str, Any]
) -> None:
    """The host has both then, and Redis one of them: neither a start nor a deploy lost its certificate."""
    ca, now = authority(deployer), datetime.now(UTC)
    before, first = redis.identity, kept(deployer, redis.host, settings)
    replaced(deployer, redis.host, settings, certificates.issue(ca, "old", [NAME], now - timedelta(days=250), 365))
    running = deployer.start(redis.host, **settings)
    running.wait_for("Starting operation: TLS | Load the certificate into the running Redis")
    running.signal(signal.SIGKILL)
    running.wait()
    second = kept(deployer, redis.host, settings)
    assert second != first
    # Until Redis has the new one, a start loads the former.
    assert first.digest in redis.host.run("cat /srv/redis/config/tls.conf", check=True).stdout
    assert served(redis, first) in (first.certificate, second.certificate)

    finished = deployer.deploy(redis.host, **settings)
    assert finished.returncode == 0, finished.stderr
    assert served(redis, second) == second.certificate
    assert files(redis) == names(second)
    assert redis.identity == before
    assert deployer.deploy(redis.host, **settings).changed == []


def test_an_end_that_nobody_renewed_is_unhealthy_and_a_deploy_mends_it(
    redis: Instance, deployer: Deployer, settings: dict[str, Any]
) -> None:
    """By hand, as no deploy would bring it about."""
    ended = certificates.issue(authority(deployer), "ended", ["127.0.0.1"], datetime.now(UTC) - timedelta(days=10), 9)
    now = kept(deployer, redis.host, settings)
    for text, suffix in ((ended.certificate, "crt"), (ended.key, "key")):
        redis.host.run(f"cat >/srv/redis/config/tls/server-{now.digest}.{suffix}", input=text, check=True)
    files = " ".join(f"tls-{kind}-file {redis.config(f'tls-{kind}-file')}" for kind in ("cert", "key"))
    assert redis.call(f"{redis.secrets.renamed_command('CONFIG')} SET {files}") == ["OK"]
    before = redis.identity

    check = "docker exec redis /bin/sh /etc/redis/healthcheck.sh"
    found = redis.host.run(check)
    assert (found.returncode, "certificate verify failed" in found.stdout) == (1, True), found.stdout
    redis.host.run("sed -i 's/^# expires .*/# expires 1700000000/' /srv/redis/config/tls.conf", check=True)
    found = redis.host.run(check)
    assert (found.returncode, found.stdout) == (1, "unhealthy: the certificate has expired: a deploy renews it\n")

    mended = deployer.deploy(redis.host, **settings)
    assert mended.returncode == 0, mended.stderr
    assert "the files of redis's certificate have changed" in mended.reasons
    assert served(redis, now) == now.certificate
    assert redis.identity == before


def test_a_machine_without_the_ca_is_refused(
    redis: Instance, deployer: Deployer, settings: dict[str, Any], tmp_path: Path
) -> None:
    """It would make another CA, and shut out every client that knows the first."""
    own = load({"redis_secrets_dir": str(deployer.secrets_dir), **settings})
    for place in map(
        Path, (certificate_store.location(own, redis.host.name), certificate_store.authority_location(own))
    ):
        place.rename(tmp_path / "away")
        try:
            refused = deployer.deploy(redis.host, **settings)
        finally:
            (tmp_path / "away").rename(place)
        assert refused.returncode == 1
        assert f"{place} is missing, and a deploy might give Redis a certificate of another CA" in refused.stderr
    unknown = deployer.deploy(redis.host, **settings, redis_tls_dayz=3)
    assert "did you mean redis_tls_days?" in unknown.stderr
    assert "is missing" not in unknown.stderr
    assert deployer.deploy(redis.host, **settings).changed == []


def test_clients_show_a_certificate_when_it_is_demanded(
    redis: Instance, deployer: Deployer, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Without a restart; one for a client is issued by a day-2 verb."""
    before, identity = redis.identity, kept(deployer, redis.host, settings)
    demanding = {**settings, "redis_tls_auth_clients": "yes"}
    result = deployer.deploy(redis.host, **demanding)
    assert result.returncode == 0, result.stderr
    for _ in range(2):
        issued = deployer.deploy(
            redis.host,
            job="day2/client_certificate.py",
            arguments=(
                "-y",
                "--json",
                "--data",
                "redis_certificate_for=web",
                "--data",
                f"redis_certificate_to={tmp_path / 'web'}",
            ),
            **demanding,
        )
        assert issued.returncode == 0, issued.stderr
    assert issued.changed == []
    with client(redis, identity) as without, pytest.raises(Lost):
        without.ping()
    shown = {"ssl_certfile": str(tmp_path / "web/client.crt"), "ssl_keyfile": str(tmp_path / "web/client.key")}
    with client(redis, identity, **shown) as made:
        assert made.ping()
    assert redis.identity == before
    assert (tmp_path / "web/client.key").stat().st_mode & 0o777 == 0o600
    assert deployer.deploy(redis.host, **demanding).changed == []
    assert redis.host.run("docker exec redis /bin/sh /etc/redis/healthcheck.sh").returncode == 0


def test_given_files_take_the_place_of_issued_ones_and_bad_ones_are_refused(
    redis: Instance, deployer: Deployer, settings: dict[str, Any], tmp_path: Path
) -> None:
    before, now = redis.identity, datetime.now(UTC)
    own = for_servers_alone(NAME, now)
    files = {kind: str(tmp_path / kind) for kind in ("cert", "key", "ca")}
    given = {
        **settings,
        "redis_tls_source": "files",
        "redis_tls_names": [NAME],
        "redis_tls_auth_clients": "optional",
        **{f"redis_tls_{kind}": path for kind, path in files.items()},
    }
    ended = certificates.issue(certificates.new_authority(now), "other", ["other.test"], now - timedelta(days=9), 8)
    for kind, text in (("cert", ended.certificate), ("key", own.key), ("ca", own.ca)):
        Path(files[kind]).write_text(text)
    refused = deployer.deploy(redis.host, **given)
    assert refused.returncode == 1
    assert "Nothing was changed on any host. Fix these problems first:" in refused.stderr
    for words in (
        "the key belongs to another certificate",
        "the certificate of CN=other expired on ",
        f"the certificate is not valid for {NAME} (redis_tls_names)",
        "the CA issued neither the certificate nor an intermediate one",
    ):
        assert f"{files['cert']}: {words}" in refused.stderr

    Path(files["cert"]).write_text(own.certificate)
    accepted = deployer.deploy(redis.host, **given)
    assert accepted.returncode == 0, accepted.stderr
    with client(redis, own, ssl_check_hostname=False) as made:
        assert made.ping()
    assert redis.host.run("docker exec redis /bin/sh /etc/redis/healthcheck.sh").returncode == 0
    assert redis.identity == before
    assert deployer.deploy(redis.host, **given).changed == []


def test_turned_off_nothing_of_it_is_left(redis: Instance, deployer: Deployer) -> None:
    result = deployer.deploy(redis.host)
    assert result.returncode == 0, result.stderr
    assert looks(redis.host) == TREE
    assert redis.config("tls-port") == "0"
    again = deployer.deploy(redis.host)
    assert (again.returncode, again.changed) == (0, []), again.stderr
    # And as little as a deploy leaves that was interrupted before it turned TLS on.
    redis.host.run("touch /srv/redis/config/tls.conf", check=True)
    found = redis.host.run("docker exec redis /bin/sh /etc/redis/healthcheck.sh; rm /srv/redis/config/tls.conf")
    assert found.stdout == "healthy\n"
