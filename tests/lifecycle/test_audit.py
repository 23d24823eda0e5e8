"""Failed controls of the security report: only those without their protection.

A control fails until a deploy repairs its protection.

A round removes the protections of some controls from a deployed host and asks for the report as an auditor does, in a
separate process and with an inventory of one's own, so the report only reads. All rounds together fail every control.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from redoubt import certificate_store, certificates
from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import ROOT, Deployer
from tests.host.controls import CONTROLS
from tests.lifecycle.audit_harms import ROUNDS, Harm

# With TLS, every control has something to prove.
SETTINGS: dict[str, Any] = {
    "redis_tls": "required",
    "redis_users": {"shop": {"role": "session", "keys": ["shop:*"]}},
}


@dataclass(frozen=True)
class Report:
    """The report of a host: exit code, terminal output, page and JUnit file."""

    host: str
    returncode: int
    terminal: str
    page: str
    junit: ElementTree.Element = field(repr=False)

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdicts by control, from the properties that programs read."""
        properties = self.junit.iterfind("testsuite/properties/property")
        return {entry.attrib["name"].partition(" on ")[0]: entry.attrib["value"] for entry in properties}

    def count_secrets(self, redis: Instance) -> int:
        """Return how many secrets of an instance the report contains."""
        text = self.terminal + self.page + ElementTree.tostring(self.junit, encoding="unicode")
        return sum(secret in text for secret in (*redis.secrets.passwords.values(), *redis.secrets.commands.values()))

    @property
    def failures(self) -> dict[str, set[str]]:
        """Return the failed tests by control, without the host.

        A parametrized test is named with and without parameters.
        """
        failures: dict[str, set[str]] = {}
        for case in self.junit.iterfind("testsuite/testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                name = case.attrib["name"].replace(f"ssh://{self.host}-", "")
                for entry in case.iterfind("properties/property[@name='control']"):
                    failures.setdefault(entry.attrib["value"], set()).update((name, name.partition("[")[0]))
        return failures


@pytest.fixture(scope="module")
def report(host: Host, deployer: Deployer, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Report]:
    """Return a function that creates the report of the shared host.

    It accepts further arguments of pytest, the source of a pytest plugin, and other settings of the inventory.
    """

    # At the host's own address, as with a real host: this machine then also tries Redis from outside.
    known_hosts = tmp_path_factory.mktemp("ssh") / "known_hosts"
    known_hosts.write_text(f"{host.address} {host.known_hosts.read_text().split(maxsplit=1)[1]}")
    reached = {"ssh_hostname": str(host.address), "ssh_port": 22, "ssh_known_hosts_file": str(known_hosts)}

    def create(*arguments: str, plugin: str = "", settings: dict[str, Any] = SETTINGS) -> Report:
        directory = tmp_path_factory.mktemp("audit")
        (directory / "harm.py").write_text(plugin)
        page, junit = directory / "new" / "audit.html", directory / "new" / "audit.xml"
        result = _pytest(
            *("-m", "security", "--inventory", str(deployer.inventory(host, **settings, **reached)), "-p", "harm"),
            *(f"--audit-page={page}", f"--junitxml={junit}", *arguments),
            PYTHONPATH=str(directory),
            STORE=str(deployer.secrets_dir / host.name / "redis.yml"),
        )
        assert page.read_text(), result.stdout + result.stderr
        return Report(host.name, result.returncode, result.stdout, page.read_text(), ElementTree.parse(junit).getroot())

    return create


def _pytest(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "tests/host", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """Deploy the shared host. Every test leaves it deployed."""
    return deployer.instance(host, **SETTINGS)


@pytest.fixture(scope="module")
def sound(redis: Instance, report: Callable[..., Report]) -> Report:
    """Return the report of the host as it was deployed."""
    return report()


def _install_certificate(redis: Instance, deployer: Deployer, name: str) -> None:
    """Replace the instance's certificate by one of the same CA for every purpose."""
    now = datetime.now(UTC)
    ca = certificate_store.load_or_create_authority(load({"redis_secrets_dir": str(deployer.secrets_dir)}), now)
    other = certificates.issue(ca, name, [name], now, 90)
    for directive, text in (("tls-cert-file", _for_every_purpose(other, ca)), ("tls-key-file", other.key)):
        file = redis.config(directive).replace("/etc/redis", "/srv/redis/config")
        redis.host.run(f"cat >{file}", input=text, check=True)


def _for_every_purpose(identity: certificates.Identity, ca: certificates.Authority) -> str:
    """Return a certificate that is valid for servers and for clients, in PEM."""
    leaf = identity.chain[0]
    builder = (
        x509.CertificateBuilder(leaf.issuer, leaf.subject, leaf.public_key(), x509.random_serial_number())
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
    )
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    for extension in leaf.extensions:
        value = both if isinstance(extension.value, x509.ExtendedKeyUsage) else extension.value
        builder = builder.add_extension(value, extension.critical)
    signer = serialization.load_pem_private_key(ca.key.encode(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _harm(redis: Instance, deployer: Deployer, harms: tuple[Harm, ...]) -> None:
    """Do all harms of a round: files and containers first, then the running Redis."""
    for harm in harms:
        if harm.certificate:
            _install_certificate(redis, deployer, harm.certificate)
        if harm.shell:
            redis.host.run(harm.shell, check=True)
    overrides = {f"/run/by-hand-{number}.yml": harm.compose for number, harm in enumerate(harms) if harm.compose}
    for path, compose in overrides.items():
        redis.host.run(f"cat >{path}", input=f"services:\n  redis:\n{compose}\n", check=True)
    if overrides:
        files = " ".join(f"-f {path}" for path in ("compose.yml", *overrides))
        redis.host.run(
            f"cd /srv/redis && docker compose {files} up --detach --wait && rm {' '.join(overrides)}", check=True
        )
    commands = [command for harm in harms for command in harm.redis]
    if commands:
        config = redis.secrets.renamed_command("CONFIG")
        answers = redis.call(*(command.format(config=config) for command in commands))
        assert answers[0] == "OK"
    for harm in harms:
        redis.host.run(harm.last or "true", check=True)


def test_deployed_host_is_proven(sound: Report) -> None:
    """Every control without a known limit is proven on a deployed host.

    Each test that is left out is named with the option that includes it.
    """
    assert (sound.returncode, sound.failures) == (0, {})
    assert set(sound.verdicts) == set(CONTROLS)
    for control, text in sound.verdicts.items():
        limit = CONTROLS[control].lacks
        assert text.startswith("proven by ") if not limit else text.endswith(f" passed): {limit}"), (control, text)
        assert f"{control} " in sound.terminal
        assert CONTROLS[control].promise.replace("'", "&#39;") in sound.page
    left_out = "least privilege: Script has no more rights than its user (--writes includes it) on "
    assert left_out + sound.host in sound.terminal
    assert "--writes includes it" in sound.page


@pytest.mark.parametrize("harms", ROUNDS.values(), ids=ROUNDS.keys())
def test_missing_protection_fails_its_control(
    harms: tuple[Harm, ...], redis: Instance, sound: Report, report: Callable[..., Report], deployer: Deployer
) -> None:
    """Only the controls of the round's harms fail.

    So the next round shows what a deploy did not repair.
    """
    try:
        _harm(redis, deployer, harms)
        harmed = report(plugin="".join(harm.plugin for harm in harms))
    finally:
        for harm in harms:
            redis.host.run(harm.cure)
        repair = deployer.deploy(redis.host, **SETTINGS)
    assert repair.returncode == 0, repair.stderr

    assert harmed.returncode == 1
    for harm in harms:
        for control, tests in harm.failures.items():
            assert tests - harmed.failures.get(control, set()) == set(), f"{harm.name}\n{harmed.terminal}"
    controls = {control for harm in harms for control in harm.failures}
    assert set(harmed.failures) == controls, harmed.terminal
    for control in controls:
        assert harmed.verdicts[control].startswith("FAILED: ")
        assert f"{control} on {harmed.host}: " in harmed.terminal
        assert f'<td class="failed">{harmed.verdicts[control]}</td>' in harmed.page
    changed = {control for control, text in harmed.verdicts.items() if text != sound.verdicts[control]}
    assert changed == controls, harmed.terminal
    assert harmed.count_secrets(redis) == 0
    if any(harm.plugin for harm in harms):
        assert harmed.page.count("[secret]") >= len(redis.secrets.passwords)


def test_deploys_have_repaired_everything(sound: Report, report: Callable[..., Report]) -> None:
    again = report()
    assert (again.returncode, again.failures, again.verdicts) == (0, {}, sound.verdicts), again.terminal


def test_partial_run_proves_nothing(redis: Instance, report: Callable[..., Report]) -> None:
    """A control of which only some tests ran is not proven; the exit code stays 0."""
    partial = report("-k", "strangers or edge")
    assert partial.returncode == 0
    assert partial.verdicts["authentication"].startswith("not proven (5 passed): of its tests, ")
    assert partial.verdicts["network"].startswith("not proven (1 passed): of its tests, ")
    assert all(text.startswith("not proven") for text in partial.verdicts.values())


def test_unknown_control_is_refused(redis: Instance, deployer: Deployer, tmp_path: Path) -> None:
    (tmp_path / "slip.py").write_text(
        "import pytest\n"
        "def pytest_itemcollected(item):\n"
        "    if 'strangers' in item.name: item.add_marker(pytest.mark.security('netwrok'))\n"
    )
    inventory = str(deployer.inventory(redis.host, **SETTINGS))
    result = _pytest("-p", "slip", "-m", "security", "--inventory", inventory, PYTHONPATH=str(tmp_path))
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_strangers_are_refused" in result.stderr
    assert ": netwrok" in result.stderr
    assert "authentication, least privilege, " in result.stderr


def test_report_says_what_the_settings_turn_off(
    redis: Instance, deployer: Deployer, report: Callable[..., Report]
) -> None:
    """Without TLS the control is off, although the host is as its settings say.

    The report names what that means, and still succeeds.
    """
    plain = {**SETTINGS, "redis_tls": "off"}
    assert deployer.deploy(redis.host, **plain).returncode == 0
    without = report("-k", "test_tls or test_config", settings=plain)
    assert (without.returncode, without.failures) == (0, {})
    text = without.verdicts["TLS"]
    assert text.startswith("off by the settings (1 passed): redis_tls = 'off': no other host reaches the port, but")
    assert "off by the settings:\n  TLS: redis_tls = 'off': no other host reaches the port" in without.terminal
    assert '<td class="off">off by the settings (1 passed)</td>' in without.page
