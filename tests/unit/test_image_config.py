"""Images: identified, and their server found by labels and by its own answer."""

from typing import Any

import pytest

from redoubt import versions
from redoubt.facts.host import Build
from redoubt.image_config import (
    build_in,
    build_named,
    build_that_runs,
    engine_named,
    of_config,
    of_inspect,
)
from redoubt.settings.load import load

CONFIG: dict[str, Any] = {
    "created": "2026-01-01T00:00:00Z",
    "rootfs": {"type": "layers", "diff_ids": ["sha256:a", "sha256:b"]},
}


def test_docker_reports_the_identity_of_a_configuration() -> None:
    inspected = {"Created": CONFIG["created"], "RootFS": {"Layers": ["sha256:a", "sha256:b"]}, "Id": "sha256:any"}
    assert of_inspect(inspected) == of_config(CONFIG)


DEBIAN = {"redoubt.package": "redis-server=5:8.0.2-3+deb13u3"}


@pytest.mark.parametrize(
    ("config", "build"),
    [
        ({"Labels": DEBIAN}, Build("redis", "5:8.0.2-3+deb13u3", "redis-server")),
        ({"Labels": {"redoubt.package": "redis=8.0.2"}}, Build("redis", "8.0.2")),
        (
            {"Labels": {"redoubt.package": "valkey-server=8.1.1+dfsg1-3+deb13u3"}},
            Build("valkey", "8.1.1+dfsg1-3+deb13u3", "valkey-server"),
        ),
        ({"Env": ["PATH=/bin", "REDIS_VERSION=8.6.4"]}, Build("redis", "8.6.4")),
        ({"Env": ["VALKEY_VERSION=9.1.4"]}, Build("valkey", "9.1.4")),
        # A package is patched under the number that a variable may have.
        ({"Labels": DEBIAN, "Env": ["REDIS_VERSION=8.0.2"]}, Build("redis", "5:8.0.2-3+deb13u3", "redis-server")),
        # Inherited from the base, as in every image that is built on Ubuntu.
        ({"Labels": {"org.opencontainers.image.version": "24.04"}}, None),
        ({"Labels": {"org.opencontainers.image.version": "8.10.2"}, "Env": None}, None),
        ({"Labels": {"redoubt.package": "nginx=1.2.3"}}, None),
        ({"Labels": {"redoubt.package": "redis-server"}}, None),
        ({"Labels": None}, None),
        ({}, None),
    ],
)
def test_labels_and_variables_name_the_server(config: dict[str, object], build: Build | None) -> None:
    assert build_in(config) == build


@pytest.mark.parametrize(
    ("reference", "build"),
    [
        ("docker.io/library/redis:8.10.2", Build("redis", "8.10.2")),
        ("redis:8.10.2-alpine", Build("redis", "8.10.2")),
        ("redis:7.0.15-bookworm@sha256:" + "0" * 64, Build("redis", "7.0.15")),
        ("docker.io/valkey/valkey:9.1.4", Build("valkey", "9.1.4")),
        ("redis:8.10", None),
        ("redis:8.12-rc1", None),
        ("redis@sha256:" + "0" * 64, None),
        # Possibly a package that is patched under this number.
        ("redoubt/redis:8.0.2", None),
        ("127.0.0.1:5000/redis:8.10.2", None),
        ("valkey:9.1.4", None),
    ],
)
def test_only_an_official_tag_names_a_version(reference: str, build: Build | None) -> None:
    assert build_named(reference) == build


@pytest.mark.parametrize(
    ("labels", "output", "build"),
    [
        ({}, "Redis server v=8.0.2 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", Build("redis", "8.0.2")),
        ({}, "Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", Build("valkey", "8.1.1")),
        (DEBIAN, "Redis server v=8.0.2 sha=", Build("redis", "5:8.0.2-3+deb13u3", "redis-server")),
        # The label was copied, or remained when the server was replaced.
        (DEBIAN, "Redis server v=8.0.3 sha=", Build("redis", "8.0.3")),
        (DEBIAN, "Valkey server v=8.0.2 sha=", Build("valkey", "8.0.2")),
        (DEBIAN, "exec: redis-server: not found", None),
    ],
)
def test_label_that_the_server_contradicts_is_ignored(labels: dict[str, str], output: str, build: Build | None) -> None:
    assert build_that_runs({"Labels": labels}, output) == build


@pytest.mark.parametrize(
    ("reference", "engine"),
    [("redis:8", "redis"), ("docker.io/valkey/valkey:9.1", "valkey"), ("127.0.0.1:5000/redis:8", None)],
)
def test_only_an_official_image_names_its_engine(reference: str, engine: str | None) -> None:
    assert engine_named(reference) == engine


@pytest.mark.parametrize("engine", ["redis", "valkey"])
def test_default_image_is_safe(engine: str) -> None:
    build = build_named(load({"redis_engine": engine}).redis_image)
    assert build is not None
    assert build.engine == engine
    assert versions.judge(build) == versions.Verdict()
