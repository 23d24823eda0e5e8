"""Settings are checked as a whole, and each problem has a clear message."""

import ast
from pathlib import Path
from typing import Any

import pytest

from redoubt import compose, redis_conf
from redoubt.settings.changes import changed_settings
from redoubt.settings.field import EFFECTS, Effect, details, is_size
from redoubt.settings.load import DAY2_KEYS, SettingsError, load
from redoubt.settings.model import SECTIONS, Port, Settings, smallest_memory_limit
from redoubt.settings.reference import PRINTED, settings_file, settings_table
from redoubt.settings.sections.access import RESERVED_USERS
from redoubt.settings.sections.backup import PERIODS
from redoubt.sizes import GIB, MIB

ROOT = Path(__file__).resolve().parents[2]


def problems(**data: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(data)
    return list(caught.value.problems)


# -- Loading


def test_no_setting_is_required() -> None:
    settings = load({})
    assert (settings.redis_maxmemory, settings.memory_limit) == (GIB, 1536 * MIB)
    assert settings.root == "/srv/redis"


def test_other_inventory_data_is_ignored() -> None:
    """It belongs to pyinfra or to the user."""
    assert load({"ssh_user": "ops", "_sudo": True, "owner": "team", "redis_port": 6380}).redis_port == 6380


def test_keys_that_are_no_text_are_ignored() -> None:
    assert load({1: "x", None: "x"}) == load({})  # type: ignore[dict-item]


def test_keys_of_day2_verbs_are_not_settings() -> None:
    assert load(dict.fromkeys(DAY2_KEYS, "x")) == load({})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"redis_maxmemry": "1gb"}, "did you mean redis_maxmemory?"),
        ({"redis_prot": 1}, "did you mean redis_port?"),
        ({"redis_something": 1}, "redis_something: unknown setting; did you mean"),
        ({"redis_0123456789": 1}, "unknown setting; docs/settings.md lists all settings"),
        ({"redis_rotate_user": "sessions"}, "did you mean redis_rotate_users?"),
        ({"reids_maxmemory": "1gb"}, "did you mean redis_maxmemory?"),
        ({"redis_maxmemory": "1zb"}, "redis_maxmemory = '1zb' is not a size"),
        ({"redis_maxmemory": None}, "redis_maxmemory = None is not a size"),
        ({"redis_timeout": "soon"}, "redis_timeout = 'soon': must be a whole number"),
        ({"redis_appendonly": "maybe"}, "redis_appendonly = 'maybe': must be True or False"),
        ({"redis_bind": "10.0.0.5"}, "redis_bind = '10.0.0.5': must be a list: ['10.0.0.5']"),
        (
            {"redis_app_name": "a b"},
            "redis_app_name = 'a b' is not a name of up to 64 letters, digits, '_', '.' and '-'",
        ),
        ({"redis_users": {"shop": {"role": "queue", "key": "x"}}}, "['key']: unknown name; the names are role, keys"),
        ({"redis_users": {"shop": {}}}, "redis_users['shop']['role'] is missing"),
        ({"redis_app_services": {"web": {"secrets": 5}}}, "['web']: secrets must be a list, as in a Compose file"),
        ({"redis_app_services": {"web": {"networks": 5}}}, "['web']: networks must be a list or a dictionary"),
        ({"redis_app_services": {"web": {"image": object()}}}, "['web']: cannot be written to a Compose file"),
        ({"redis_maxmemory": "1mb"}, "at least 16mb"),
        ({"redis_container_memory": "1M"}, "at least 64mb"),
        ({"redis_port": 0}, "at least 1"),
        ({"redis_port": 65536}, "at most 65535"),
        ({"redis_port": True}, "is not a number"),
        ({"redis_bind": ["127.0.0.1", "localhost"]}, "redis_bind[1] = 'localhost'"),
        ({"redis_name": "Redis!"}, "redis_name = 'Redis!'"),
        ({"redis_root": "srv"}, "absolute path"),
        ({"redis_root": "/srv/../etc"}, "absolute path"),
        ({"redis_root": "/"}, "absolute path"),
        ({"redis_image": "redis"}, "has no version"),
        ({"redis_image": "redis:latest"}, "has no version"),
        ({"redis_image": "redis 8"}, "not an image reference"),
        ({"redis_engine": "keydb"}, "= 'keydb': must be 'redis' or 'valkey'"),
        ({"redis_save": "900"}, "pairs"),
        ({"redis_save": "0 1"}, "pairs"),
        ({"redis_notify_keyspace_events": "x"}, "publishes nothing"),
        ({"redis_notify_keyspace_events": "E?"}, "'?', which is not a class of keyspace events"),
        ({"redis_maxmemory_policy": "lru"}, "= 'lru': must be 'volatile-lru'"),
        ({"redis_disabled_commands": ["FLUSH ALL"]}, "not the name of a Redis command"),
        ({"redis_allow_data_loss": "everything"}, "must be 'eviction', 'policy' or 'persistence'"),
        ({"redis_extra_config": {"io-threads": "2\nrequirepass x"}}, "line break"),
        ({"redis_backup_schedule": "daily\nUser=x"}, "is not a calendar expression of systemd"),
        ({"redis_backup_schedule": "%t"}, "is not a calendar expression of systemd"),
        ({"redis_backup_randomized_delay": -1}, "at least 0"),
        ({"redis_backup_restic_repository": "backups"}, "is not a supported repository"),
        ({"redis_backup_restic_repository": "b2:bucket:redis"}, "only from its environment"),
        ({"redis_backup_restic_repository": "sftp:-oProxyCommand=x:/y"}, "is not a supported repository"),
        ({"redis_backup_restic_repository": "sftp:nas:/x;reboot"}, "is not a supported repository"),
        ({"redis_backup_restic_repository": "/x", "redis_backup_repository_files": {"token": "x"}}, "['token']"),
        ({"redis_tls": "required", "redis_tls_names": ["https://x"]}, "is not a host name (for example redis-1"),
        ({"redis_tls": "required", "redis_tls_names": ["10.0.0.256"]}, "is not a host name (for example redis-1"),
    ],
)
def test_an_invalid_value_is_refused(data: dict[str, Any], message: str) -> None:
    (problem,) = problems(**data)
    assert message in problem


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"redis_extra_config": {"maxmemory": "2gb"}}, "maxmemory is managed by Redoubt"),
        ({"redis_extra_config": {"tls-protocols": "TLSv1"}}, "tls-protocols is managed by Redoubt"),
        ({"redis_container_memory": "1G"}, "Use at least 1408mb, or remove the setting to get 1536mb"),
        ({"redis_container_nofile": 10000}, "at least 10032"),
        ({"redis_image_source": "archive"}, "needs redis_image_archive"),
        ({"redis_image_source": "archive", "redis_image_archive": "/nowhere.tar"}, "no such file"),
        (
            {
                "redis_image_source": "archive",
                "redis_image_archive": __file__,
                "redis_image": "redis:8.10.2@sha256:" + "0" * 64,
            },
            "redis_image has a digest, which an archive cannot contain",
        ),
        ({"redis_image_archive": "/nowhere.tar"}, "does not use it"),
        ({"redis_renamed_commands": ["CONFIG", "EVAL"]}, "EVAL: in both redis_disabled_commands and"),
        ({"redis_disabled_commands": ["PING"]}, "PING: cannot be disabled"),
        ({"redis_renamed_commands": ["evalsha"]}, "EVALSHA: cannot be disabled or renamed"),
        ({"redis_appendonly": False, "redis_save": ""}, "no data would survive a restart"),
        ({f"redis_backup_keep_{period}": 0 for period in PERIODS}, "no backup would be kept"),
        ({"redis_backup_restic_repository": "sftp:nas:x"}, "an SFTP repository needs ssh_key and known_hosts"),
        (
            {
                "redis_backup_restic_repository": "s3:https://s3.example.com/x",
                "redis_backup_repository_files": {"ssh_key": "x"},
            },
            "ssh_key: set, but redis_backup_restic_repository = 's3:https://s3.example.com/x' does not use it",
        ),
        (
            {
                "redis_backup_restic_repository": "gs:x:/",
                "redis_backup_repository_files": {"google_credentials": "/nowhere"},
            },
            "google_credentials = '/nowhere': there is no such file on this machine",
        ),
        (
            {
                "redis_backup_restic_repository": "gs:bucket:/x",
                "redis_backup_repository_files": {"google_credentials": "/"},
            },
            "google_credentials = '/': it cannot be read: Is a directory",
        ),
        ({"redis_secrets_source": "command"}, "needs redis_secrets_command, for example ['./vault-secrets']"),
        ({"redis_secrets_command": ["./x"]}, "redis_secrets_source = 'file' does not use it"),
        ({"redis_app_services": {"redis": {}}}, "is the name of the Redis service"),
        ({"redis_app_services": {"Web App": {}}}, "'Web App' is not a valid name"),
        ({"redis_app_services": {"web": {"secrets": ["ca.crt"]}}}, "web uses the secret ca.crt, which redis_tls ="),
        ({"redis_app_services": {"web": {"secrets": [{"source": "ca.crt", "target": "x"}]}}}, "web uses the secret"),
        ({"redis_tls": "both", "redis_tls_port": 6379}, "redis_tls_port = 6379 is the same as redis_port"),
        ({"redis_tls_cert": "x"}, "redis_tls_cert: set, but redis_tls = 'off' does not use it"),
        (
            {"redis_tls": "required", "redis_tls_ca": "x"},
            "redis_tls_ca: set, but redis_tls_source = 'ca' does not use it",
        ),
        (
            {"redis_tls": "required", "redis_tls_source": "files", "redis_tls_ca": "x"},
            "needs redis_tls_cert, redis_tls_key",
        ),
        (
            {
                "redis_tls": "required",
                "redis_tls_source": "files",
                "redis_tls_cert": __file__,
                "redis_tls_key": "/nowhere",
                "redis_tls_ca": __file__,
            },
            "redis_tls_key = '/nowhere': there is no such file on this machine",
        ),
        ({"redis_tls": "required", "redis_bind": ["0.0.0.0"]}, "redis_tls_names is missing: redis_bind = 0.0.0.0"),
        ({"redis_tls": "both", "redis_tls_names": ["x"], "redis_bind": ["::"]}, "redis_bind: :: publishes Redis"),
    ],
)
def test_a_violated_rule_is_refused(data: dict[str, Any], message: str) -> None:
    (problem,) = problems(**data)
    assert message in problem


def test_all_problems_are_reported_at_once() -> None:
    messages = problems(
        redis_maxmemry="1gb", redis_port="x", redis_maxclients=3, redis_container_memory="1G", redis_appendonly=False,
        redis_save="",
    )  # fmt: skip
    assert len(messages) == 5


def test_one_mistake_is_reported_once() -> None:
    """A maxmemory that cannot be read is not also compared with the container's limit."""
    assert len(problems(redis_maxmemory="much", redis_container_memory="64M")) == 1


def test_valid_settings_are_known_despite_invalid_ones() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"redis_maxmemory": "2gb", "redis_port": "x"})
    assert caught.value.valid_part.redis_maxmemory == 2 * GIB
    assert caught.value.invalid == {"redis_port"}


# -- Single settings


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"role": "session"}, "shop: the role session needs keys, for example ['shop:*']"),
        ({"role": "queue", "keys": ["*"]}, "shop: keys = '*' includes the keys of all other users"),
        ({"role": "metrics", "keys": ["x"]}, "shop: the role metrics reads no keys"),
        ({"role": "custom", "keys": ["x"]}, "shop: the role custom needs rules"),
        ({"role": "owner", "keys": ["x"]}, "redis_users['shop']['role'] = 'owner'"),
        ({"role": "cache", "keys": ["two words"]}, "redis_users['shop']['keys'][0] = 'two words'"),
        ({"role": "cache", "keys": ["x"], "rules": "~*"}, "'~*' is not a command rule, for example +get"),
        ({"role": "cache", "keys": ["x"], "rules": "nopass"}, "'nopass' is not a command rule, for example +get"),
        ({"role": "cache", "keys": ["x"], "rules": "+@all"}, "'+@all' gives access to all data"),
        ({"role": "cache", "keys": ["x"], "rules": "+get +acl|setuser"}, "'+acl|setuser' gives access to all data"),
        ({"role": "cache", "key": ["x"]}, "redis_users['shop']['key']"),
    ],
)
def test_an_invalid_user_is_refused(user: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({"redis_users": {"shop": user}})
    assert message in str(caught.value)


@pytest.mark.parametrize("name", [*sorted(RESERVED_USERS), "Shop", "a b", "../x"])
def test_a_user_name_is_unique_and_valid_as_a_file_name(name: str) -> None:
    with pytest.raises(SettingsError, match="redis_users"):
        load({"redis_users": {name: {"role": "session", "keys": ["shop:*"]}}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"redis_bind": ["0.0.0.0"]}, "redis_bind: 0.0.0.0 publishes Redis on every address"),
        ({"redis_bind": ["127.0.0.1", "::"]}, "redis_bind: :: publishes Redis on every address"),
        ({"redis_allow_from": ["10.0.0.1/24"]}, "redis_allow_from[0] = '10.0.0.1/24'"),
        ({"redis_allow_from": ["office"]}, "redis_allow_from[0] = 'office' is not a network"),
    ],
)
def test_redis_is_not_open_to_everyone_by_accident(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(data)
    assert message in str(caught.value)


def test_redis_may_be_open_to_named_networks_or_to_everyone() -> None:
    load({"redis_bind": ["0.0.0.0", "::"], "redis_allow_from": ["10.0.0.0/8", "2001:db8::/32"]})
    load({"redis_bind": ["0.0.0.0"], "redis_allow_from": ["0.0.0.0/0"]})
    load({"redis_bind": ["0.0.0.0"], "redis_tls": "required", "redis_tls_names": ["*.example.com", "2001:db8::5"]})


@pytest.mark.parametrize(
    "repository",
    [
        "rest:https://backup:S3cret-word@host/redis",
        "rest:https://:S3cret-word@host/",
        "s3:https://AKIA0123:S3cret-word@s3.example.com/redis",
        "sftp:backup:S3cret-word@nas:/redis",
        "sftp://backup:S3cret-word@nas:22//redis",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(repository: str) -> None:
    (problem,) = problems(redis_backup_restic_repository=repository)
    assert "redis_backup_restic_repository: the address contains a password" in problem
    assert "S3cret" not in problem


@pytest.mark.parametrize("calendar", ["", "daily", "*-*-* 03:00:00", "Mon..Fri 03:00 Europe/Berlin", "*:0/15"])
def test_calendar_expressions_of_systemd_are_accepted(calendar: str) -> None:
    assert load({"redis_backup_schedule": calendar}).redis_backup_schedule == calendar


@pytest.mark.parametrize(
    ("repository", "files"),
    [
        ("", ()),
        ("/srv/copies", ()),
        ("sftp:nas:/redis", ("ssh_key", "known_hosts")),
        ("s3:https://host/bucket", ("aws_credentials", "ca_certificate")),
        ("gs:bucket:/redis", ("google_credentials",)),
        ("rest:https://host/redis", ("ca_certificate", "client_certificate")),
    ],
)
def test_each_kind_of_repository_uses_its_own_files(repository: str, files: tuple[str, ...], tmp_path: Path) -> None:
    paths = dict.fromkeys(files, __file__)
    settings = load({"redis_backup_restic_repository": repository, "redis_backup_repository_files": paths})
    assert settings.repository_files_used == files


# -- Derived values


@pytest.mark.parametrize("maxmemory", ["16mb", "64mb", "640mb", "1gb", "8gb"])
def test_the_derived_memory_limit_is_always_accepted(maxmemory: str) -> None:
    derived = load({"redis_maxmemory": maxmemory})
    smallest = smallest_memory_limit(derived.redis_maxmemory)
    assert derived.memory_limit >= smallest
    assert load({"redis_maxmemory": maxmemory, "redis_container_memory": smallest}).memory_limit == smallest
    problems(redis_maxmemory=maxmemory, redis_container_memory=smallest - MIB)


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
    """A change with the effect live must reach the running Redis without a new container."""
    needs: dict[str, dict[str, Any]] = {
        "redis_tls_port": {"redis_tls": "both"},
        "redis_unix_socket_gid": {"redis_unix_socket": True},
    }
    # They cannot be set without TLS. With it a deploy has the running Redis load them.
    certificate = {"redis_tls_source", "redis_tls_cert", "redis_tls_key", "redis_tls_ca"}
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
    files = {"redis_image_archive", "redis_tls_cert", "redis_tls_key", "redis_tls_ca"}
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
