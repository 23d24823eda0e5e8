"""A renewed certificate in a running Redis that sets one directive in a call."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from redisctl.core.errors import Failure
from redisctl.core.instance import Instance
from redisctl.deploy import live_config
from redisctl.schema import CertificateRequest

OLD = {"tls-cert-file": "old.crt", "tls-key-file": "old.key", "tls-protocols": "TLSv1.2"}
NEW = {"tls-cert-file": "new.crt", "tls-key-file": "new.key", "tls-protocols": "TLSv1.3"}


class OldRedis:
    """Sets directives as Redis 6.2 does.

    See updateTlsCfg and updateTLSPort in src/config.c. ``broken`` is a certificate that it cannot read.
    """

    def __init__(self, broken: str = "") -> None:
        self.config = {"tls-port": "6379", **OLD}
        self.queued: list[tuple[str, ...]] = []
        self.broken = broken
        self.writes = 0

    def info(self, _: str) -> dict[str, str]:
        return {"redis_version": "6.2.16"}

    def pipeline(self, *, transaction: bool) -> "OldRedis":
        assert not transaction, "admin may have no right to it"
        self.queued = []
        return self

    def execute_command(self, *words: str) -> Any:
        if words[1] == "GET":
            return [words[2], self.config[words[2]]]
        self.queued.append(words)
        return None

    def execute(self) -> None:
        self.writes += 1
        errors = [error for words in self.queued if (error := self._set(*words[1:]))]
        if errors:
            raise ResponseError(errors[0])

    def _set(self, _: str, name: str, value: str) -> str:
        before = self.config[name]
        self.config[name] = value
        pair = {self.config[part].partition(".")[0] for part in ("tls-cert-file", "tls-key-file")}
        if self.config["tls-port"] != "0" and (len(pair) > 1 or self.broken in pair):
            self.config[name] = before
            return "Unable to update TLS configuration. Check server logs."
        return ""


@pytest.fixture
def reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that loads the new certificate into a server."""
    (tmp_path / "secrets/server").mkdir(parents=True)
    (tmp_path / "secrets/server/commands.conf").write_text("rename-command CONFIG secret-name\n")

    def load(server: OldRedis) -> None:
        @contextmanager
        def connect(*_: object, **__: object) -> Iterator[OldRedis]:
            yield server

        monkeypatch.setattr(Instance, "connect", connect)
        instance = Instance(name="redis", root=tmp_path, session_keys="app:*")
        live_config.reload_certificate(instance, CertificateRequest(NEW))

    return load


def test_renewed_certificate_is_loaded_by_an_old_redis(reload: Any) -> None:
    server = OldRedis()
    reload(server)
    assert server.config == {"tls-port": "6379", **NEW}
    assert server.writes == 1, "a killed redisctl leaves Redis without its port"


def test_refused_certificate_leaves_the_old_one_and_the_port(reload: Any) -> None:
    server = OldRedis(broken="new")
    with pytest.raises(Failure, match="refuses the certificate, and keeps its own: Unable to update TLS"):
        reload(server)
    assert server.config == {"tls-port": "6379", **OLD}
