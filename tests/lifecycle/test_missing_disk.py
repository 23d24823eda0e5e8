"""A disk of the instance that is not mounted.

Nothing starts empty, and nothing is written in its place.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandbox.hosts import Host
from tests.deployed_redis import Instance
from tests.deployer import Deployer
from tests.lifecycle.interruption import cut_power

DATA = "/srv/redis/data"
# The disk: a directory that a unit of systemd mounts, as it does for a line in /etc/fstab.
DISK = "/var/disk"
MOUNT = "[Unit]\n{unit}\n[Mount]\nWhat={disk}\nWhere={place}\nOptions=bind\n[Install]\nWantedBy=multi-user.target\n"
LATE = "[Service]\nType=oneshot\nExecStart=sleep 15\n"
IS_MISSING = "is missing, and redis was deployed on this host: it would start empty"


@contextmanager
def disk(host: Host, place: str) -> Iterator[str]:
    """Have systemd mount a disk with the files of this directory.

    Restarts Redis. Yields the unit's name, and restores the directory at the end.
    """
    name = f"{place.strip('/').replace('/', '-')}.mount"
    unit, text = f"/etc/systemd/system/{name}", MOUNT.format(unit="", disk=DISK, place=place)
    try:
        host.run(f"redisctl stop; mv {place} {DISK} && mkdir {place} && cat >{unit}", input=text, check=True)
        host.run(f"systemctl daemon-reload && systemctl enable --quiet --now {name} && redisctl start", check=True)
        yield name
    finally:
        host.run(
            f"docker stop redis; systemctl disable --now {name}; rm -f {unit}; systemctl daemon-reload; "
            f"umount {place}; [ ! -d {DISK} ] || {{ rmdir {place}; mv --no-target-directory {DISK} {place}; }}; "
            "redisctl start"
        )


def assert_refused(deployer: Deployer, host: Host, message: str) -> None:
    """Check that a deploy is refused with a message and changes nothing on the host."""
    listed = "find /srv/redis -xdev -path '*/logs/*' -prune -o -printf '%p %C@\\n' | sort"
    before = host.run(listed, check=True).stdout
    refused = deployer.deploy(host)
    assert (refused.returncode, refused.operations) == (1, [])
    assert "Nothing was changed on any host" in refused.stderr
    assert message in refused.stderr, refused.stderr
    assert host.run(listed, check=True).stdout == before


def test_docker_waits_for_a_late_data_disk(redis: Instance) -> None:
    """At boot, Redis starts with its data as soon as the disk is mounted."""
    host = redis.host
    with disk(host, DATA) as name:
        text = MOUNT.format(unit="Requires=late.service\nAfter=late.service", disk=DISK, place=DATA)
        host.run("cat >/etc/systemd/system/late.service", input=LATE, check=True)
        try:
            host.run(f"cat >/etc/systemd/system/{name} && systemctl daemon-reload; sleep 2", input=text, check=True)
            cut_power(host)
            redis.wait_until_healthy()
            assert redis.call("GET app:session:kept", user="sessions") == ["1"]
            assert host.run(f"systemctl is-active {name}").stdout == "active\n"
        finally:
            host.run("rm /etc/systemd/system/late.service", check=True)


@pytest.mark.core
def test_missing_data_disk_stops_deploys_and_starts(redis: Instance, deployer: Deployer) -> None:
    """A missing data disk stops deploys and starts, with a systemd unit or without.

    Afterwards Redis has its data again.
    """
    host = redis.host
    with disk(host, DATA) as name:
        host.run(f"docker stop redis; systemctl stop {name}", check=True)
        assert_refused(deployer, host, f"nothing is mounted on {DATA}, a mount point by")
        assert f"run 'mount {DATA}' on the host" in host.run("redisctl start").stderr
        host.run(f"mv /etc/systemd/system/{name} /run/{name}.away && systemctl daemon-reload", check=True)
        assert_refused(deployer, host, f"{DATA}/live {IS_MISSING}")
        assert host.run(f"ls -A {DATA}").stdout == ""
        host.run(f"mv /run/{name}.away /etc/systemd/system/{name} && systemctl daemon-reload", check=True)
        host.run(f"systemctl start {name}", check=True)
        started = deployer.deploy(host)
        assert started.returncode == 0, started.stderr
        assert redis.call("GET app:session:kept", user="sessions") == ["1"]


def test_missing_disk_of_the_instance_stops_a_deploy(redis: Instance, deployer: Deployer) -> None:
    """Without its directory, the host still has the units of the instance."""
    host = redis.host
    host.run("docker stop redis; mv /srv/redis /srv/away && mkdir /srv/redis", check=True)
    try:
        assert_refused(deployer, host, f"{DATA}/live {IS_MISSING}")
    finally:
        host.run("rmdir /srv/redis && mv /srv/away /srv/redis && docker start redis", check=True)
    redis.wait_until_healthy()
    assert redis.call("GET app:session:kept", user="sessions") == ["1"]


def test_lost_data_starts_empty_only_by_name(redis: Instance, deployer: Deployer) -> None:
    host = redis.host
    host.run(f"redisctl backup && redisctl stop && rm -r {DATA}/live", check=True)
    try:
        assert_refused(deployer, host, "deploy with --data redis_allow_data_loss=empty and restore a backup")
        started = deployer.deploy(host, arguments=("-y", "--json", "--data", "redis_allow_data_loss=empty"))
        assert started.returncode == 0, started.stderr
        assert redis.keys == 0
    finally:
        # The deploys of other tests must not be refused.
        host.run(f"mkdir -p {DATA}/live", check=True)
    host.run("redisctl restore latest --yes", check=True)
    assert redis.call("GET app:session:kept", user="sessions") == ["1"]
    again = deployer.deploy(host)
    assert (again.returncode, again.changed) == (0, []), again.stderr


def test_missing_backup_disk_stops_backups(redis: Instance, deployer: Deployer) -> None:
    host, place = redis.host, "/srv/redis/backups"
    with disk(host, place) as name:
        host.run("redisctl backup", check=True)
        host.run(f"docker stop redis; systemctl stop {name}; docker start redis", check=True)
        redis.wait_until_healthy()
        backup = host.run("redisctl backup")
        assert (backup.returncode, f"nothing is mounted on {place}" in backup.stderr) == (3, True), backup.stderr
        assert_refused(deployer, host, f"nothing is mounted on {place}")
        assert host.run(f"ls -A {place}").stdout == ""
        # The scheduled backup mounts the disk, or fails.
        host.run("systemctl start redis-backup.service", check=True)
        assert host.run(f"systemctl is-active {name}").stdout == "active\n"
        # systemd creates a missing directory, but does not mount a file.
        host.run(f"systemctl stop {name}; mv {DISK} {DISK}.away; touch {DISK}", check=True)
        try:
            assert host.run("systemctl start redis-backup.service").returncode != 0
        finally:
            host.run(f"rm {DISK} && mv {DISK}.away {DISK} && systemctl start {name}", check=True)


def test_disk_on_the_live_data_itself_is_refused(redis: Instance, deployer: Deployer) -> None:
    """Its mount point would be an empty directory that Redis starts with."""
    host, live = redis.host, f"{DATA}/live"
    host.run(f"redisctl stop && mount -t tmpfs tmpfs {live}", check=True)
    try:
        assert_refused(deployer, host, f"{live} is a mount point, so no restore could replace the data")
    finally:
        host.run(f"umount {live}; redisctl start", check=True)
