"""What follows from the settings: derived values, effects and generated files.

The effects are those of a change.
"""

import ast
from pathlib import Path
from typing import Any

import pytest

from redoubt import compose, redis_conf
from redoubt.settings.changes import changed_settings
from redoubt.settings.field import EFFECTS, Effect, details, is_size
from redoubt.settings.load import SettingsError, load
from redoubt.settings.model import SECTIONS, Port, Settings, smallest_memory_limit
from redoubt.settings.reference import PRINTED, settings_file, settings_table
from redoubt.sizes import MIB

ROOT = Path(__file__).resolve().parents[2]
TLS_FILES = {f"redis_tls_{name}" for name in ("cert", "key", "ca", "client_cert", "client_key")}


# -- Derived values


@pytest.mark.parametrize("maxmemory", ["16mb", "64mb", "640mb", "1gb", "8gb"])
def test_the_derived_memory_limit_is_always_accepted(maxmemory: str) -> None:
    derived = load({"redis_maxmemory": maxmemory})
    smallest = derived.smallest_memory_limit
    assert derived.memory_limit >= smallest
    assert load({"redis_maxmemory": maxmemory, "redis_container_memory": smallest}).memory_limit == smallest
    with pytest.raises(SettingsError, match="redis_container_memory"):
        load({"redis_maxmemory": maxmemory, "redis_container_memory": smallest - MIB})


@pytest.mark.parametrize(("maxmemory", "peak"), [("1gb", 1281 * MIB), ("640mb", 873 * MIB)])
def test_no_limit_below_a_measured_peak_is_accepted(maxmemory: str, peak: int) -> None:
    assert smallest_memory_limit(load({"redis_maxmemory": maxmemory}).redis_maxmemory) > peak


def test_the_memory_reservation_is_never_above_the_limit() -> None:
    """Docker refuses a container with such a reservation."""
    small = load({"redis_maxmemory": "64mb", "redis_container_memory_reservation": "4G"})
    assert small.memory_reservation == small.memory_limit


def test_the_stop_grace_period_grows_with_maxmemory() -> None:
    assert load({"redis_maxmemory": "50mb"}).stop_grace_period == 31
    assert load({"redis_maxmemory": "1gb"}).stop_grace_period == 51
    assert load({"redis_stop_grace_period": 90}).stop_grace_period == 90


def test_the_start_timeout_is_above_that_of_the_health_check() -> None:
    settings = load({"redis_health_start_period": 20, "redis_health_interval": 5, "redis_health_retries": 3})
    assert settings.start_timeout == 20 + 3 * (5 + settings.redis_health_timeout) + 30


@pytest.mark.parametrize(
    ("tls", "ports"),
    [
        ("off", (Port(6379, 6379, tls=False),)),
        ("required", (Port(6379, 6379, tls=True),)),
        ("both", (Port(6379, 6379, tls=False), Port(7000, 6380, tls=True))),
    ],
)
def test_the_ports_follow_from_redis_tls(tls: str, ports: tuple[Port, ...]) -> None:
    assert load({"redis_tls": tls, "redis_tls_port": 7000}).ports == ports


def test_the_edge_network_derives_from_the_name() -> None:
    derived, given = load({}), load({"redis_edge_subnet": "192.168.77.0/24"})
    assert (str(derived.edge_subnet), derived.edge_address) == ("198.19.79.176/28", "198.19.79.178")
    assert (str(given.edge_subnet), given.edge_address) == ("192.168.77.0/24", "192.168.77.2")


def test_paths_derive_from_the_name_and_the_root() -> None:
    settings = load({"redis_name": "queue", "redis_unix_socket": True})
    assert (settings.root, settings.ca_file) == ("/srv/queue", "/srv/queue/ca.crt")
    assert settings.unix_socket == "/srv/queue/socket/redis.sock"
    assert load({"redis_name": "queue", "redis_root": "/opt/x"}).root == "/opt/x"
    assert load({}).unix_socket == ""


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("docker.io/library/redis:8.10.2", (8, 10)),
        ("redis:7.0.15-bookworm", (7, 0)),
        ("127.0.0.1:5000/redis:8.0.2@sha256:" + "0" * 64, (8, 0)),
        ("127.0.0.1:5000/redis@sha256:" + "0" * 64, (99, 0)),
    ],
)
def test_the_version_is_read_from_the_tag(image: str, version: tuple[int, int]) -> None:
    assert load({"redis_image": image}).server_version == version


@pytest.mark.parametrize("image", [{}, {"redis_image": "redoubt/valkey:8.1.1"}, {"redis_image": "cache:9.0"}])
def test_clients_see_valkey_as_redis_7_2(image: dict[str, str]) -> None:
    assert load({"redis_engine": "valkey", **image}).server_version == (7, 2)


def test_the_default_image_is_that_of_the_engine() -> None:
    assert load({}).redis_image == load({"redis_engine": "redis"}).redis_image == "docker.io/library/redis:8.10.2"
    assert load({"redis_engine": "valkey"}).redis_image == "docker.io/valkey/valkey:9.1.4"
    assert load({"redis_engine": "valkey", "redis_image": "x/y:1"}).redis_image == "x/y:1"


# -- Effects of changes


def test_every_setting_has_a_description_and_an_effect() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description[-1] == ".", name
        assert details(field)["effect"] in EFFECTS, name


# Another value for each setting whose change may reach the running Redis.
OTHER_VALUES: dict[str, Any] = {
    "redis_max_value": 16 * MIB,
    "redis_edge_subnet": "198.18.7.16/28",
    "redis_maxclients_per_source": 20,
    "redis_engine": "valkey",
    "redis_image": "x/y:1",
    "redis_maxmemory_policy": "noeviction",
    "redis_activedefrag": "yes",
    "redis_save": "60 1",
    "redis_appendfsync": "always",
    "redis_notify_keyspace_events": "KEA",
    "redis_users": {"shop": {"role": "session", "keys": ["shop:*"]}},
    "redis_disabled_commands": ["EVAL"],
    "redis_renamed_commands": ["CONFIG"],
    "redis_bind": ["10.0.0.5"],
    "redis_allow_from": ["10.0.0.0/8"],
    "redis_tls": "both",
    "redis_tls_names": ["redis.example.com"],
    "redis_tls_auth_clients": "yes",
    "redis_restart": "always",
    "redis_loglevel": "warning",
    "redis_extra_config": {"io-threads": "2"},
    "redis_maxmemory": "2gb",
    "redis_app_name": "shop",
    "redis_container_nofile": 20000,
    "redis_stop_grace_period": 60,
}


@pytest.mark.parametrize("effect", ["live", "restart"])
def test_the_container_is_recreated_exactly_for_restarts(effect: Effect) -> None:
    """Only a change with the effect restart recreates the container.

    A change with the effect live must reach the running Redis without a new container.
    """
    needs: dict[str, dict[str, Any]] = {
        "redis_tls_port": {"redis_tls": "both"},
        "redis_unix_socket_gid": {"redis_unix_socket": True},
    }
    # They cannot be set without TLS. With it a deploy has the running Redis load them.
    certificate = {"redis_tls_source", *TLS_FILES}
    for name, value in load({}).with_effect(effect).items():
        if name in certificate:
            continue
        other = not value if isinstance(value, bool) else OTHER_VALUES.get(name) or (value or 2**31) + 1
        before, after = (load({**needs.get(name, {}), **change}) for change in ({}, {name: other}))
        is_recreated = compose.config_fingerprint(before) != compose.config_fingerprint(after)
        assert is_recreated == (effect == "restart"), name
        directives = redis_conf.differences(after, redis_conf.runtime(before))
        assert is_recreated or all(map(redis_conf.is_live, directives)), name


@pytest.mark.parametrize("data", [{"redis_allow_data_loss": "eviction"}, {"redis_upgrade_verify": False}])
def test_overrides_for_one_deploy_do_not_change_the_digest(data: dict[str, Any]) -> None:
    """Otherwise the next deploy, without the override, would report a change."""
    assert load(data).digest == load({}).digest != load({"redis_maxmemory": "2gb"}).digest


def test_live_defaults_keep_what_needs_a_new_container() -> None:
    settings = load({"redis_name": "queue", "redis_port": 7000, "redis_maxmemory": "2gb", "redis_backup_schedule": ""})
    assert settings.with_live_defaults() == load({"redis_name": "queue", "redis_port": 7000})


def test_changed_settings_are_reported_in_their_units() -> None:
    deployed = load({}).with_effect("live", "restart")
    settings = load({"redis_maxmemory": "1200mb", "redis_container_memory": "2G", "redis_port": 7000})
    assert changed_settings(settings, deployed, "live") == [
        "redis_maxmemory: 1gb becomes 1200mb",
        "redis_container_memory: derived becomes 2gb",
    ]
    assert changed_settings(settings, deployed, "restart") == ["redis_port: 6379 becomes 7000"]


def test_a_setting_of_a_newer_release_is_not_a_change() -> None:
    """The deploy of an older release did not record it."""
    deployed = load({}).with_effect("live")
    del deployed["redis_maxmemory"]
    assert changed_settings(load({"redis_maxmemory": "2gb"}), deployed, "live") == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("redis_maxmemory", True),
        ("redis_container_memory", True),
        ("redis_logfile_max_size", True),
        ("redis_list_max_listpack_size", False),
        ("redis_port", False),
    ],
)
def test_sizes_are_recognised_by_their_type(name: str, expected: bool) -> None:
    assert is_size(Settings.model_fields[name]) is expected


# -- The settings file and docs/settings.md


def test_sections_cover_all_settings_in_order() -> None:
    assert [name for section in SECTIONS for name in section.model_fields] == list(Settings.model_fields)


@pytest.mark.parametrize("path", PRINTED)
def test_the_written_settings_are_those_of_the_model(path: str) -> None:
    assert (ROOT / path).read_text() == PRINTED[path](), "run: make settings"


def test_the_settings_file_is_valid_when_uncommented() -> None:
    files = {"redis_image_archive", "redis_image_archive_digest", *TLS_FILES}
    values: dict[str, Any] = {}
    for line in settings_file().splitlines():
        name, _, value = line.removeprefix("# ").partition(" = ")
        if line.startswith("# redis_") and value and name.isidentifier() and name not in files:
            values[name] = ast.literal_eval(value)
    assert set(values) == set(Settings.model_fields) - files
    load(values)


def test_the_settings_file_says_what_a_change_costs() -> None:
    lines = " ".join(line.removeprefix("# ") for line in settings_file().splitlines())
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            assert f"{field.description} [{EFFECTS[details(field)['effect']]}] {name} = " in lines


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("redis_maxmemory", '`"1gb"` | from 16mb'),
        ("redis_port", "`6379` | 1 to 65535"),
        ("redis_appendfsync", '`"everysec"` | `always`, `everysec`, `no`'),
        ("redis_container_memory", "derived | from 64mb"),
        ("redis_image_archive", "none | "),
    ],
)
def test_the_table_has_defaults_and_bounds(name: str, cells: str) -> None:
    assert f"| `{name}` | {cells} |" in settings_table()
