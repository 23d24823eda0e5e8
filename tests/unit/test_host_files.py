"""The Compose project, as Compose reads it, and the other files of an instance."""

from dataclasses import replace
from pathlib import PurePath
from typing import Any

import pytest
import yaml

from redoubt import acl, host_files, redis_conf
from redoubt.compose import compose_file, config_fingerprint, live_settings, override_file
from redoubt.filesystem import AbsentPath, DesiredFile
from redoubt.secret_store import Secrets
from redoubt.settings.load import load
from redoubt.settings.sections.access import RESERVED_USERS
from redoubt.sizes import MIB

SECRETS = Secrets(
    {name: f"password-of-{name}-0123456789" for name in ("sessions", "queues", "health", "admin", "default")},
    {"CONFIG": "config-0123456789abcdef", "SHUTDOWN": "shutdown-0123456789abcdef"},
)


def compose(*, selinux: bool = False, **data: Any) -> dict[str, Any]:
    document = yaml.safe_load(compose_file(load(data), selinux=selinux).content)
    assert isinstance(document, dict)
    return document


def mounts(*, selinux: bool = False) -> list[dict[str, Any]]:
    """Return the mounts of Redis's container."""
    volumes = compose(selinux=selinux)["services"]["redis"]["volumes"]
    assert isinstance(volumes, list)
    return volumes


def test_names_and_paths_derive_from_the_instance() -> None:
    document = compose(redis_name="queue")
    assert document["name"] == "queue"
    assert list(document["services"]) == ["queue"]
    assert document["services"]["queue"]["container_name"] == "queue"
    assert [network["name"] for network in document["networks"].values()] == ["queue_backend", "queue_edge"]
    directories = {secret["file"].rpartition("/")[0] for secret in document["secrets"].values()}
    assert directories == {"/srv/queue/secrets", "/srv/queue/secrets/server"}


def test_live_directive_keeps_the_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load({})
    before, template = config_fingerprint(settings), host_files.template
    monkeypatch.setattr(redis_conf, "SHUTDOWN_TIMEOUT", 20)
    monkeypatch.setattr("redoubt.compose.template", lambda name, **values: template(name, **values) + "# A comment.\n")
    assert config_fingerprint(settings) == before
    monkeypatch.setattr(redis_conf, "DATA_DIR", "/other")
    assert config_fingerprint(settings) != before


@pytest.mark.parametrize(
    ("bind", "published"),
    [([], None), (["127.0.0.1"], ["127.0.0.1"]), (["10.0.0.5", "::1"], ["10.0.0.5", "::1"])],
)
def test_port_is_published_on_configured_addresses(bind: list[str], published: list[str] | None) -> None:
    ports = compose(redis_bind=bind)["services"]["redis"].get("ports")
    assert (ports and [port["host_ip"] for port in ports]) == published


def test_selinux_labels_every_mount() -> None:
    assert {mount["bind"]["selinux"] for mount in mounts(selinux=True)} == {"Z"}
    assert not [mount for mount in mounts() if "selinux" in mount["bind"]]


def test_missing_directory_is_not_created_by_docker() -> None:
    """An unmounted disk must not become an empty data directory."""
    assert [mount["bind"]["create_host_path"] for mount in mounts()] == [False] * len(host_files.MOUNTS)


def test_redis_may_write_only_its_data_and_logs() -> None:
    sources = {mount["source"]: mount["target"] for mount in mounts() if not mount["read_only"]}
    assert sources == {"/srv/redis/data/live": "/data", "/srv/redis/logs": "/var/log/redis"}


def test_application_waits_for_a_healthy_redis() -> None:
    web = {"image": "web:1", "depends_on": ["db"], "networks": ["front"]}
    document = compose(redis_app_services={"web": web, "worker": {"image": "web:1"}})
    assert document["services"]["web"]["depends_on"] == {
        "db": {"condition": "service_started"},
        "redis": {"condition": "service_healthy"},
    }
    assert document["services"]["web"]["networks"] == ["front", "backend"]
    assert document["services"]["worker"]["networks"] == ["default", "backend"]
    assert document["networks"]["backend"]["internal"] is True


def test_override_restores_the_created_container() -> None:
    """The label has everything that can change live.

    As an override it turns a new project into the old one.
    """

    def merged(over: dict[str, Any], under: dict[str, Any]) -> dict[str, Any]:
        both = {name: merged(value, under[name]) for name, value in over.items() if isinstance(value, dict)}
        return {**under, **over, **both}

    previous = load({})
    limits: dict[str, Any] = {
        "redis_maxmemory": "2gb",
        "redis_container_cpus": 2.0,
        "redis_container_cpu_reservation": 1.0,
        "redis_container_pids": 99,
        "redis_container_memory_reservation": "256M",
        "redis_restart": "always",
    }
    overlay = yaml.safe_load(override_file(previous, live_settings(previous)))
    assert compose(**limits) != compose()
    assert merged(overlay, compose(**limits)) == compose()


@pytest.mark.parametrize(("backlog", "sysctls"), [(511, None), (4096, None), (4097, {"net.core.somaxconn": 4097})])
def test_container_somaxconn_allows_the_backlog(backlog: int, sysctls: dict[str, int]) -> None:
    assert compose(redis_tcp_backlog=backlog)["services"]["redis"].get("sysctls") == sysctls


def test_swap_limit_is_less_than_a_page() -> None:
    """runc omits a limit of 0, and the kernel rounds less than a page to none."""
    redis = compose(redis_container_memory="1536M")["services"]["redis"]
    assert 0 < redis["memswap_limit"] - 1536 * MIB < 4096


def test_memory_reservation_never_exceeds_the_limit() -> None:
    """Docker refuses such a container."""
    resources = compose(redis_maxmemory="64mb")["services"]["redis"]["deploy"]["resources"]
    assert resources["reservations"]["memory"] == resources["limits"]["memory"] == "224mb"


def test_each_secret_is_a_file_that_only_uid_999_reads() -> None:
    settings = load({"redis_enable_default_user": True})
    entries = host_files.secret_files(settings, SECRETS)
    files = [entry for entry in entries if isinstance(entry, DesiredFile)]
    assert not {file.path for file in files} & {entry.path for entry in entries if isinstance(entry, AbsentPath)}
    names = {user.name for user in acl.users(settings)} | {"commands.conf", "generation"}
    assert {file.path.rpartition("/")[2] for file in files} == names
    assert all((file.mode, file.uid, file.gid, file.secret) == (0o400, 999, 999, True) for file in files)


@pytest.mark.parametrize("repository", ["", "/srv/repository"])
def test_user_has_no_name_of_another_secret(repository: str) -> None:
    """A deploy would write the password over it, and remove it again."""
    settings = load({"redis_backup_restic_repository": repository})
    secrets, own = f"{settings.root}/secrets", host_files.secret_paths(settings).values()
    entries = [*host_files.directories(settings), *host_files.secret_files(settings, SECRETS)]
    taken = {path.name for path in map(PurePath, own)}
    taken |= {path.name for entry in entries if str((path := PurePath(entry.path)).parent) == secrets}
    assert {"sessions", "default", "server", "repository", "generation", "commands.conf"} <= taken
    assert taken <= RESERVED_USERS


def test_password_of_a_disabled_user_is_removed() -> None:
    assert AbsentPath("/srv/redis/secrets/default") in host_files.secret_files(load({}), SECRETS)


def test_password_of_a_removed_user_is_removed() -> None:
    previous = replace(SECRETS, passwords={**SECRETS.passwords, "shop": "x"})
    assert AbsentPath("/srv/redis/secrets/shop") in host_files.secret_files(load({}), previous)


def test_container_sees_only_the_server_secrets() -> None:
    """The container mounts only the server's directory of secrets.

    The passwords of users are in the one above.
    """
    paths = host_files.secret_paths(load({"redis_users": {"shop": {"role": "session", "keys": ["shop:*"]}}}))
    inside = {name for name, path in paths.items() if path.startswith("/srv/redis/secrets/server/")}
    assert inside == {"health", "commands.conf", "generation"}
    secrets = [mount for mount in mounts() if "secrets" in mount["source"]]
    assert [(mount["source"], mount["target"], mount["read_only"]) for mount in secrets] == [
        ("/srv/redis/secrets/server", "/run/secrets", True)
    ]


def test_applications_get_the_ca_as_a_secret() -> None:
    assert compose(redis_tls="required")["secrets"]["ca.crt"] == {"file": "/srv/redis/ca.crt"}
    assert "ca.crt" not in compose()["secrets"]


def test_readable_files_contain_no_secret() -> None:
    settings = load({})
    texts = [file.content for file in (*host_files.config_files(settings), compose_file(settings, selinux=False))]
    for value in (*SECRETS.passwords.values(), *SECRETS.commands.values()):
        assert not [text for text in texts if value in text]
