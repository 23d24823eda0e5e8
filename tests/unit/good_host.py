"""The facts of a host that a deploy accepts. Tests change one of them."""

from dataclasses import replace
from typing import Any

from redisctl.schema import InstanceState, OtherInstance, StoredData, UnitState
from redoubt.facts.host import HostFacts, parse_host_facts
from redoubt.sizes import GIB, MIB

PROBE = """\
uid 0
system Debian GNU/Linux 13 (trixie)
id debian
version 13
codename trixie
container none
kernel /proc/sys/vm/overcommit_memory 0
kernel /sys/kernel/mm/transparent_hugepage/enabled [always] madvise never
memory_kib 4015012
machine 0123 uts:[4567]
disk_free_kib 20971520
docker_installed Docker version 26.1.5+dfsg1, build a72d7cd
docker_answers 26.1.5+dfsg1
docker_enabled enabled
docker_package docker.io
compose 2.26.1-4
selinux
logrotate /usr/sbin/logrotate
nft /usr/sbin/nft
python True
root yes
root_owner redis
root_resolved /srv/redis
root_access 0:0 755
root_entry .redoubt
root_entry config
redisctl 0123abcd
owner_account
free_id 59999
calendar_refused
address 127.0.0.1
address 10.0.0.5
address ::1
route default via 10.0.0.1 dev eth0
route 10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.5
listener LISTEN 0 4096 127.0.0.1:6379 0.0.0.0:* users:(("docker-proxy",pid=812,fd=4))
listener LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=401,fd=3))
listener LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=401,fd=4))
listener LISTEN 0 128 [fe80::1%eth0]:546 [::]:*
listener LISTEN 0 128 *:8080 *:*
"""
INSTANCE = InstanceState(
    image={"Id": "sha256:1"},
    config={"appendonly": "yes", "save": "900 1 300 10", "maxmemory": str(GIB)},
    running_engine="redis",
    running_version="8.0.2",
    used_memory=99 * MIB,
    configured=True,
    configured_appendonly="yes",
    stored=StoredData(rdb=True, aof=True, formats=("REDIS0012",)),
    published=(("127.0.0.1", 6379),),
    data_dir="/srv/redis/data/live",
    other_instances=(OtherInstance("queue", "/srv/queue/data/live", 768 * MIB, (("0.0.0.0", 6380),)),),
    deployed_settings={"redis_maxmemory_policy": "volatile-lru", "redis_appendonly": True},
    generation=3,
    units={"redis-backup.timer": UnitState(present=True, active=True, enabled=True, outdated=False)},
)
FACTS = parse_host_facts(PROBE.splitlines()).with_instance(INSTANCE)


def with_state(**changes: Any) -> HostFacts:
    """Return a good host whose instance differs in this."""
    return FACTS.with_instance(replace(INSTANCE, **changes))
