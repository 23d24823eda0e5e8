"""All files and directories of a default instance, written by hand.

No other file may exist, and none may be missing.
"""

from sandbox.hosts import Host

# Mode and owner.
TREE = {
    "/srv/redis": ("755", "0:0"),
    "/srv/redis/.redoubt": ("600", "0:0"),
    "/srv/redis/config": ("700", "999:999"),
    "/srv/redis/data": ("700", "0:0"),
    "/srv/redis/data/live": ("700", "999:999"),
    "/srv/redis/backups": ("700", "999:999"),
    "/srv/redis/logs": ("700", "999:999"),
    "/srv/redis/secrets": ("700", "999:999"),
    "/srv/redis/secrets/sessions": ("400", "999:999"),
    "/srv/redis/secrets/queues": ("400", "999:999"),
    "/srv/redis/secrets/admin": ("400", "999:999"),
    "/srv/redis/secrets/server": ("700", "999:999"),
    "/srv/redis/secrets/server/health": ("400", "999:999"),
    "/srv/redis/secrets/server/commands.conf": ("400", "999:999"),
    "/srv/redis/secrets/server/generation": ("400", "999:999"),
    "/srv/redis/config/users.acl": ("400", "999:999"),
    "/srv/redis/config/redis.conf": ("600", "999:999"),
    "/srv/redis/config/healthcheck.sh": ("500", "999:999"),
    "/srv/redis/config/activedefrag.conf": ("600", "999:999"),
    "/srv/redis/compose.yml": ("644", "0:0"),
    "/srv/redis/network.nft": ("600", "0:0"),
    "/srv/redis/clients.nft": ("600", "0:0"),
    "/srv/redis/network-watch.sh": ("700", "0:0"),
    "/srv/redis/redisctl": ("755", "0:0"),
    "/srv/redis/redisctl.json": ("644", "0:0"),
    "/srv/redis/settings.json": ("600", "0:0"),
    "/etc/logrotate.d/redis": ("644", "0:0"),
    "/usr/local/sbin/redisctl": ("755", "0:0"),
    "/etc/systemd/system/redis-backup.service": ("644", "0:0"),
    "/etc/systemd/system/redis-backup.timer": ("644", "0:0"),
    "/etc/systemd/system/redis-logs.service": ("644", "0:0"),
    "/etc/systemd/system/redis-logs.timer": ("644", "0:0"),
    "/etc/systemd/system/redis-loaded.service": ("644", "0:0"),
    "/etc/systemd/system/redis-network.service": ("644", "0:0"),
    "/etc/systemd/system/redis-network-watch.path": ("644", "0:0"),
    "/etc/systemd/system/redis-network-watch.service": ("644", "0:0"),
    "/etc/systemd/system/redis-network-watch.timer": ("644", "0:0"),
    "/etc/systemd/system/redis-recover.path": ("644", "0:0"),
    "/etc/systemd/system/redis-recover.service": ("644", "0:0"),
    "/etc/systemd/system/redis-recover-files.service": ("644", "0:0"),
}
FILES = [path for path, (mode, _) in TREE.items() if path != "/srv/redis" and mode not in ("750", "700")]


def looks(host: Host) -> dict[str, tuple[str, str]]:
    """Return mode and owner of all paths of the instance.

    Paths that Redis or a transaction writes are left out.
    """
    lines = host.run(
        "cd /srv && find /srv/redis /etc/logrotate.d/redis* /usr/local/sbin/redisctl* /etc/systemd/system/redis-* "
        "/tmp/pyinfra* \\( -path '/srv/redis/data/live/*' -o -path '/srv/redis/logs/*' "
        "-o -path /srv/redis/data/previous -o -path /srv/redis/data/staging -o -path /srv/redis/compose.created.yml "
        "\\) -prune -o "
        "-printf '%p %m %U:%G\\n' 2>/dev/null"
    ).stdout.splitlines()
    return {path: (mode, owner) for path, mode, owner in map(str.split, lines)}


def digests(host: Host) -> dict[str, str]:
    """Return the digest of each file of the instance."""
    lines = host.run(f"sha256sum {' '.join(FILES)}", check=True).stdout.splitlines()
    return {path: digest for digest, path in map(str.split, lines)}
