"""Settings are checked as a whole, and each problem has a clear message."""

from pathlib import Path
from typing import Any

import pytest

from redoubt.settings.load import DAY2_KEYS, SettingsError, load
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
    assert (settings.redis_maxmemory, settings.memory_limit) == (GIB, 1664 * MIB)
    assert settings.root == "/srv/redis"


def test_other_inventory_data_is_ignored() -> None:
    """It belongs to pyinfra or to the user."""
    assert load({"ssh_user": "ops", "_sudo": True, "owner": "team", "redis_port": 6380}).redis_port == 6380


def test_keys_that_are_no_text_are_ignored() -> None:
    data: dict[Any, str] = {1: "x", None: "x"}
    assert load(data) == load({})


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
        ({"redis_allow_data_loss": "everything"}, "must be 'eviction', 'policy', 'persistence' or 'empty'"),
        ({"redis_extra_config": {"io-threads": "2\nrequirepass x"}}, "line break"),
        ({"redis_backup_schedule": "daily\nUser=x"}, "is not a calendar expression of systemd"),
        ({"redis_backup_schedule": "%t"}, "is not a calendar expression of systemd"),
        ({"redis_backup_randomized_delay": -1}, "at least 0"),
        ({"redis_backup_restic_repository": "backups"}, "is not a supported repository"),
        ({"redis_backup_restic_repository": "b2:bucket:redis"}, "only from its environment"),
        ({"redis_backup_restic_repository": "sftp:-oProxyCommand=x:/y"}, "is not a supported repository"),
        ({"redis_backup_restic_repository": "sftp:nas:/x;reboot"}, "is not a supported repository"),
        ({"redis_backup_restic_repository": "/x", "redis_backup_repository_files": {"token": "x"}}, "['token']"),
        ({"redis_edge_subnet": "198.18.0.0/29"}, "is not an IPv4 network of 16 to 65536 addresses"),
        ({"redis_edge_subnet": "fd00::/64"}, "is not an IPv4 network of 16 to 65536 addresses"),
        ({"redis_edge_subnet": "127.8.0.0/16"}, "is reserved by the kernel"),
        ({"redis_edge_subnet": "198.18.7.17/28"}, "is not a network"),
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
        ({"redis_extra_config": {"hash-max-ziplist-value": "1"}}, "hash-max-ziplist-value is managed by Redoubt"),
        *(
            ({"redis_extra_config": {name: "x"}}, f"{name} names the files of the data: with another name Redis starts")
            for name in ("dbfilename", "appendfilename", "appenddirname")
        ),
        *(
            ({"redis_extra_config": {name: "x"}}, f"{name} makes Redis a replica or a node of a cluster")
            for name in ("replicaof", "slaveof", "cluster-enabled")
        ),
        ({"redis_container_memory": "1G"}, "Use at least 1536mb, or remove the setting to get 1664mb"),
        ({"redis_container_nofile": 10000}, "at least 10064"),
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
        ({"redis_image_archive_digest": f"sha256:{'0' * 64}"}, "redis_image_archive_digest is set, but"),
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
    """An invalid maxmemory is not also compared with the container's limit."""
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
        ({"role": "queue", "keys": ["*"]}, "shop: keys: '*' matches keys of the user sessions"),
        ({"role": "metrics", "keys": ["x"]}, "shop: the role metrics reads no keys"),
        ({"role": "custom", "keys": ["x"]}, "shop: the role custom needs rules"),
        ({"role": "owner", "keys": ["x"]}, "redis_users['shop']['role'] = 'owner'"),
        ({"role": "cache", "keys": ["two words"]}, "redis_users['shop']['keys'][0] = 'two words'"),
        ({"role": "cache", "keys": ["x"], "rules": "~*"}, "'~*' is not a command rule, for example +get"),
        ({"role": "cache", "keys": ["x"], "rules": "nopass"}, "'nopass' is not a command rule, for example +get"),
        ({"role": "cache", "keys": ["x"], "rules": "+@all"}, "'+@all' allows ACL DELUSER and"),
        (
            {"role": "cache", "keys": ["x"], "rules": "+get +acl|setuser"},
            "'+acl|setuser' allows ACL SETUSER: no application",
        ),
        ({"role": "cache", "key": ["x"]}, "redis_users['shop']['key']"),
        ({"role": "cache", "keys": ["a" * 1200]}, "has 1200 characters; a pattern has at most 200"),
        ({"role": "cache", "keys": ["*a" + "?" * 30]}, "has 31 wildcards (*, ? and [...]); a pattern has at most 10"),
        ({"role": "cache", "keys": ["x"], "channels": ["?" * 11]}, "has 11 wildcards"),
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
