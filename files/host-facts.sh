# Inspects a host before a deploy and changes nothing. Prints "key value" lines, which redoubt/facts/host.py parses.
# The caller sets ROOT (the instance's directory), KERNEL (paths of kernel settings) and CALENDAR (the backup schedule).
# POSIX sh, and only what a bare Debian has: Python may be missing. redisctl reports on the instance.
. /etc/os-release
echo "uid $(id -u)"
echo "system $PRETTY_NAME"
echo "id $ID"
echo "version $VERSION_ID"
echo "codename ${UBUNTU_CODENAME:-$VERSION_CODENAME}"
echo "memory_kib $(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)"

# Copies of a host share /etc/machine-id. A namespace identifies a container on a shared kernel.
echo "machine $(cat /proc/sys/kernel/random/boot_id) $(readlink /proc/1/ns/uts)"

echo "container $(systemd-detect-virt --container 2>/dev/null)"
for path in $KERNEL; do
    [ ! -r "$path" ] || echo "kernel $path $(cat "$path")"
done

# The nearest directory that exists is on the disk that the root will be on.
directory=$ROOT/data
while [ ! -d "$directory" ]; do directory=$(dirname "$directory"); done
echo "disk_free_kib $(df -Pk "$directory" | awk 'NR == 2 { print $4 }')"

echo "docker_installed $(dockerd --version 2>/dev/null)"
echo "docker_answers $(timeout 10 docker version --format '{{.Server.Version}}' 2>/dev/null)"
echo "docker_enabled $(systemctl is-enabled docker.service 2>/dev/null)"
echo "docker_package $(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' docker.io docker-ce 2>/dev/null |
    sed '/^not-installed /d; /^config-files /d; s/.* //')"
echo "compose $(docker compose version --short 2>/dev/null)"

# The reason if systemd does not understand the schedule, or if it lies in the past.
echo "calendar_refused $([ -z "$CALENDAR" ] || systemd-analyze calendar "$CALENDAR" 2>&1 |
    sed -n '/^Failed/p; /Next elapse: never/s/.*/it never comes/p' | head -n 1)"
echo "selinux $(getenforce 2>/dev/null)"
# Debian's python3-minimal lacks parts of the standard library.
echo "python $(python3 -c 'import sys, asyncio, json, ssl, zipfile; print(sys.version_info >= (3, 10) or "")' 2>/dev/null)"
echo "root $([ ! -d "$ROOT" ] || echo yes)"
# The digest at the end of the program says which release it is.
echo "redisctl $(tail -c 64 "$ROOT/redisctl" 2>/dev/null | tr -cd '0-9a-f')"
echo "logrotate $(command -v logrotate)"
# A host that may listen on addresses before it has them (keepalived) has no list to check against.
[ "$(cat /proc/sys/net/ipv4/ip_nonlocal_bind 2>/dev/null)" = 1 ] ||
    ip -oneline address show 2>/dev/null | awk '{ sub("/.*", "", $4); print "address " $4 }'
ss -Hltnp 2>/dev/null | sed 's/^/listener /'
exit 0
