"""Recovery of whatever was interrupted.

The old or the new state then runs without a person.
"""

import os
import time
from pathlib import Path

from redisctl.core import journal
from redisctl.core.instance import Instance
from redisctl.core.journal import Kind
from redisctl.data import swap
from redisctl.deploy import lifecycle, owner, service


def recover(instance: Instance) -> str:
    """Finish an interrupted transaction.

    The caller holds the lock. Returns what was done, empty if there was nothing to do. Raises Failure.
    """
    record = journal.read(instance)
    if record is None:
        return ""
    if record.kind is Kind.DATA:
        return swap.recover(instance, record)
    if record.kind in (Kind.STOP, Kind.START):
        return lifecycle.recover(instance, record)
    if record.kind is Kind.OWNER:
        return owner.recover(instance, record)
    return service.recover(instance, record, at_boot=record.started < boot_time())


def boot_time() -> float:
    """Return when this host booted, in seconds since the epoch.

    For a container host, it is when its first process started.
    """
    fields = Path("/proc/1/stat").read_text().rpartition(")")[2].split()
    # starttime of proc_pid_stat(5) in clock ticks since the machine's boot. It is field 22; the list starts at field 3.
    since_machine_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_machine_boot


def recover_files(instance: Instance) -> None:
    """Put data files back where an interrupted transaction had moved them.

    Runs at boot, before Docker starts.
    """
    record = journal.read(instance)
    if record is None:
        return
    if record.kind is Kind.DATA:
        swap.recover_files(instance, record)
    elif record.kind is Kind.SERVICE:
        service.recover_files(instance, record)
