"""The security report turns red where a guard is gone: that control and no other, until a deploy puts the guard back.

Each case takes a control's guards away by hand from a deployed host and asks for the report as an auditor does, in a
process of its own, by an inventory that is not the disposable hosts' own: so it only reads.
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
from tests.host.controls import CONTROLS
from tests.lifecycle.conftest import ROOT, Deployer
from tests.lifecycle.deployed_redis import Instance

# So that every control has something to prove.
SETTINGS: dict[str, Any] = {"redis_tls": "required"}


@dataclass(frozen=True)
class Report:
    """What a run left of a host: exit code, terminal, page, and the JUnit file."""

    host: str
    returncode: int
    terminal: str
    page: str
    junit: ElementTree.Element = field(repr=False)

    @property
    def verdicts(self) -> dict[str, str]:
        """In words, by control, as a machine reads them."""
        properties = self.junit.iterfind("testsuite/properties/property")
        return {entry.attrib["name"].partition(" on ")[0]: entry.attrib["value"] for entry in properties}

    def shown(self, redis: Instance) -> int:
        """How many of an instance's secrets are in it."""
        text = self.terminal + self.page + ElementTree.tostring(self.junit, encoding="unicode")
        return sum(secret in text for secret in (*redis.secrets.passwords.values(), *redis.secrets.commands.values()))

    @property
    def red(self) -> dict[str, set[str]]:
        """Test cases that failed, by control: without the host, and without any parameters."""
        found: dict[str, set[str]] = {}
        for case in self.junit.iterfind("testsuite/testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                name = case.attrib["name"].replace(f"ssh://{self.host}-", "")
                for entry in case.iterfind("properties/property[@name='control']"):
                    found.setdefault(entry.attrib["value"], set()).update((name, name.partition("[")[0]))
        return found


@pytest.fixture(scope="module")
def report(host: Host, deployer: Deployer, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Report]:
    """Ask for the report of the shared host."""

    def ask(*arguments: str, **env: str) -> Report:
        directory = tmp_path_factory.mktemp("audit") / "new"
        page, junit = directory / "audit.html", directory / "audit.xml"
        done = _pytest(
            *("-m", "security", "--inventory", str(deployer.inventory(host, **SETTINGS))),
            *(f"--audit-page={page}", f"--junitxml={junit}", *arguments),
            **env,
        )
        assert page.read_text(), done.stdout + done.stderr
        return Report(host.name, done.returncode, done.stdout, page.read_text(), ElementTree.parse(junit).getroot())

    return ask


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
    """What takes a guard away, which tests have to say so, and which controls they stand for.

    ``certificate`` is the name in one that Redis is given; ``shell`` runs on the host and ``redis`` by the
    administrator, where ``{config}`` is the new name of CONFIG; ``compose`` is merged into the service of Redis, which
    is then made anew. ``cure`` is for what no deploy looks at.
    """

    name: str
    red: dict[str, set[str]]
    redis: tuple[str, ...] = ()
    certificate: str = ""
    shell: str = ""
    compose: str = ""
    cure: str = "true"


ENABLE = "cd /srv/redis && sed -i '/ \"\"$/d' secrets/server/commands.conf"
RESTART = "docker restart redis && docker compose up --detach --wait"
HARMS = [
    Harm(
        "doors without a key",
        redis=(
            "ACL SETUSER sessions nopass",
            "ACL SETUSER eve on nopass ~* +@all",
            # The second wall: without it Redis would refuse every connection from now on.
            "{config} SET protected-mode no",
            "ACL SETUSER default on nopass",
        ),
        red={
            "authentication": {
                "test_users_are_those_of_the_settings",
                "test_every_user_needs_a_password",
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
        red={
            "least privilege": {
                "test_user_may_do_nothing_else",
                "test_real_client_is_refused",
                "test_new_names_do_not_help_other_users",
            }
        },
    ),
    Harm(
        "commands under their own names",
        shell=f"{ENABLE} && echo 'enable-debug-command yes' >>config/redis.conf && {RESTART}",
        red={
            "dangerous commands": {
                "test_renamed_and_disabled_commands_are_unknown",
                "test_redis_runs_as_the_settings_say",
            }
        },
    ),
    Harm(
        "code in the server, and an administrator who may run it",
        shell=f"{ENABLE} && {RESTART}",
        redis=(
            "ACL SETUSER admin +@all",
            "FUNCTION LOAD \"#!lua name=left\\nredis.register_function('left', function() return 1 end)\"",
        ),
        red={
            "dangerous commands": {"test_no_user_may_call", "test_server_has_no_code_but_the_settings_modules"},
            "least privilege": {"test_user_may_do_nothing_else"},
        },
        # The append-only file has it, and no deploy looks into that.
        cure="{ cat /srv/redis/secrets/admin | sed 's/^/AUTH admin /'; echo; echo FUNCTION FLUSH; } | "
        "docker exec -i redis redis-cli -s /run/redis/redis.sock",
    ),
    Harm(
        "published to everybody, on networks that lead out",
        shell="cd /srv/redis && docker compose down && "
        'sed -i \'s/host_ip: "127.0.0.1"/host_ip: "0.0.0.0"/; s/internal: true/internal: false/; '
        's/enable_ip_masquerade: "false"/enable_ip_masquerade: "true"/\' compose.yml && '
        "docker compose up --detach --wait && docker network connect bridge redis",
        red={
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
    Harm(
        "root in a privileged container without limits, with the engine's socket and the host's processes",
        # What root writes there is not Redis's own any more.
        shell="touch /srv/redis/data/by-hand",
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
            volumes: ["/var/run/docker.sock:/var/run/docker.sock", "/etc:/host:ro"]
            memswap_limit: -1
            deploy: {resources: {limits: {cpus: "2", memory: 4g, pids: 100000}}}
        """,
        red={
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
        # Killed: stopped, it would write more.
        cure="docker kill redis; rm /srv/redis/data/by-hand; chown -R 999:999 /srv/redis/data /srv/redis/logs",
    ),
    Harm(
        "files open to others",
        shell="cd /srv/redis && chmod 755 config data && chmod 644 config/redis.conf data/appendonlydir/*.manifest && "
        "chmod 777 backups && chown 1000 logs/redis.log && chmod 440 secrets/admin && chmod 711 secrets && "
        "ln -s /etc/shadow backups/shadow && chmod 666 /etc/logrotate.d/redis && chmod 777 /srv",
        red={
            "file permissions": {
                "test_directory_has_its_owner_and_mode",
                "test_file_has_its_owner_and_mode",
                "test_redis_owns_its_data_and_logs",
                "test_backups_are_private_and_read_only",
                "test_no_other_user_can_write_below_the_root",
                "test_other_users_can_read_only_public_files",
                "test_each_user_has_its_own_secret_file",
                "test_directories_above_the_root_belong_to_root",
                "test_files_that_root_executes_belong_to_root",
                "test_files_grant_no_more_than_their_mode",
            }
        },
        cure="chmod 755 /srv; rm /srv/redis/backups/shadow; chown 999 /srv/redis/logs/redis.log; "
        "chmod 600 /srv/redis/data/appendonlydir/*.manifest",
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
        red={
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
        "another's certificate, and versions of TLS that are broken",
        certificate="another.invalid",
        redis=(
            # Debian's OpenSSL refuses them by itself, but for this.
            '{config} SET tls-ciphers DEFAULT:@SECLEVEL=0 tls-auth-clients optional tls-protocols "TLSv1.1 TLSv1.2"',
        ),
        red={
            "TLS": {
                "test_server_has_the_configured_certificate",
                "test_other_names_and_cas_are_refused",
                "test_old_tls_versions_are_refused",
                "test_client_certificate_is_required_if_configured",
            }
        },
        # No setting of ours names ciphers.
        cure="docker restart redis",
    ),
    Harm(
        "another image under the image's name",
        shell="image=$(docker inspect --format '{{.Config.Image}}' redis) && "
        "docker commit --change 'LABEL other=1' redis $image",
        red={"version": {"test_redis_runs_the_image_that_the_settings_name"}},
    ),
]


@pytest.fixture(scope="module")
def redis(host: Host, deployer: Deployer) -> Instance:
    """The shared host, deployed; every test leaves it so."""
    result = deployer.deploy(host, **SETTINGS)
    assert result.returncode == 0, result.stderr
    return Instance(host, deployer.secrets(host))


@pytest.fixture(scope="module")
def sound(redis: Instance, report: Callable[..., Report]) -> Report:
    """The report of the host as it was deployed."""
    return report()


def _give_certificate(redis: Instance, deployer: Deployer, name: str) -> None:
    """One of the same CA, in the place of the instance's own."""
    now = datetime.now(UTC)
    ca = certificate_store.load_or_create_authority(load({"redis_secrets_dir": str(deployer.secrets_dir)}), now)
    other = certificates.issue(ca, name, [name], now, 90)
    for directive, text in (("tls-cert-file", other.certificate), ("tls-key-file", other.key)):
        file = redis.config(directive).replace("/etc/redis", "/srv/redis/config")
        redis.host.run(f"cat >{file}", input=text, check=True)


def _do(harm: Harm, redis: Instance, deployer: Deployer) -> None:
    if harm.certificate:
        _give_certificate(redis, deployer, harm.certificate)
    if harm.shell:
        redis.host.run(harm.shell, check=True)
    if harm.redis:
        said = redis.call(*(line.format(config=redis.secrets.renamed_command("CONFIG")) for line in harm.redis))
        assert said[0] == "OK"
    if harm.compose:
        up = "docker compose -f compose.yml -f /run/by-hand.yml up --detach --wait && rm /run/by-hand.yml"
        service = f"services:\n  redis:\n{harm.compose}\n"
        redis.host.run(f"cd /srv/redis && cat >/run/by-hand.yml && {up}", input=service, check=True)


def test_a_deployed_host_is_proven_and_what_is_not_is_said(sound: Report) -> None:
    """Tests that write are named with the way to include them."""
    found = sound
    assert (found.returncode, found.red) == (0, {})
    assert set(found.verdicts) == set(CONTROLS)
    for control, words in found.verdicts.items():
        assert words.startswith("proven by "), (control, words)
        assert f"{control} " in found.terminal
        assert CONTROLS[control].promise.replace("'", "&#39;") in found.page
    named = "least privilege: A script has no more rights than its user (--writes includes it) on "
    assert named + found.host in found.terminal
    assert "--writes includes it" in found.page


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name.replace(" ", "-"))
def test_a_control_turns_red_when_its_guard_is_gone_and_green_by_a_deploy(
    harm: Harm, redis: Instance, sound: Report, report: Callable[..., Report], deployer: Deployer
) -> None:
    """The others say what they said before: the next case shows as well what a deploy did not put back."""
    try:
        _do(harm, redis, deployer)
        found = report()
    finally:
        redis.host.run(harm.cure)
        mended = deployer.deploy(redis.host, **SETTINGS)
    assert mended.returncode == 0, mended.stderr

    assert found.returncode == 1
    assert set(found.red) == set(harm.red), found.terminal
    for control, tests in harm.red.items():
        assert tests - found.red[control] == set(), found.terminal
        assert found.verdicts[control].startswith("FAILED: ")
        assert f"{control} on {found.host}: " in found.terminal
        assert f'<td class="failed">{found.verdicts[control]}</td>' in found.page
    changed = {control for control, words in found.verdicts.items() if words != sound.verdicts[control]}
    assert changed == set(harm.red), found.terminal

    assert found.shown(redis) == 0


def test_afterwards_the_deploys_have_put_everything_back(sound: Report, report: Callable[..., Report]) -> None:
    again = report()
    assert (again.returncode, again.red, again.verdicts) == (0, {}, sound.verdicts), again.terminal


def test_a_control_of_which_a_part_ran_is_not_proven(redis: Instance, report: Callable[..., Report]) -> None:
    found = report("-k", "strangers or edge")
    assert found.returncode == 0
    assert found.verdicts["authentication"].startswith("not proven (5 passed): of its tests, ")
    assert found.verdicts["network"].startswith("not proven (1 passed): of its tests, ")
    assert all(words.startswith("not proven") for words in found.verdicts.values())


def test_a_check_that_fails_with_a_secret_in_its_words_shows_none(
    redis: Instance, report: Callable[..., Report], deployer: Deployer, tmp_path: Path
) -> None:
    (tmp_path / "leak.py").write_text(
        "import os, pathlib\n"
        "def pytest_runtest_call(item):\n"
        "    if 'strangers' in item.name: raise AssertionError(pathlib.Path(os.environ['STORE']).read_text())\n"
    )
    store = deployer.secrets_dir / redis.host.name / "redis.yml"
    found = report("-p", "leak", "-k", "strangers", PYTHONPATH=str(tmp_path), STORE=str(store))
    assert found.verdicts["authentication"] == "FAILED: 5 of 5 tests"
    assert found.page.count("[secret]") >= 5
    assert found.shown(redis) == 0


def test_a_control_that_the_table_does_not_know_is_refused(redis: Instance, deployer: Deployer, tmp_path: Path) -> None:
    (tmp_path / "slip.py").write_text(
        "import pytest\n"
        "def pytest_itemcollected(item):\n"
        "    if 'strangers' in item.name: item.add_marker(pytest.mark.security('netwrok'))\n"
    )
    inventory = str(deployer.inventory(redis.host, **SETTINGS))
    done = _pytest("-p", "slip", "-m", "security", "--inventory", inventory, PYTHONPATH=str(tmp_path))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_strangers_are_refused" in done.stderr
    assert ": netwrok" in done.stderr
    assert "authentication, least privilege, " in done.stderr
