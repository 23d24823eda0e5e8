"""The main job on a real machine, through a reboot and a power cut: steps that build on each other, in this order.

make smoke-vm                                                        a virtual machine that is made for it
pytest tests/smoke --inventory inventory/production.py --reboots     hosts of your own, before they are in use
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
from tests.smoke.durability import promised, unflushed_seconds
from tests.smoke.load import under_load

LOAD_SECONDS = 8


@dataclass
class Kept:
    """What was written to a host before it went down, and how to look for it."""

    target: Target
    session: str
    jobs: list[str]

    @staticmethod
    def write(target: Target) -> "Kept":
        """A session and some jobs, by the applications' own users and libraries."""
        session = target.settings.session_keys.replace("*", target.mark)
        assert target.client("sessions").set(session, target.mark, ex=7200)
        queue = Queue(target.mark, connection=target.client("queues", decode_responses=False))
        jobs = [queue.enqueue(operator.add, number, 1).id for number in range(10)]
        return Kept(target, session, jobs)

    def assert_there(self) -> None:
        """Everything, with its time to live."""
        sessions = self.target.client("sessions")
        assert sessions.get(self.session) == self.target.mark
        assert 0 < sessions.ttl(self.session) <= 7200
        queue = Queue(self.target.mark, connection=self.target.client("queues", decode_responses=False))
        assert queue.get_job_ids() == self.jobs
        assert [job.args for job in queue.jobs] == [(number, 1) for number in range(10)]

    def remove(self) -> None:
        """Nothing of the run stays in Redis."""
        self.target.client("sessions").delete(self.session)
        Queue(self.target.mark, connection=self.target.client("queues", decode_responses=False)).delete()


def assert_healthy_by_itself(smoke: Smoke) -> None:
    """Nobody started it: the engine did, at boot."""
    for target in smoke.targets:
        until(partial(_is_healthy, target), 120)


def _is_healthy(target: Target) -> bool:
    engine = target.host.run(f"docker inspect {quoted(target.settings.redis_name)}")
    return engine.rc == 0 and bool(target.inspect()["State"]["Health"]["Status"] == "healthy")


def test_a_bare_host_is_deployed(smoke: Smoke) -> None:
    if smoke.machine is not None:
        engines = "for one in docker dockerd containerd podman; do command -v $one; done"
        assert smoke.machine.run(engines).stdout == "", "a machine that is made for this has no engine yet"
    result = smoke.deploy()
    assert result.returncode == 0, result.stderr


def test_it_is_as_the_settings_say(deployed: Smoke) -> None:
    assert deployed.verify() > 0


def test_a_second_deploy_changes_nothing(deployed: Smoke) -> None:
    again = deployed.deploy()
    assert (again.returncode, again.changed) == (0, []), again.stderr
    assert again.operations


@pytest.mark.machine
def test_the_unit_of_backups_takes_one_that_is_good(deployed: Smoke) -> None:
    """Under a systemd of its own, with all that the unit forbids itself."""
    assert deployed.machine is not None
    deployed.machine.run("systemctl start redis-backup.service", check=True)
    taken = json.loads(deployed.machine.run("redisctl backup list --json", check=True).stdout)["backups"]
    assert [one["verified"]["verdict"] for one in taken] == ["ok"]


@pytest.mark.reboots
def test_after_a_reboot_redis_is_back_by_itself_with_its_data(deployed: Smoke) -> None:
    kept = [Kept.write(target) for target in deployed.targets]
    deployed.reboot()
    assert_healthy_by_itself(deployed)
    for one in kept:
        one.assert_there()
        one.remove()


@pytest.mark.reboots
@pytest.mark.machine
def test_after_a_reboot_only_the_named_networks_come_from_outside(deployed: Smoke, outside: str) -> None:
    """The filter stood before the engine started, and so before anything could be reached."""
    assert deployed.machine is not None
    times = deployed.machine.run(
        "nft list table inet redoubt_redis >/dev/null && "
        "systemctl show --property ActiveEnterTimestampMonotonic --value redis-network.service && "
        "systemctl show --property InactiveExitTimestampMonotonic --value docker.service",
        check=True,
    )
    stood, began = map(int, times.stdout.split())
    assert 0 < stood < began
    wanted = {
        "192.0.2.1 6379 192.0.2.2": "redis",
        "2001:db8::1 6379 2001:db8::2": "redis",
        "192.0.2.1 6379 192.0.2.3": "closed",
        "2001:db8::1 6379 2001:db8::3": "closed",
        "192.0.2.1 22 192.0.2.3": "other",
        "2001:db8::1 22 2001:db8::3": "other",
    }
    assert answers(deployed.machine, *wanted, within=outside) == wanted


@pytest.mark.reboots
@pytest.mark.machine
def test_after_a_reboot_the_next_backup_is_waited_for(deployed: Smoke) -> None:
    assert deployed.machine is not None
    shown = deployed.machine.run("systemctl show redis-backup.timer --property SubState,Result", check=True).stdout
    assert shown.split() == ["Result=success", "SubState=waiting"]


@pytest.mark.reboots
def test_after_a_power_cut_redis_is_back_by_itself_with_all_that_was_flushed(
    deployed: Smoke, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under write load. What was acknowledged before the last flush is there, whole and in order.

    Where the settings promise no flush: what was there when it was written to the disk.
    """
    kept = [Kept.write(target) for target in deployed.targets]
    for target in deployed.targets:
        if unflushed_seconds(target.settings) is None:
            _write_to_disk(target)
    with under_load(deployed.targets) as loads:
        time.sleep(LOAD_SECONDS)
        cut = deployed.cut_power()
    assert_healthy_by_itself(deployed)
    for target, one, load in zip(deployed.targets, kept, loads, strict=True):
        one.assert_there()
        one.remove()
        there = target.client("queues").lrange(load.key, 0, -1)
        target.client("queues").delete(load.key)
        assert there == [str(number) for number in range(len(there))], "a write is missing before one that is there"
        load.assert_under_way(cut)
        demanded = promised(target.settings, load.acknowledged, cut)
        assert len(there) >= demanded
        written = len(load.acknowledged)
        with capsys.disabled():
            lost, before = max(0, written - len(there)), max(0, cut - load.acknowledged[-1])
            print(
                f"\n{target.entry.name}: {written} writes until {before:.2f} s before the cut, "
                f"the last {lost} of them lost; the settings promise {demanded}"
            )


def _write_to_disk(target: Target) -> None:
    """What Redis has now: the log by the kernel, or a snapshot where there is no log."""
    if not target.settings.redis_appendonly:
        target.save()
    target.host.check_output("sync")


@pytest.mark.reboots
def test_after_both_boots_everything_is_as_the_settings_say(deployed: Smoke) -> None:
    """The kernel's settings are still in force, for one. Once for both: the suite takes minutes on an emulated host."""
    assert deployed.verify() > 0


def test_a_last_deploy_changes_nothing(deployed: Smoke) -> None:
    again = deployed.deploy()
    assert (again.returncode, again.changed) == (0, []), again.stderr
