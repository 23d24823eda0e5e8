"""A deploy to a whole machine, a reboot and a power cut.

The tests build on each other, in this order.

make smoke-vm                                                        a disposable virtual machine
pytest tests/smoke --inventory inventory/production.py --reboots     hosts of your own, before they are in use

Emulated machines are slow. What containers prove as well runs here once, after both boots.
"""

import json
import operator
import time
from dataclasses import dataclass
from functools import partial

import pytest
from rq import Queue

from tests.host.host_under_test import Target, quoted, until
from tests.lifecycle.port_probe import answers
from tests.smoke.conftest import Smoke
from tests.smoke.durability import required_writes, unflushed_seconds
from tests.smoke.load import under_load

LOAD_SECONDS = 8


@dataclass
class WrittenData:
    """Data that was written to a host before it goes down."""

    target: Target
    session: str
    jobs: list[str]

    @staticmethod
    def write(target: Target) -> "WrittenData":
        """Write a session and jobs, as the applications' users and with their libraries."""
        session = target.settings.session_keys.replace("*", target.mark)
        assert target.client("sessions").set(session, target.mark, ex=7200)
        queue = Queue(target.mark, connection=target.client("queues", decode_responses=False))
        jobs = [queue.enqueue(operator.add, number, 1).id for number in range(10)]
        return WrittenData(target, session, jobs)

    def assert_present(self) -> None:
        """Fail unless everything is present with its time to live."""
        sessions = self.target.client("sessions")
        assert sessions.get(self.session) == self.target.mark
        assert 0 < sessions.ttl(self.session) <= 7200
        queue = Queue(self.target.mark, connection=self.target.client("queues", decode_responses=False))
        assert queue.get_job_ids() == self.jobs
        assert [job.args for job in queue.jobs] == [(number, 1) for number in range(10)]

    def remove(self) -> None:
        """Remove the data."""
        self.target.client("sessions").delete(self.session)
        Queue(self.target.mark, connection=self.target.client("queues", decode_responses=False)).delete()


def wait_until_healthy(smoke: Smoke) -> None:
    """Wait until Docker has started Redis at boot and Redis is healthy."""
    for target in smoke.targets:
        until(partial(_is_healthy, target), 300)


def _is_healthy(target: Target) -> bool:
    result = target.host.run(f"docker inspect {quoted(target.settings.redis_name)}")
    return result.rc == 0 and bool(target.inspect()["State"]["Health"]["Status"] == "healthy")


def test_bare_host_is_deployed(smoke: Smoke) -> None:
    if smoke.machine is not None:
        engines = "for program in docker dockerd containerd podman; do command -v $program; done"
        assert smoke.machine.run(engines).stdout == "", "the machine already has a container engine"
    result = smoke.deploy()
    assert result.returncode == 0, result.stderr


def test_deployed_host_matches_its_settings(deployed: Smoke) -> None:
    """The host suite passes after the first deploy.

    On the virtual machine this runs only the tests of the kernel's settings, which a boot sets in another way.
    test_boots_change_nothing runs the whole host suite there. Hosts of an inventory may not be rebooted, so the whole
    suite runs here.
    """
    assert deployed.verify(*(("-m", "kernel") if deployed.machine else ())) > 0


@pytest.mark.machine
def test_backup_unit_takes_a_good_backup(deployed: Smoke) -> None:
    """It runs in a real systemd, with all restrictions of the unit."""
    assert deployed.machine is not None
    deployed.machine.run("systemctl start redis-backup.service", check=True)
    backups = json.loads(deployed.machine.run("redisctl backup list --json", check=True).stdout)["backups"]
    assert [backup["verified"]["verdict"] for backup in backups] == ["ok"]


@pytest.mark.reboots
def test_reboot_brings_redis_and_its_data_back(deployed: Smoke) -> None:
    written = [WrittenData.write(target) for target in deployed.targets]
    deployed.reboot()
    wait_until_healthy(deployed)
    for data in written:
        data.assert_present()
        data.remove()


@pytest.mark.reboots
@pytest.mark.machine
def test_reboot_loads_the_network_filter_before_docker(deployed: Smoke, outside: str) -> None:
    """The network filter is loaded before Docker starts.

    So no other network could ever reach Redis.
    """
    assert deployed.machine is not None
    times = deployed.machine.run(
        "nft list table inet redoubt_redis >/dev/null && "
        "systemctl show --property ActiveEnterTimestampMonotonic --value redis-network.service && "
        "systemctl show --property InactiveExitTimestampMonotonic --value docker.service",
        check=True,
    )
    filter_loaded, docker_started = map(int, times.stdout.split())
    assert 0 < filter_loaded < docker_started
    expected = {
        "192.0.2.1 6379 192.0.2.2": "redis",
        "2001:db8::1 6379 2001:db8::2": "redis",
        "192.0.2.1 6379 192.0.2.3": "closed",
        "2001:db8::1 6379 2001:db8::3": "closed",
        "192.0.2.1 22 192.0.2.3": "other",
        "2001:db8::1 22 2001:db8::3": "other",
    }
    assert answers(deployed.machine, *expected, within=outside) == expected


@pytest.mark.reboots
@pytest.mark.machine
def test_reboot_keeps_the_backup_timer(deployed: Smoke) -> None:
    assert deployed.machine is not None
    shown = deployed.machine.run("systemctl show redis-backup.timer --property SubState,Result", check=True).stdout
    assert shown.split() == ["Result=success", "SubState=waiting"]


@pytest.mark.reboots
def test_power_cut_keeps_all_flushed_writes(deployed: Smoke, capsys: pytest.CaptureFixture[str]) -> None:
    """Redis keeps every write before the last flush, in order, after a power cut.

    The cut happens under write load, and Redis comes back by itself. If the settings promise no flush, the data of the
    last explicit write to the disk must be present.
    """
    written = [WrittenData.write(target) for target in deployed.targets]
    for target in deployed.targets:
        if unflushed_seconds(target.settings) is None:
            _write_to_disk(target)
    with under_load(deployed.targets) as loads:
        time.sleep(LOAD_SECONDS)
        cut = deployed.cut_power()
    wait_until_healthy(deployed)
    for target, data, load in zip(deployed.targets, written, loads, strict=True):
        data.assert_present()
        data.remove()
        present = target.client("queues").lrange(load.key, 0, -1)
        target.client("queues").delete(load.key)
        assert present == [str(number) for number in range(len(present))], "a write is missing before a later one"
        load.assert_running_at(cut)
        required = required_writes(target.settings, load.acknowledged, cut)
        assert len(present) >= required
        acknowledged = len(load.acknowledged)
        with capsys.disabled():
            lost, before = max(0, acknowledged - len(present)), max(0, cut - load.acknowledged[-1])
            print(
                f"\n{target.entry.name}: {acknowledged} writes until {before:.2f} s before the cut, "
                f"the last {lost} of them lost; the settings promise {required}"
            )


def _write_to_disk(target: Target) -> None:
    """Write Redis's data to the disk: the AOF, or an RDB snapshot without an AOF."""
    if not target.settings.redis_appendonly:
        target.save()
    target.host.check_output("sync")


@pytest.mark.reboots
def test_boots_change_nothing(deployed: Smoke) -> None:
    """After both boots the whole host suite passes."""
    assert deployed.verify() > 0


def test_second_deploy_changes_nothing(deployed: Smoke) -> None:
    """It runs after both boots, so it also shows that these left nothing to repair."""
    again = deployed.deploy()
    assert (again.returncode, again.changed) == (0, []), again.stderr
    assert again.operations
