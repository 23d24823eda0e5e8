"""Interruptions at an exact point: redisctl on a host pauses when its journal reaches a stage."""

from redisctl import paths
from redisctl.core.journal import Stage
from sandbox.hosts import Host
from tests.deployed_redis import wait_until

JOURNAL = f"/srv/redis/{paths.JOURNAL}"
LOCK = paths.lock_file("redis")
# The modules that every call of redisctl loads. They lie in memory, so a power cut brings the real ones back.
_MODULE = "$(ls -d /run/redoubt-srv-redis.modules/*/redisctl)/core/journal.py"
_PAUSE = """

_write_journal = _write


def _write(instance, journal):
    written = _write_journal(instance, journal)
    request = Path("/run/pause-at")
    while request.exists() and request.read_text().strip() == journal.stage.value:
        Path("/run/paused").touch()
        time.sleep(0.02)
    return written
"""


def pause_at(host: Host, stage: Stage) -> None:
    """Have redisctl pause as soon as a journal with this stage is on disk."""
    host.run(
        f"redisctl history >/dev/null; rm -f /run/paused; echo '{stage.value}' >/run/pause-at; "
        f"grep -q /run/pause-at {_MODULE} || cat >>{_MODULE}",
        input=_PAUSE,
        check=True,
    )


def wait_until_paused(host: Host, seconds: float = 120) -> None:
    """Wait until redisctl pauses."""
    host.run(
        f"timeout {seconds} sh -c 'until test -e /run/paused; do sleep 0.05; done'", check=True, timeout=seconds + 10
    )


def resume(host: Host) -> None:
    """Let redisctl continue."""
    host.run("rm -f /run/pause-at", check=True)


def is_recovered(host: Host) -> bool:
    """Say whether no transaction is under way or interrupted."""
    return host.run(f"test -e {JOURNAL}").returncode == 1


def is_unlocked(host: Host) -> bool:
    """Say whether nothing changes the instance now."""
    return host.run(f"flock --nonblock {LOCK} true").returncode == 0


def cut_power(host: Host) -> None:
    """Cut the host's power and start it again. The host has to recover by itself."""
    host.kill()
    host.start()


def wait_until_recovered(host: Host, seconds: float = 120) -> None:
    """Wait until the host has finished an interrupted transaction by itself."""
    wait_until(lambda: is_recovered(host), "the interrupted transaction is finished without a person", seconds)
