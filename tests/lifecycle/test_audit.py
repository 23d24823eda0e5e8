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

from redoubt import certificate_store, certificates
from redoubt.settings.load import load
from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import ROOT, Deployer
from tests.host.controls import CONTROLS

# With TLS, every control has something to prove.
SETTINGS: dict[str, Any] = {"redis_tls": "required"}


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

    It accepts further arguments of pytest, and the source of a pytest plugin.
    """

    def create(*arguments: str, plugin: str = "") -> Report:
        directory = tmp_path_factory.mktemp("audit")
        (directory / "harm.py").write_text(plugin)
        page, junit = directory / "new" / "audit.html", directory / "new" / "audit.xml"
        result = _pytest(
            *("-m", "security", "--inventory", str(deployer.inventory(host, **SETTINGS)), "-p", "harm"),
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


@dataclass(frozen=True)
class Harm:
    """A way to remove a protection, and the tests that must fail because of it.

    ``failures`` are these tests by control. ``shell`` runs on the host. ``compose`` is merged into the service of
    Redis, which is then recreated. ``redis`` are commands of the admin, where ``{config}`` is the new name of CONFIG.
    ``certificate`` is the name in another certificate for Redis. ``last`` is a shell command that runs last. ``plugin``
    is a pytest plugin for the report, in which $STORE is the path of the secret store. ``cure`` undoes what no deploy
    repairs.
    """

    name: str
    failures: dict[str, set[str]]
    redis: tuple[str, ...] = ()
    certificate: str = ""
    shell: str = ""
    compose: str = ""
    last: str = ""
    plugin: str = ""
    cure: str = "true"


ENABLE_COMMANDS = "cd /srv/redis && sed -i '/ \"\"$/d' secrets/server/commands.conf"

# Harms that a running Redis takes.
LIVE_HARMS = (
    Harm(
        "users without passwords",
        redis=(
            "ACL SETUSER sessions nopass",
            "ACL SETUSER eve on nopass ~* +@all",
            # With protected mode Redis would refuse all connections once the default user needs no password.
            "{config} SET protected-mode no",
            "ACL SETUSER default on nopass",
        ),
        failures={
            "authentication": {
                "test_users_are_those_of_the_settings",
                "test_every_user_needs_a_password",
                "test_only_passwords_of_the_store_are_valid",
                "test_strangers_are_refused",
                "test_wrong_passwords_are_refused",
                "test_restart_keeps_the_current_passwords",
                "test_redis_runs_as_the_settings_say",
            }
        },
    ),
    Harm(
        "all rights for the sessions user",
        redis=("ACL SETUSER sessions ~* &* +@all",),
        failures={
            "least privilege": {
                "test_user_may_do_nothing_else",
                "test_real_client_is_refused",
                "test_new_names_do_not_help_other_users",
            }
        },
    ),
    Harm(
        "another certificate, and old TLS versions",
        certificate="another.invalid",
        redis=(
            # Debian's OpenSSL refuses old versions at its default security level.
            '{config} SET tls-ciphers DEFAULT:@SECLEVEL=0 tls-auth-clients optional tls-protocols "TLSv1.1 TLSv1.2"',
        ),
        failures={
            "TLS": {
                "test_server_has_the_configured_certificate",
                "test_other_names_and_cas_are_refused",
                "test_old_tls_versions_are_refused",
                "test_client_certificate_is_required_if_configured",
            }
        },
        # No setting names ciphers, so no deploy resets them.
        cure="docker restart redis",
    ),
    Harm(
        "another image under the image's name",
        last="image=$(docker inspect --format '{{.Config.Image}}' redis) && "
        "docker commit --change 'LABEL other=1' redis $image",
        failures={"version": {"test_redis_runs_the_image_that_the_settings_name"}},
    ),
    Harm(
        "a failed check whose message contains all secrets",
        plugin="import os, pathlib\n"
        "def pytest_runtest_call(item):\n"
        "    if 'passwords_cannot' in item.name: raise AssertionError(pathlib.Path(os.environ['STORE']).read_text())\n",
        failures={"authentication": {"test_passwords_cannot_be_guessed"}},
    ),
)
# Harms for which Redis restarts.
RESTART_HARMS = (
    Harm(
        "commands under their own names, code in the server, and an admin who may run it",
        shell=f"{ENABLE_COMMANDS} && echo 'enable-debug-command yes' >>config/redis.conf",
        redis=(
            "ACL SETUSER admin +@all",
            "FUNCTION LOAD \"#!lua name=left\\nredis.register_function('left', function() return 1 end)\"",
        ),
        failures={
            "dangerous commands": {
                "test_renamed_and_disabled_commands_are_unknown",
                "test_redis_runs_as_the_settings_say",
                "test_no_user_may_call",
                "test_server_has_no_code_but_the_settings_modules",
            },
            "least privilege": {"test_user_may_do_nothing_else"},
        },
        # The AOF keeps the function, and no deploy changes data.
        cure="{ cat /srv/redis/secrets/admin | sed 's/^/AUTH admin /'; echo; echo FUNCTION FLUSH; } | "
        "docker exec -i redis redis-cli -s /run/redis/redis.sock",
    ),
    Harm(
        "published to everybody, on networks that lead out",
        shell="cd /srv/redis && docker compose down && "
        'sed -i \'s/host_ip: "127.0.0.1"/host_ip: "0.0.0.0"/; s/internal: true/internal: false/; '
        's/enable_ip_masquerade: "false"/enable_ip_masquerade: "true"/\' compose.yml && '
        "docker compose up --detach --wait && docker network connect bridge redis",
        failures={
            "network": {
                "test_port_listens_only_where_the_settings_say",
                "test_container_publishes_nothing_else",
                "test_only_configured_addresses_accept_connections",
                "test_redis_is_on_its_own_networks_alone",
                "test_backend_network_is_internal",
                "test_no_rule_masquerades_redis",
                "test_nothing_outside_answers_redis",
            }
        },
    ),
)
# Harms for which the container is recreated, and those to files.
CONTAINER_HARMS = (
    Harm(
        "files open to others",
        shell="cd /srv/redis && chmod 755 config data && chmod 644 config/redis.conf && "
        "install -d -o 999 -m 755 data/previous && chmod 755 data/live && "
        "chmod 644 data/live/appendonlydir/*.manifest && chmod 777 backups && chown 1000 logs/redis.log && "
        "chmod 440 secrets/admin && chmod 711 secrets && ln -s /etc/shadow backups/shadow && "
        "chmod 666 /etc/logrotate.d/redis /etc/systemd/system/redis-recover.service && chmod 777 /srv",
        failures={
            "file permissions": {
                "test_directory_has_its_owner_and_mode[data-owner2-448]",
                "test_directory_has_its_owner_and_mode[data/live-owner3-448]",
                "test_file_has_its_owner_and_mode",
                "test_redis_owns_its_data_and_logs",
                "test_root_owns_the_data_next_to_live",
                "test_backups_are_private_and_read_only",
                "test_no_other_user_can_write_below_the_root",
                "test_other_users_can_read_only_public_files",
                "test_each_user_has_its_own_secret_file",
                "test_directories_above_the_root_belong_to_root",
                "test_files_that_root_executes_belong_to_root",
                "test_files_grant_no_more_than_their_mode",
            }
        },
        cure="chmod 755 /srv; rm /srv/redis/backups/shadow; rmdir /srv/redis/data/previous; "
        "chown 999 /srv/redis/logs/redis.log; chmod 600 /srv/redis/data/live/appendonlydir/*.manifest",
    ),
    Harm(
        "a password in the environment, in arguments and in files",
        shell="printf 'REDIS_PASSWORD=%s\\n' \"$(cat /srv/redis/secrets/sessions)\" | "
        "tee /run/by-hand.env /etc/by-hand.env >/tmp/by-hand.env && "
        "cp /tmp/by-hand.env /srv/redis/by-hand.env && chmod 644 /srv/redis/by-hand.env && "
        'systemd-run --quiet --unit by-hand sh -c \'exec sh -c "sleep 600; :" "$(cat /srv/redis/secrets/sessions)"\'',
        compose="""
            env_file: [/run/by-hand.env]
        """,
        failures={
            "secrets exposure": {
                "test_source_shows_no_secret[docker inspect]",
                "test_source_shows_no_secret[docker inspect of all containers]",
                "test_source_shows_no_secret[files for all to read]",
                "test_source_shows_no_secret[settings of the host]",
                "test_source_shows_no_secret[temporary files]",
                "test_no_process_shows_a_secret",
                "test_container_has_only_the_images_variables",
            },
            "file permissions": {"test_other_users_can_read_only_public_files"},
        },
        cure="systemctl stop by-hand; rm -f /run/by-hand.env /etc/by-hand.env /tmp/by-hand.env /srv/redis/by-hand.env",
    ),
    Harm(
        "root in a privileged container without limits, with Docker's socket, root's data and the host's processes",
        # Redis does not own what root writes there.
        shell="touch /srv/redis/data/live/by-hand",
        compose="""
            privileged: true
            user: "0:0"
            group_add: ["27"]
            read_only: false
            pid: host
            ipc: host
            uts: host
            device_cgroup_rules: ["c 1:3 r"]
            security_opt: [seccomp=unconfined]
            volumes:
              - /var/run/docker.sock:/var/run/docker.sock
              - /etc:/host:ro
              - /srv/redis/data:/everything
            memswap_limit: -1
            deploy: {resources: {limits: {cpus: "2", memory: 4g, pids: 100000}}}
        """,
        failures={
            "container isolation": {
                "test_memory_is_limited",
                "test_redis_never_swaps",
                "test_cpus_are_limited",
                "test_processes_are_limited",
                "test_no_process_has_a_capability",
                "test_processes_run_without_privileges",
                "test_processes_are_in_no_other_groups",
                "test_no_namespace_is_shared_with_the_host",
                "test_docker_adds_no_rights",
                "test_only_data_and_logs_are_writable",
                "test_writable_memory_is_what_docker_needs",
                "test_mount_is_read_only",
                "test_write_to_read_only_mount_fails",
                "test_redis_cannot_reach_docker",
                "test_only_directories_of_the_instance_are_mounted",
                "test_no_mount_contains_working_data[data/previous]",
                "test_no_mount_contains_working_data[data/staging]",
                "test_no_mount_contains_working_data[data/rollback]",
                "test_no_mount_contains_working_data[data/journal.json]",
                "test_kernel_shows_no_working_data_in_the_container",
                "test_the_kernels_settings_are_read_only",
                "test_the_kernels_secrets_are_covered",
                "test_docker_options_grant_nothing_else[PidMode-]",
                "test_docker_options_grant_nothing_else[IpcMode-private]",
                "test_docker_options_grant_nothing_else[UTSMode-]",
                "test_docker_options_grant_nothing_else[DeviceCgroupRules-None]",
                "test_docker_options_grant_nothing_else[GroupAdd-None]",
                "test_no_filter_is_turned_off",
            },
            "file permissions": {"test_redis_owns_its_data_and_logs"},
        },
        # SIGKILL: a Redis that stops cleanly would write more files as root.
        cure="docker kill redis; rm /srv/redis/data/live/by-hand; "
        "chown -R 999:999 /srv/redis/data/live /srv/redis/logs",
    ),
)
ROUNDS = {"live": LIVE_HARMS, "restart": RESTART_HARMS, "container": CONTAINER_HARMS}


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """Deploy the shared host. Every test leaves it deployed."""
    return deployer.instance(host, **SETTINGS)


@pytest.fixture(scope="module")
def sound(redis: Instance, report: Callable[..., Report]) -> Report:
    """Return the report of the host as it was deployed."""
    return report()


def _install_certificate(redis: Instance, deployer: Deployer, name: str) -> None:
    """Replace the instance's certificate by another one of the same CA."""
    now = datetime.now(UTC)
    ca = certificate_store.load_or_create_authority(load({"redis_secrets_dir": str(deployer.secrets_dir)}), now)
    other = certificates.issue(ca, name, [name], now, 90)
    for directive, text in (("tls-cert-file", other.certificate), ("tls-key-file", other.key)):
        file = redis.config(directive).replace("/etc/redis", "/srv/redis/config")
        redis.host.run(f"cat >{file}", input=text, check=True)


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
    """Every control is proven on a deployed host.

    Each test that is left out is named with the option that includes it.
    """
    assert (sound.returncode, sound.failures) == (0, {})
    assert set(sound.verdicts) == set(CONTROLS)
    for control, text in sound.verdicts.items():
        assert text.startswith("proven by "), (control, text)
        assert f"{control} " in sound.terminal
        assert CONTROLS[control].promise.replace("'", "&#39;") in sound.page
    left_out = "least privilege: Script has no more rights than its user (--writes includes it) on "
    assert left_out + sound.host in sound.terminal
    assert "--writes includes it" in sound.page


def test_rounds_fail_every_control() -> None:
    assert {control for harms in ROUNDS.values() for harm in harms for control in harm.failures} == set(CONTROLS)


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
