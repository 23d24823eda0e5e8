"""Measure what each way to reach Redis costs, for docs/performance.md.

``python -m tests.performance`` starts two disposable hosts, deploys Redis to one of them, measures, prints the table
and removes the hosts. The ways take turns in every round, and the table has the medians of the rounds. Run it on an
idle machine: with two cores, the benchmark and Redis need one each.
"""

import argparse
import csv
import secrets
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox import hosts
from sandbox.hosts import Host
from tests.deployed_redis import Instance, wait_until
from tests.deployer import Deployer
from tests.lifecycle.network_filter import WATCH

BARE, LOOPBACK = "bare: in the container's network namespace", "127.0.0.1, translated"
PROXY = "docker-proxy: 127.0.0.1 without the network filter"
TRANSLATION = "127.0.0.1, translated, without all other rules"
# Commands in one request, by section of the table. The first way of a section is what the others are compared with.
SECTIONS = {"": 1, "16 commands in each request": 16, "during BGSAVE": 1, "during an AOF rewrite": 1}
REPEATED = {"during BGSAVE": "BGSAVE", "during an AOF rewrite": "BGREWRITEAOF"}
# What docs/performance.md aims at for 127.0.0.1: at least this throughput, and at most this p99, of a bare server.
AIM_RATE, AIM_P99 = 0.9, 1.2
_FILL = 330_000
_SERVER, _CLIENT = "lifecycle-performance", "lifecycle-performance-client"
# A shell command that enters the container's network namespace.
_INSIDE = 'nsenter --net --target "$pid"'
_PID = "pid=$(docker inspect --format '{{.State.Pid}}' redis)"
_TABLE = "inet redoubt_redis"
# Shell commands that remove a part of the rules. The network watch puts it back.
_NO_TRANSLATION = f"nft flush set {_TABLE} translated"
_NO_RULES = (
    f"for chain in outside input forward; do nft flush chain {_TABLE} $chain || exit; done; "
    f"{_PID}; {_INSIDE} nft delete table {_TABLE}"
)


@dataclass(frozen=True)
class Way:
    """A row of the table: options of redis-benchmark, and what runs before it."""

    name: str
    options: str
    prefix: str = ""
    from_other_host: bool = False
    without: str = ""


@dataclass(frozen=True)
class Sample:
    """One run of redis-benchmark: requests a second, and milliseconds."""

    rate: float
    p50: float
    p99: float


Samples = dict[tuple[str, str], list[Sample]]


def ways(section: str, address: str) -> list[Way]:
    """Return the rows of a section. ``address`` is that of the host."""
    bare = Way(BARE, "-h 127.0.0.1", prefix=_INSIDE)
    translated, proxy = Way(LOOPBACK, "-h 127.0.0.1"), Way(PROXY, "-h 127.0.0.1", without=_NO_TRANSLATION)
    unix = Way("Unix socket", '-s "/proc/$pid/root/run/redis/redis.sock"')
    if section in REPEATED:
        return [bare, translated]
    if section:
        return [bare, unix, translated, proxy]
    tls = "-p 6380 --tls --cacert /root/redis-ca.crt"
    return [
        bare,
        unix,
        translated,
        Way(TRANSLATION, "-h 127.0.0.1", without=_NO_RULES),
        proxy,
        Way("::1, docker-proxy", "-h ::1"),
        Way("the host's own address", f"-h {address}"),
        Way("another host", f"-h {address}", from_other_host=True),
        Way("127.0.0.1 with TLS", f"-h 127.0.0.1 {tls}"),
        Way("another host with TLS", f"-h {address} {tls}", from_other_host=True),
    ]


@dataclass
class Measurement:
    """Two hosts, and the password of a user that may only set keys of its own."""

    redis: Instance
    client: Host
    requests: int
    password: str

    def run(self, section: str, way: Way) -> Sample:
        """Measure a way once."""
        host = self.client if way.from_other_host else self.redis.host
        pipeline = SECTIONS[section]
        command = f"redis-benchmark {way.options} -c 50 -n {self.requests * min(pipeline, 4)} -P {pipeline} --csv "
        command += f"SET bench:key {'x' * 64}"
        with self._repeating(REPEATED.get(section, "")), self._without(way.without):
            return parse(self.benchmark(host, f"{way.prefix} {command}"))

    def benchmark(self, host: Host, command: str) -> str:
        """Run redis-benchmark, which takes a password only as an argument."""
        login = command.replace("redis-benchmark", 'redis-benchmark --user bench -a "$password"', 1)
        find = f"{_PID}; " if "$pid" in command else ""
        script = f"read -r password; {find}{login}"
        return host.run(script, input=f"{self.password}\n", check=True, timeout=600).stdout

    @contextmanager
    def _repeating(self, command: str) -> Iterator[None]:
        """Repeat a command of Redis that forks, as soon as the one before has ended."""
        if not command:
            yield
            return
        forks = self._forks()
        unit = "performance-repeat"
        loop = f"while sleep 0.1; do echo {command}; done"
        admin = "docker exec -i redis redis-cli -s /run/redis/redis.sock"
        login = "printf 'AUTH admin %s\\n' \"$(cat /srv/redis/secrets/admin)\""
        script = f"{{ {login}; {loop}; }} | {admin} >/dev/null\n"
        # systemd would replace $ and % in arguments.
        self.redis.host.run(f"cat >/root/{unit}", input=script, check=True)
        self.redis.host.run(f"systemd-run --quiet --unit {unit} sh /root/{unit}", check=True)
        try:
            wait_until(lambda: self._forks() > forks, f"a {command} runs", 20)
            yield
        finally:
            self.redis.host.run(f"systemctl stop {unit}", check=True)

    def _forks(self) -> int:
        lines = self.redis.call("INFO stats")
        return int(next(line.partition(":")[2] for line in lines if line.startswith("total_forks:")))

    @contextmanager
    def _without(self, removal: str) -> Iterator[None]:
        """Remove a part of the rules inside the block."""
        if not removal:
            yield
            return
        host = self.redis.host
        host.run(f"systemctl stop {WATCH} && {{ {removal}; }}", check=True)
        try:
            yield
        finally:
            host.run(f"systemctl start {WATCH}", check=True)


def parse(output: str) -> Sample:
    """Return the numbers of redis-benchmark's CSV."""
    row = next(csv.DictReader(line for line in output.splitlines() if line.startswith('"')))
    return Sample(float(row["rps"]), float(row["p50_latency_ms"]), float(row["p99_latency_ms"]))


def table(samples: Samples) -> Iterator[str]:
    """Yield the lines of the table: medians, and ratios to the bare server."""
    yield "| way | of a bare server | requests a second | p50 | p99 | p99 of a bare server |"
    yield "|---|---|---|---|---|---|"
    for (section, name), runs in samples.items():
        base = bare_of(samples, section)
        median = [statistics.median(getattr(run, part) for run in runs) for part in ("rate", "p50", "p99")]
        rate, p99 = ratios(runs, base)
        title = ", ".join(filter(None, (name, section)))
        rounded = f"{round(median[0], -3):,.0f}".replace(",", " ")
        yield f"| {title} | {rate:.2f} | {rounded} | {median[1]:.2f} ms | {median[2]:.2f} ms | {p99:.2f} |"


def bare_of(samples: Samples, section: str) -> list[Sample]:
    """Return the runs of the bare server in a section."""
    return next(runs for (other, _), runs in samples.items() if other == section)


def ratios(runs: Iterable[Sample], bare: Iterable[Sample]) -> tuple[float, float]:
    """Return throughput and p99 as parts of the bare server's.

    Each is the median of the rounds.
    """
    pairs = list(zip(runs, bare, strict=True))
    return (
        statistics.median(run.rate / base.rate for run, base in pairs),
        statistics.median(run.p99 / base.p99 for run, base in pairs),
    )


def aim(samples: Samples) -> str:
    """Say whether 127.0.0.1 reaches the aim."""
    rate, p99 = ratios(samples["", LOOPBACK], bare_of(samples, ""))
    verdict = "reached" if rate >= AIM_RATE and p99 <= AIM_P99 else "missed"
    return f"aim for 127.0.0.1: at least {AIM_RATE} and p99 at most {AIM_P99}: {verdict} ({rate:.2f}, p99 {p99:.2f})"


def measure(rounds: int, requests: int, directory: Path) -> Samples:
    """Start the hosts, deploy and measure. Removes the hosts."""
    samples: Samples = {}
    with ExitStack() as stack:
        server, client = stack.enter_context(started(_SERVER)), stack.enter_context(started(_CLIENT))
        address = str(server.address)
        server.run("sysctl -w net.ipv6.conf.lo.disable_ipv6=0", check=True)
        settings: dict[str, Any] = {
            "redis_bind": ["127.0.0.1", "::1", address],
            "redis_allow_from": [f"{client.address}/32"],
            "redis_tls": "both",
            "redis_tls_port": 6380,
            "redis_tls_names": [address],
        }
        redis = Deployer(directory).instance(server, **settings)
        measurement = Measurement(redis, client, requests, secrets.token_hex())
        ca = server.run("cat /srv/redis/ca.crt", check=True).stdout
        for host in (server, client):
            host.run("apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-tools", check=True)
            host.run("cat >/root/redis-ca.crt", input=ca, check=True)
        assert redis.call(f"ACL SETUSER bench on >{measurement.password} ~bench:* +set") == ["OK"]
        for section in SECTIONS:
            if section in REPEATED:
                fill = (
                    f"redis-benchmark -h 127.0.0.1 -n {_FILL} -r {_FILL} -P 16 SET bench:fill:__rand_int__ {'x' * 900}"
                )
                measurement.benchmark(server, fill)
            for number in range(rounds):
                for way in ways(section, address):
                    print(f"round {number + 1} of {rounds}: {way.name} {section}", file=sys.stderr)
                    samples.setdefault((section, way.name), []).append(measurement.run(section, way))
    return samples


@contextmanager
def started(name: str) -> Iterator[Host]:
    """Start a host, and remove it."""
    host = hosts.up(name)
    try:
        yield host
    finally:
        host.down()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure what each way to reach Redis costs.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100_000, help="requests in a run (default: 100000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        samples = measure(arguments.rounds, arguments.requests, Path(directory))
    print("\n".join([*table(samples), "", aim(samples)]))


if __name__ == "__main__":
    main()
