"""The documents that both programs exchange: read back as they were written.

They are tolerant of other releases and safe with bad input.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redisctl import schema
from redisctl.core.journal import Journal, Kind, Stage
from redisctl.schema import (
    AclRequest,
    ActivedefragRequest,
    BackupConfig,
    CertificateRequest,
    Config,
    Container,
    InstanceState,
    InterruptedTransaction,
    LiveConfigRequest,
    Network,
    OtherInstance,
    OwnerRequest,
    PersistenceRequest,
    ReplaceRequest,
    Result,
    SchemaError,
    StartRequest,
    StateRequest,
    StoredData,
    UnitState,
    UpgradeRequest,
)

CONTAINER = Container(
    name="redis",
    service="redis",
    config_hash="abc",
    image_id="sha256:1",
    status="running",
    health=None,
    started=1000.5,
    networks=frozenset({"redis_edge", "redis_backend"}),
    limits={"Memory": 5, "RestartPolicy": "always", "PidsLimit": None},
    definition="d",
    created_with="{}",
    stop_grace=51,
)
STATE = InstanceState(
    containers=(CONTAINER, dataclasses.replace(CONTAINER, name="web", health="healthy", stop_grace=None)),
    networks={"redis_edge": Network(internal=False, masquerade=True, members=frozenset({"redis"}))},
    hashes={"redis": "abc"},
    has_override=True,
    image={"Id": "sha256:1", "Config": {"Env": ["A=b"], "Labels": None}},
    files={"config/redis.conf": 900.0},
    config={"maxmemory": "5", "save": ""},
    acl=("user default off",),
    passwords=("admin",),
    running_engine="valkey",
    running_version="8.1.1",
    used_memory=2**40,
    stale_mounts=("logs",),
    cgroup={"memory.max": "max"},
    backlogs={"127.0.0.1:6379": 128},
    somaxconn=4096,
    activedefrag="# found out\nactivedefrag yes",
    configured=True,
    configured_appendonly="yes",
    stored=StoredData(rdb=True, aof=True, formats=("REDIS0012",), size=7),
    published=(("127.0.0.1", 6379),),
    foreign_container="shop sha256:1",
    data_dir="/srv/redis/data/live",
    other_instances=(OtherInstance("queue", "/srv/queue/data/live", 5, (("0.0.0.0", 6380),)),),
    deployed_settings={"redis_port": 6379, "redis_bind": ["127.0.0.1"]},
    generation=3,
    certificates=("/srv/redis/ca.crt",),
    certificate_source="ca",
    repository_password=True,
    units={"redis-backup.timer": UnitState(present=True, active=True, enabled=False, outdated=False)},
    network_filter=("other rules",),
    interrupted=InterruptedTransaction("restore", "starting"),
    config_saved=True,
    unmounted=("/srv/redis/data",),
    sizes={"/srv/redis": 4},
)
DOCUMENTS = [
    Config("redis", Path("/srv/redis"), "app:*", backup=BackupConfig(scheduled=True, keep={"daily": 7})),
    BackupConfig(),
    StateRequest("redis", "/srv/redis", mounts=(("config", "/etc/redis"),), acl="user x on\n", sizes=True),
    STATE,
    InstanceState(),
    Result(changed=True, messages=("a", "b"), error="c"),
    StartRequest("redis:8", "999:999", 60, recreate=("redis", "web"), paused=("redis",), recreate_networks=True),
    ReplaceRequest("0123"),
    LiveConfigRequest((("maxmemory", "5"), ("save", "")), ("--memory", "5"), raise_limits_first=True, memory=5),
    AclRequest("user x on\n", "redis:8", "999:999"),
    CertificateRequest({"tls-cert-file": "/etc/redis/tls/a.crt"}),
    ActivedefragRequest("redis:8", "999:999", required=True),
    PersistenceRequest("aof", "900 1", 60),
    OwnerRequest("999:999", "2001:2001"),
    UpgradeRequest("redis:8", verify=False, config="port 0\n"),
    Journal("restore", Kind.DATA, Stage.STASHING, 5.0, "always", "data/staging/new", "data/previous/x", {"a": [1]}),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_document_is_read_as_it_was_written(document: Any) -> None:
    text = schema.dump(document)
    assert "\n" not in text
    assert json.loads(text)["schema"] == schema.VERSION
    assert schema.load(type(document), text) == document
    assert schema.from_dict(type(document), json.loads(text)) == document


def test_every_document_is_tested() -> None:
    own = {item for item in vars(schema).values() if isinstance(item, type) and dataclasses.is_dataclass(item)}
    parts = {Container, Network, OtherInstance, StoredData, UnitState, InterruptedTransaction}
    assert {type(document) for document in DOCUMENTS} >= own - parts


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_unknown_keys_are_ignored(document: Any) -> None:
    values = json.loads(schema.dump(document))
    values |= {"schema": schema.VERSION + 1, "of_a_later_release": {"x": [1]}}
    assert schema.load(type(document), json.dumps(values)) == document


def test_unknown_keys_of_parts_are_ignored() -> None:
    values = json.loads(schema.dump(STATE))
    values["containers"][0]["new"] = 1
    values["stored"]["new"] = 1
    assert schema.load(InstanceState, json.dumps(values)) == STATE


def test_missing_keys_have_defaults() -> None:
    assert schema.load(InstanceState, "{}") == InstanceState()
    assert schema.load(Config, '{"name": "a", "root": "/a", "session_keys": "x"}') == Config("a", Path("/a"), "x")
    assert schema.load(Result, '{"error": "x"}') == Result(error="x")


@pytest.mark.parametrize(
    ("kind", "text"), [(Config, "{}"), (Config, '{"name": "a", "root": "/a"}'), (StartRequest, '{"image": "x"}')]
)
def test_missing_key_without_default_is_an_error(kind: type[Any], text: str) -> None:
    with pytest.raises(SchemaError, match=f"{kind.__name__} lacks a value"):
        schema.load(kind, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "1",
        '"text"',
        "NaN",
        '{"schema": "1"}',
        '{"schema": null}',
        "[" * 100_000,
        '{"deployed_settings":' * 100_000,
        '{"generation": ' + "9" * 10_000 + "}",
        '{"files": {"a": NaN}}',
        '{"deployed_settings": {"a": NaN}}',
        '{"files": {"a": Infinity}}',
        '{"files": {"a": 1e999}}',
        '{"files": {"a": 1' + "0" * 400 + "}}",
        '{"containers": [[]]}',
        '{"containers": [null]}',
        '{"containers": {"a": 1}}',
        '{"acl": [["nested", ["list"]]]}',
        '{"acl": "text"}',
        '{"published": [["127.0.0.1"]]}',
        '{"published": [["127.0.0.1", 6379, 1]]}',
        '{"published": [[6379, "127.0.0.1"]]}',
        '{"config": {"maxmemory": 5}}',
        '{"config": [["maxmemory", "5"]]}',
        '{"image": 5}',
        '{"stored": null}',
        '{"generation": true}',
        '{"generation": 1.5}',
        '{"configured": "yes"}',
        '{"interrupted": {"operation": "x"}}',
        '{"units": {"a": {"present": 1}}}',
    ],
)
def test_malformed_state_is_a_schema_error(text: str) -> None:
    with pytest.raises(SchemaError):
        schema.load(InstanceState, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (PersistenceRequest, '{"target": "log", "save": "", "timeout": 1}'),
        (PersistenceRequest, '{"target": ["aof"], "save": "", "timeout": 1}'),
        (Journal, '{"operation": "x", "kind": {}, "stage": "starting", "started": 1}'),
        (AclRequest, '{"acl": ["user"]}'),
    ],
)
def test_malformed_request_is_a_schema_error(kind: type[Any], text: str) -> None:
    with pytest.raises(SchemaError):
        schema.load(kind, text)


VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**70,
    "",
    "text",
    [],
    [[]],
    [[[["x"]]]],
    {},
    {"x": None},
    {"x": {"x": ["x"]}},
)


def replacements(value: Any) -> Iterator[Any]:
    """Yield a JSON value with each of its parts replaced by something else."""
    yield from VALUES
    if isinstance(value, dict):
        for key, part in value.items():
            yield from ({**value, key: other} for other in replacements(part))
    elif isinstance(value, list) and value:
        yield from ([*value[1:], other] for other in replacements(value[0]))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_any_wrong_value_gives_a_document_or_a_schema_error(document: Any) -> None:
    """A document with a wrong value has the declared types, or is refused.

    Every part is replaced by values of every type.
    """
    for values in replacements(json.loads(schema.dump(document))):
        try:
            result = schema.load(type(document), json.dumps(values))
        except SchemaError:
            continue
        assert schema.load(type(document), schema.dump(result)) == result


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("activedefrag yes", "yes"),
        ("# reason\nactivedefrag no", "no"),
        ("", ""),
        ("activedefrag", ""),
        ("activedefrag yes no", ""),
        ("other yes", ""),
    ],
)
def test_activedefrag_value_is_the_last_line(text: str, value: str) -> None:
    assert InstanceState(activedefrag=text).activedefrag_value == value


def test_image_id_is_empty_without_an_image() -> None:
    assert (STATE.image_id, InstanceState().image_id, InstanceState(image={}).image_id) == ("sha256:1", "", "")
