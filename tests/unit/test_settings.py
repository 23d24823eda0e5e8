"""Settings are refused in words, all at once, and before anything else happens."""

from pathlib import Path
from typing import Any

import pytest

from redoubt import compose, redis_conf
from redoubt.settings.load import DAY2_KEYS, SettingsError, load
from redoubt.settings.model import EFFECTS, PERIODS, Effect, Settings, smallest_memory_limit
from redoubt.settings.reference import PRINTED, settings_file
from redoubt.sizes import GIB, MIB

ROOT = Path(__file__).resolve().parents[2]


def problems(**data: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(data)
    return list(caught.value.problems)


def test_nothing_needs_to_be_set() -> None:
    settings = load({})
    assert (settings.redis_maxmemory, settings.memory_limit) == (GIB, 1536 * MIB)
    assert settings.root == "/srv/redis"


def test_what_belongs_to_pyinfra_or_the_user_is_left_alone() -> None:
    assert load({"ssh_user": "ops", "_sudo": True, "owner": "team", "redis_port": 6380}).redis_port == 6380


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"redis_maxmemry": "1gb"}, "did you mean redis_maxmemory?"),
        ({"redis_something": 1}, "unknown setting"),
        ({"redis_rotate_user": "sessions"}, "did you mean redis_rotate_users?"),
        ({"reids_maxmemory": "1gb"}, "did you mean redis_maxmemory?"),
        ({"redis_maxmemory": "1zb"}, "is not a size"),
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
        ({"redis_image": "redis"}, "names no version"),
        ({"redis_image": "redis:latest"}, "names no version"),
        ({"redis_image": "redis 8"}, "not an image reference"),
        ({"redis_engine": "keydb"}, "input should be 'redis' or 'valkey'"),
        ({"redis_save": "900"}, "pairs"),
        ({"redis_notify_keyspace_events": "x"}, "publishes nothing"),
        ({"redis_notify_keyspace_events": "E?"}, "no class of event"),
        ({"redis_maxmemory_policy": "lru"}, "input should be 'volatile-lru'"),
        ({"redis_disabled_commands": ["FLUSH ALL"]}, "not the name of a Redis command"),
        ({"redis_extra_config": {"io-threads": "2\nrequirepass x"}}, "line break"),
        ({"redis_extra_config": {"maxmemory": "2gb"}}, "use its own setting"),
        ({"redis_container_memory": "1G"}, "The smallest limit that works is 1408mb"),
        ({"redis_container_nofile": 10000}, "at least 10032"),
        ({"redis_image_source": "archive"}, "needs redis_image_archive"),
        ({"redis_image_source": "archive", "redis_image_archive": "/nowhere.tar"}, "no such file"),
        ({"redis_image_archive": "/nowhere.tar"}, "does not use it"),
        ({"redis_renamed_commands": ["CONFIG", "EVAL"]}, "EVAL: in redis_disabled_commands and"),
        ({"redis_disabled_commands": ["PING"]}, "PING: cannot be disabled"),
        ({"redis_appendonly": False, "redis_save": ""}, "nothing would survive"),
        ({"redis_backup_schedule": "daily\nUser=x"}, "is not a calendar event of systemd"),
        ({"redis_backup_schedule": "%t"}, "is not a calendar event of systemd"),
        ({"redis_backup_randomized_delay": -1}, "at least 0"),
        ({f"redis_backup_keep_{period}": 0 for period in PERIODS}, "no backup would stay"),
        ({"redis_backup_restic_repository": "backups"}, "is no repository that can be used"),
        ({"redis_backup_restic_repository": "b2:bucket:redis"}, "from its environment alone"),
        ({"redis_backup_restic_repository": "sftp:-oProxyCommand=x:/y"}, "is no repository that can be used"),
        ({"redis_backup_restic_repository": "sftp:nas:/x;reboot"}, "is no repository that can be used"),
        ({"redis_backup_restic_repository": "/x", "redis_backup_repository_files": {"token": "x"}}, "['token']"),
        ({"redis_backup_restic_repository": "sftp:nas:x"}, "reached by SFTP needs ssh_key and known_hosts"),
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
        ({"redis_app_services": {"redis": {}}}, "the Redis service itself"),
        ({"redis_app_services": {"web": {"secrets": ["ca.crt"]}}}, "web has the secret ca.crt, and there is none"),
        ({"redis_app_services": {"web": {"secrets": [{"source": "ca.crt", "target": "x"}]}}}, "web has the secret"),
        ({"redis_tls": "both", "redis_tls_port": 6379}, "redis_tls_port = 6379 is redis_port as well"),
        ({"redis_tls_cert": "x"}, "redis_tls_cert: set, but redis_tls = 'off' does not use it"),
        (
            {"redis_tls": "required", "redis_tls_ca": "x"},
            "redis_tls_ca: set, but redis_tls_source = 'ca' does not use it",
        ),
        (
            {"redis_tls": "required", "redis_tls_source": "files", "redis_tls_ca": "x"},
            "needs redis_tls_cert, redis_tls_key",
        ),
        ({"redis_tls": "required", "redis_bind": ["0.0.0.0"]}, "redis_bind = 0.0.0.0 does not say by which names"),
        ({"redis_tls": "both", "redis_tls_names": ["x"], "redis_bind": ["::"]}, "redis_bind: :: publishes Redis"),
        ({"redis_tls": "required", "redis_tls_names": ["https://x"]}, "is neither a name such as redis-1.example.com"),
        ({"redis_tls": "required", "redis_tls_names": ["10.0.0.256"]}, "is neither a name such as redis-1.example.com"),
        ({"redis_extra_config": {"tls-protocols": "TLSv1"}}, "tls-protocols is set by Redoubt"),
        ({"redis_app_services": {"Web App": {}}}, "not a name"),
    ],
)
def test_a_bad_setting_is_refused_in_words(data: dict[str, Any], word: str) -> None:
    found = problems(**data)
    assert len(found) == 1
    assert word in found[0]


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        redis_maxmemry="1gb", redis_port="x", redis_maxclients=3, redis_container_memory="1G", redis_appendonly=False,
        redis_save="",
    )  # fmt: skip
    assert len(found) == 5


def test_one_mistake_is_reported_once() -> None:
    """A maxmemory that cannot be read is not also compared with the container's limit."""
    assert len(problems(redis_maxmemory="much", redis_container_memory="64M")) == 1


def test_what_is_right_is_still_known_when_something_is_wrong() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"redis_maxmemory": "2gb", "redis_port": "x"})
    assert caught.value.valid_part.redis_maxmemory == 2 * GIB
    assert caught.value.invalid == {"redis_port"}


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
def test_valkey_is_redis_7_2_to_its_clients(image: dict[str, str]) -> None:
    assert load({"redis_engine": "valkey", **image}).server_version == (7, 2)


def test_the_default_image_is_that_of_the_engine() -> None:
    assert load({}).redis_image == load({"redis_engine": "redis"}).redis_image == "docker.io/library/redis:8.10.2"
    assert load({"redis_engine": "valkey"}).redis_image == "docker.io/valkey/valkey:9.1.4"
    assert load({"redis_engine": "valkey", "redis_image": "x/y:1"}).redis_image == "x/y:1"


def test_every_setting_says_what_it_means_and_what_a_change_costs() -> None:
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        assert field.description, name
        assert extra["effect"] in EFFECTS, name


# Another value of each setting whose change may reach what runs.
OTHERWISE: dict[str, Any] = {
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
}


@pytest.mark.parametrize("effect", ["live", "restart"])
def test_a_container_is_made_anew_for_what_the_settings_say_and_nothing_else(effect: Effect) -> None:
    """One of a port of TLS or of a socket's group is looked at where there is one."""
    needs: dict[str, dict[str, Any]] = {
        "redis_tls_port": {"redis_tls": "both"},
        "redis_unix_socket_gid": {"redis_unix_socket": True},
    }
    # Without TLS these may not be set; with it a deploy has the running Redis load what they name.
    certificate = {"redis_tls_source", "redis_tls_cert", "redis_tls_key", "redis_tls_ca"}
    for name, before in load({}).with_effect(effect).items():
        if name in certificate:
            continue
        # Memory limits, files and the grace to stop are derived where they are not given.
        other = not before if isinstance(before, bool) else OTHERWISE.get(name) or (before or 2**31) + 1
        if before is None:
            other = {"redis_container_nofile": 20000, "redis_stop_grace_period": 60}.get(name, other)
        former, changed = (load({**needs.get(name, {}), **change}) for change in ({}, {name: other}))
        anew = compose.config_fingerprint(former) != compose.config_fingerprint(changed)
        assert anew == (effect == "restart"), name
        # What costs no restart has to reach what runs without one.
        directives = redis_conf.differences(changed, redis_conf.runtime(former))
        assert anew or all(map(redis_conf.is_live, directives)), name


@pytest.mark.parametrize("path", PRINTED)
def test_the_printed_settings_are_those_of_the_model(path: str) -> None:
    assert (ROOT / path).read_text() == PRINTED[path](), "run: make settings"


def test_the_defaults_in_the_settings_file_are_accepted_when_uncommented() -> None:
    files = {"redis_image_archive", "redis_tls_cert", "redis_tls_key", "redis_tls_ca"}
    lines = settings_file().splitlines()
    values: dict[str, Any] = {}
    for line in lines:
        if line.startswith("# redis_") and " = " in line and line.split()[1] not in files:
            exec(line.removeprefix("# "), {}, values)
    assert set(values) == set(Settings.model_fields) - files
    load(values)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"role": "session"}, "shop: the role session needs keys, such as ['shop:*']"),
        ({"role": "queue", "keys": ["*"]}, "shop: keys = '*' are those of all others too"),
        ({"role": "metrics", "keys": ["x"]}, "shop: the role metrics sees numbers and no keys"),
        ({"role": "custom", "keys": ["x"]}, "shop: the role custom needs rules"),
        ({"role": "owner", "keys": ["x"]}, "redis_users['shop']['role'] = 'owner'"),
        ({"role": "cache", "keys": ["two words"]}, "redis_users['shop']['keys'][0] = 'two words'"),
        ({"role": "cache", "keys": ["x"], "rules": "~*"}, "'~*' is not a rule such as +get"),
        ({"role": "cache", "keys": ["x"], "rules": "nopass"}, "'nopass' is not a rule such as +get"),
        ({"role": "cache", "keys": ["x"], "rules": "+@all"}, "'+@all' is a way to everybody's data"),
        ({"role": "cache", "keys": ["x"], "rules": "+get +acl|setuser"}, "'+acl|setuser' is a way to everybody's data"),
        ({"role": "cache", "key": ["x"]}, "redis_users['shop']['key']"),
    ],
)
def test_a_user_that_cannot_be_is_refused(user: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({"redis_users": {"shop": user}})
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["admin", "default", "server", "Shop", "a b", "../x"])
def test_a_user_s_name_is_its_own_and_fit_for_a_file(name: str) -> None:
    with pytest.raises(SettingsError, match="redis_users"):
        load({"redis_users": {name: {"role": "session", "keys": ["shop:*"]}}})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"redis_bind": ["0.0.0.0"]}, "redis_bind: 0.0.0.0 publishes Redis on every address"),
        ({"redis_bind": ["127.0.0.1", "::"]}, "redis_bind: :: publishes Redis on every address"),
        ({"redis_allow_from": ["10.0.0.1/24"]}, "redis_allow_from[0] = '10.0.0.1/24'"),
        ({"redis_allow_from": ["office"]}, "redis_allow_from[0] = 'office': 'office' is not a network"),
    ],
)
def test_redis_is_not_open_to_everybody_by_accident(data: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(data)
    assert words in str(caught.value)


def test_redis_may_be_open_to_named_networks_and_even_to_everybody() -> None:
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
def test_a_password_in_an_address_is_refused_and_not_repeated(repository: str) -> None:
    (problem,) = problems(redis_backup_restic_repository=repository)
    assert "redis_backup_restic_repository: the address holds a password" in problem
    assert "S3cret" not in problem


@pytest.mark.parametrize("calendar", ["", "daily", "*-*-* 03:00:00", "Mon..Fri 03:00 Europe/Berlin", "*:0/15"])
def test_calendars_of_systemd_are_taken(calendar: str) -> None:
    assert load({"redis_backup_schedule": calendar}).redis_backup_schedule == calendar


@pytest.mark.parametrize("data", [{"redis_allow_data_loss": "eviction"}, {"redis_upgrade_verify": False}])
def test_what_is_meant_for_one_deploy_makes_no_other_settings(data: dict[str, Any]) -> None:
    """Else the next deploy, without it, would have something to change."""
    assert load(data).digest == load({}).digest != load({"redis_maxmemory": "2gb"}).digest


def test_the_keys_of_day_2_verbs_are_no_settings() -> None:
    assert load(dict.fromkeys(DAY2_KEYS, "x")) == load({})
