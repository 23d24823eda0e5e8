"""TLS: clients on other hosts verify Redis, and renewals close no connection.

Turning TLS off removes everything.
"""

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
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Lost
from redis.retry import Retry

from redoubt import certificate_store, certificates
from redoubt.certificates import Identity
from redoubt.redis_conf import TLS_CIPHERS
from redoubt.secret_backends import FileSource
from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployed_redis import Instance, tcp_tunnel
from tests.deployer import Deployer, command
from tests.lifecycle.conftest import assert_no_change
from tests.lifecycle.expected_files import TREE, looks

NAME = "redis.example.test"

# A TLS client for a host. Standard input has the address, the CA, the name to verify and the text to send.
CLIENT = """
import json, socket, ssl, sys
request = json.load(sys.stdin)
try:
    with socket.create_connection((request["address"], 6379), timeout=3) as plain:
        plain.settimeout(3)
        context = ssl.create_default_context(cadata=request["ca"])
        with context.wrap_socket(plain, server_hostname=request["name"]) as secured:
            secured.sendall(request["text"].encode())
            print(secured.recv(100).decode().split())
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def settings(host: Host) -> dict[str, Any]:
    """Only TLS, published on every address, which needs no redis_allow_from with TLS."""
    return {"redis_tls": "required", "redis_bind": ["0.0.0.0"], "redis_tls_names": [NAME, str(host.address)]}


@pytest.fixture(scope="module")
def redis(host: Host, without_traces: None, deployer: Deployer, settings: dict[str, Any]) -> Instance:
    """The shared host with TLS, and without files of other modules."""
    result = deployer.deploy(host, **settings)
    assert result.returncode == 0, result.stderr
    assert "the CA is /srv/redis/ca.crt on the host; the certificate expires on " in result.stderr
    return Instance(host, deployer.secrets(host))


def stored(deployer: Deployer, host: Host, settings: dict[str, Any]) -> Identity:
    """Return the certificate in the store of this machine."""
    identity = certificate_store.load(load({"redis_secrets_dir": str(deployer.secrets_dir), **settings}), host.name)
    assert identity is not None
    return identity


@contextmanager
def client(redis: Instance, identity: Identity, **options: Any) -> Iterator[Redis]:
    """Connect a client with the CA from this machine, through SSH. It never retries."""
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
        ) as connection,
    ):
        yield connection


def served_certificate(redis: Instance, identity: Identity) -> str:
    """Return the certificate that a new client gets, in PEM."""
    with client(redis, identity) as new_client:
        connection = new_client.connection_pool.get_connection()
        assert isinstance(connection._sock, ssl.SSLSocket)
        certificate = connection._sock.getpeercert(binary_form=True)
        assert certificate
        new_client.connection_pool.release(connection)
    return ssl.DER_cert_to_PEM_cert(certificate)


def replace_stored(deployer: Deployer, host: Host, settings: dict[str, Any], identity: Identity) -> None:
    """Replace the certificate in the store of this machine."""
    path = Path(
        certificate_store.location(load({"redis_secrets_dir": str(deployer.secrets_dir), **settings}), host.name)
    )
    certificate_store.write_identity(FileSource(path), identity)


def issued_for(ca: certificates.Authority, names: list[str], at: datetime, days: int) -> Identity:
    """Issue an instance's certificate and its client certificate."""
    return certificates.issue_for_instance(ca, "old", "redis", names, now=at, days=days)


def names(identity: Identity) -> set[str]:
    """Return the names of a certificate's files on the host."""
    pairs = {f"{who}-{identity.digest}.{kind}" for who in ("server", "client") for kind in ("crt", "key")}
    return {*pairs, f"ca-{identity.digest}.crt"}


def installed(redis: Instance) -> set[str]:
    return set(redis.host.run("ls /srv/redis/config/tls", check=True).stdout.split())


def authority(deployer: Deployer) -> certificates.Authority:
    """Return the CA that the deploys created."""
    return certificate_store.load_or_create_authority(
        load({"redis_secrets_dir": str(deployer.secrets_dir)}), datetime.now(UTC)
    )


def test_host_suite_passes_with_tls(redis: Instance, deployer: Deployer, settings: dict[str, Any]) -> None:
    """Sessions and RQ jobs as well: there is no other port."""
    inventory = deployer.inventory(redis.host, **settings)
    suite = (sys.executable, "-m", "pytest", "tests/host", "--inventory", str(inventory), "--writes")
    completed = command(*suite, timeout=300)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "encryption (redis_tls = 'off')" not in completed.stdout
    assert re.search(r"^=+ \d{3} passed, \d+ deselected", completed.stdout, re.MULTILINE), completed.stdout


def test_client_on_another_host_verifies_name_and_ca(
    redis: Instance, deployer: Deployer, settings: dict[str, Any], start_host: Callable[..., Host]
) -> None:
    neighbour = start_host("lifecycle-bare", image="bare")
    ca = redis.host.run("cat /srv/redis/ca.crt", check=True).stdout
    login = f"AUTH sessions {redis.secrets.passwords['sessions']}\r\n"

    def answer(name: str, ca: str) -> str:
        request = {"address": str(redis.host.address), "ca": ca, "name": name, "text": login}
        neighbour.run("cat >/run/client.py", input=CLIENT, check=True)
        return neighbour.run("python3 /run/client.py", input=json.dumps(request), check=True).stdout.strip()

    assert answer(NAME, ca) == "['+OK']"
    assert answer(str(redis.host.address), ca) == "['+OK']"
    assert answer("another.example.test", ca) == "SSLCertVerificationError"
    assert answer(NAME, certificates.new_authority(datetime.now(UTC)).certificate) == "SSLCertVerificationError"
    assert ca == stored(deployer, redis.host, settings).ca


def test_renewal_closes_no_connection(redis: Instance, deployer: Deployer, settings: dict[str, Any]) -> None:
    """Two thirds of its life are over, and the running Redis loads the next one."""
    ca, now = authority(deployer), datetime.now(UTC)
    old = issued_for(ca, [NAME, "127.0.0.1"], now - timedelta(days=250), 365)
    before, first = redis.identity, stored(deployer, redis.host, settings)
    with client(redis, first) as connected:
        number = connected.client_id()
        replace_stored(deployer, redis.host, settings, old)
        renewed = deployer.deploy(redis.host, **settings)
        assert renewed.returncode == 0, renewed.stderr
        second = stored(deployer, redis.host, settings)
        assert second.certificate not in (first.certificate, old.certificate)
        assert renewed.changed == [
            "TLS | Write the certificate",
            "TLS | Load the certificate into the running Redis",
            "TLS | Write tls.conf and the CA for clients",
            "Previous certificates | Remove previous certificates",
        ]
        assert connected.client_id() == number
    assert redis.identity == before
    assert served_certificate(redis, second) == second.certificate
    assert installed(redis) == names(second)
    # A restart reads the same certificate.
    redis.host.run("docker restart redis && cd /srv/redis && docker compose up --detach --wait", check=True)
    assert served_certificate(redis, second) == second.certificate


def test_killed_renewal_is_finished_by_next_deploy(
    redis: Instance, deployer: Deployer, settings: dict[str, Any]
) -> None:
    """The host has both certificates then, and Redis has loaded one of them."""
    ca, now = authority(deployer), datetime.now(UTC)
    before, first = redis.identity, stored(deployer, redis.host, settings)
    replace_stored(deployer, redis.host, settings, issued_for(ca, [NAME], now - timedelta(days=250), 365))
    running = deployer.start(redis.host, **settings)
    running.wait_for("Starting operation: TLS | Load the certificate into the running Redis")
    running.signal(signal.SIGKILL)
    running.wait()
    second = stored(deployer, redis.host, settings)
    assert second != first
    # Until Redis has loaded the new one, a restart loads the previous one.
    assert first.digest in redis.host.run("cat /srv/redis/config/tls.conf", check=True).stdout
    assert served_certificate(redis, first) in (first.certificate, second.certificate)

    finished = deployer.deploy(redis.host, **settings)
    assert finished.returncode == 0, finished.stderr
    assert served_certificate(redis, second) == second.certificate
    assert installed(redis) == names(second)
    assert redis.identity == before


def test_expired_certificate_is_unhealthy_until_deploy(
    redis: Instance, deployer: Deployer, settings: dict[str, Any]
) -> None:
    """The certificate is replaced by hand, because no deploy leaves an expired one."""
    issued = datetime.now(UTC) - timedelta(days=10)
    expired = certificates.issue(authority(deployer), "expired", ["127.0.0.1"], issued, 9)
    now = stored(deployer, redis.host, settings)
    for text, suffix in ((expired.certificate, "crt"), (expired.key, "key")):
        redis.host.run(f"cat >/srv/redis/config/tls/server-{now.digest}.{suffix}", input=text, check=True)
    files = " ".join(f"tls-{kind}-file {redis.config(f'tls-{kind}-file')}" for kind in ("cert", "key"))
    assert redis.call(f"{redis.secrets.renamed_command('CONFIG')} SET {files}") == ["OK"]
    before = redis.identity

    check = "docker exec redis /bin/sh /etc/redis/healthcheck.sh"
    result = redis.host.run(check)
    assert (result.returncode, "certificate verify failed" in result.stdout) == (1, True), result.stdout
    redis.host.run("sed -i 's/^# expires .*/# expires 1700000000/' /srv/redis/config/tls.conf", check=True)
    result = redis.host.run(check)
    assert (result.returncode, result.stdout) == (1, "unhealthy: the certificate has expired: a deploy renews it\n")

    repaired = deployer.deploy(redis.host, **settings)
    assert repaired.returncode == 0, repaired.stderr
    assert "the files of redis's certificate have changed" in repaired.reasons
    assert served_certificate(redis, now) == now.certificate
    assert redis.identity == before


def test_deploy_without_the_ca_is_refused(
    redis: Instance, deployer: Deployer, settings: dict[str, Any], tmp_path: Path
) -> None:
    """It would create another CA, which no client trusts."""
    loaded = load({"redis_secrets_dir": str(deployer.secrets_dir), **settings})
    for path in map(
        Path, (certificate_store.location(loaded, redis.host.name), certificate_store.authority_location(loaded))
    ):
        path.rename(tmp_path / "away")
        try:
            refused = deployer.deploy(redis.host, **settings)
        finally:
            (tmp_path / "away").rename(path)
        assert refused.returncode == 1
        assert f"{path} is missing, and a deploy might give Redis a certificate of another CA" in refused.stderr
    unknown = deployer.deploy(redis.host, **settings, redis_tls_dayz=3)
    assert "did you mean redis_tls_days?" in unknown.stderr
    assert "is missing" not in unknown.stderr


def test_required_client_certificate_is_enforced(
    redis: Instance, deployer: Deployer, settings: dict[str, Any], tmp_path: Path
) -> None:
    """A required client certificate is enforced without a restart.

    A day-2 verb issues a client's certificate.
    """
    before, identity = redis.identity, stored(deployer, redis.host, settings)
    demanding = {**settings, "redis_tls_auth_clients": "yes"}
    assert redis.call(f"{redis.secrets.renamed_command('CONFIG')} SET tls-ciphers DEFAULT") == ["OK"]
    result = deployer.deploy(redis.host, **demanding)
    assert result.returncode == 0, result.stderr
    # The deploy reverts what somebody changed by hand.
    assert f"redis runs with tls-ciphers = 'DEFAULT', should be '{':'.join(TLS_CIPHERS)}'" in result.reasons
    assert redis.config("tls-ciphers") == ":".join(TLS_CIPHERS)
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
    with client(redis, identity) as stranger, pytest.raises(Lost):
        stranger.ping()
    files = {"ssl_certfile": str(tmp_path / "web/client.crt"), "ssl_keyfile": str(tmp_path / "web/client.key")}
    with client(redis, identity, **files) as trusted:
        assert trusted.ping()
    # Redis's own certificate is for servers alone: only the health check's is for clients.
    for name, text in (("server.crt", identity.certificate), ("server.key", identity.key)):
        (tmp_path / name).write_text(text)
    files = {"ssl_certfile": str(tmp_path / "server.crt"), "ssl_keyfile": str(tmp_path / "server.key")}
    with client(redis, identity, **files) as misused, pytest.raises(Lost):
        misused.ping()
    assert redis.identity == before
    assert (tmp_path / "web/client.key").stat().st_mode & 0o777 == 0o600
    assert redis.host.run("docker exec redis /bin/sh /etc/redis/healthcheck.sh").returncode == 0


def test_files_replace_issued_certificate_after_checks(
    redis: Instance, deployer: Deployer, settings: dict[str, Any], tmp_path: Path
) -> None:
    before, now = redis.identity, datetime.now(UTC)
    certificate = issued_for(certificates.new_authority(now), [NAME], now, 90)
    assert certificate.client is not None
    files = {kind: str(tmp_path / kind) for kind in ("cert", "key", "ca", "client_cert", "client_key")}
    pair = {kind: path for kind, path in files.items() if kind.startswith("client")}
    with_files = {
        **settings,
        "redis_tls_source": "files",
        "redis_tls_names": [NAME],
        "redis_tls_auth_clients": "optional",
        **{f"redis_tls_{kind}": path for kind, path in files.items() if kind not in pair},
    }
    expired = certificates.issue(certificates.new_authority(now), "other", ["other.test"], now - timedelta(days=9), 8)
    for kind, text in (("cert", expired.certificate), ("key", certificate.key), ("ca", certificate.ca)):
        Path(files[kind]).write_text(text)
    refused = deployer.deploy(redis.host, **with_files)
    assert refused.returncode == 1
    assert "Nothing was changed on any host. Fix these problems first:" in refused.stderr
    for problem in (
        "the key belongs to another certificate",
        "the certificate of CN=other expired on ",
        f"the certificate is not valid for {NAME} (redis_tls_names)",
        "the CA issued neither the certificate nor an intermediate one",
    ):
        assert f"{files['cert']}: {problem}" in refused.stderr

    Path(files["cert"]).write_text(certificate.certificate)
    accepted = deployer.deploy(redis.host, **with_files)
    assert accepted.returncode == 0, accepted.stderr
    with client(redis, certificate, ssl_check_hostname=False) as trusted:
        assert trusted.ping()
    assert redis.host.run("docker exec redis /bin/sh /etc/redis/healthcheck.sh").returncode == 0
    assert redis.identity == before
    # Without a client pair the files of the previous one are gone.
    assert len(installed(redis)) == 3
    # A client pair is needed once Redis requires a certificate, also of its health check.
    demanding = {**with_files, "redis_tls_auth_clients": "yes"}
    refused = deployer.deploy(redis.host, **demanding)
    assert "needs redis_tls_client_cert and redis_tls_client_key as well" in refused.stderr
    for kind, text in (("client_cert", certificate.client.certificate), ("client_key", certificate.client.key)):
        Path(files[kind]).write_text(text)
    demanding |= {f"redis_tls_{kind}": path for kind, path in pair.items()}
    accepted = deployer.deploy(redis.host, **demanding)
    assert accepted.returncode == 0, accepted.stderr
    with client(redis, certificate, ssl_check_hostname=False) as stranger, pytest.raises(Lost):
        stranger.ping()
    assert redis.host.run("docker exec redis /bin/sh /etc/redis/healthcheck.sh").returncode == 0
    assert redis.identity == before
    # Only here is the certificate the user's own.
    assert_no_change(deployer, redis.host, **demanding)


def test_turning_tls_off_removes_its_files(redis: Instance, deployer: Deployer) -> None:
    result = deployer.deploy(redis.host)
    assert result.returncode == 0, result.stderr
    assert looks(redis.host) == TREE
    assert redis.config("tls-port") == "0"
    # The health check ignores a tls.conf that an interrupted deploy left before it turned TLS on.
    redis.host.run("touch /srv/redis/config/tls.conf", check=True)
    checked = redis.host.run("docker exec redis /bin/sh /etc/redis/healthcheck.sh; rm /srv/redis/config/tls.conf")
    assert checked.stdout == "healthy\n"
