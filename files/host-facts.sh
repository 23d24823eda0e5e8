# Inspects a host before a deploy and changes nothing. Prints "key value" lines, which redoubt/facts/host.py parses.
# The caller sets ROOT (the instance's directory), KERNEL (paths of kernel settings), CALENDAR (the backup schedule), OWNER
# (the number of Redis's user) and FILES (what a deploy writes outside the root).
# POSIX sh, and only what a bare Debian has: Python may be missing. redisctl reports on the instance.
. /etc/os-release

# Prints a line as it is: echo would interpret a backslash in the name of a file.
fact() { printf '%s\n' "$*"; }

fact "uid $(id -u)"
fact "system $PRETTY_NAME"
fact "id $ID"
fact "version $VERSION_ID"
fact "codename ${UBUNTU_CODENAME:-$VERSION_CODENAME}"
fact "memory_kib $(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)"

# Copies of a host share /etc/machine-id. A namespace identifies a container on a shared kernel.
fact "machine $(cat /proc/sys/kernel/random/boot_id) $(readlink /proc/1/ns/uts)"

fact "container $(systemd-detect-virt --container 2>/dev/null)"
for path in $KERNEL; do
    # Not with "read": dash reads byte by byte, and the kernel answers only the first.
    [ ! -r "$path" ] || fact "kernel $path $(cat "$path")"
done

# The nearest directory that exists is on the disk that the root will be on.
directory=$ROOT/data
while [ ! -d "$directory" ]; do directory=$(dirname "$directory"); done
fact "disk_free_kib $(df -Pk "$directory" | awk 'NR == 2 { print $4 }')"

docker_answers=$(timeout 10 docker version --format '{{.Server.Version}}' 2>/dev/null)
fact "docker_answers $docker_answers"
# Starting dockerd for its version takes longer than asking the one that runs.
fact "docker_installed $([ -n "$docker_answers" ] || dockerd --version 2>/dev/null)"
fact "docker_enabled $(systemctl is-enabled docker.service 2>/dev/null)"
fact "docker_package $(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' docker.io docker-ce 2>/dev/null |
    sed '/^not-installed /d; /^config-files /d; s/.* //')"
fact "compose $(docker compose version --short 2>/dev/null)"

# The reason if systemd does not understand the schedule, or if it lies in the past.
fact "calendar_refused $([ -z "$CALENDAR" ] || systemd-analyze calendar "$CALENDAR" 2>&1 |
    sed -n '/^Failed/p; /Next elapse: never/s/.*/it never comes/p' | head -n 1)"
fact "selinux $(getenforce 2>/dev/null)"
# Debian's python3-minimal lacks parts of the standard library. Finding them takes a tenth of the time of importing them.
fact "python $(python3 -IS -c 'import sys; from importlib.util import find_spec
print(sys.version_info >= (3, 10) and all(map(find_spec, ("asyncio", "json", "ssl", "zipfile"))) or "")' 2>/dev/null)"
fact "root $([ ! -d "$ROOT" ] || echo yes)"
# The instance that the root belongs to. What else is in the root, except empty disks. A list of 20 names is enough for a
# message.
marker=$ROOT/.redoubt
fact "root_owner $([ ! -f "$marker" ] || [ -L "$marker" ] || head -c 100 "$marker" | head -n 1)"
ls -Aq "$ROOT" 2>/dev/null | while IFS= read -r name; do
    path=$ROOT/$name
    [ "$name" != lost+found ] || [ ! -d "$path" ] || continue
    mountpoint -q "$path" && [ -z "$(ls -A "$path" | grep -vx 'lost+found')" ] || fact "root_entry $name"
done | head -n 20
# Where links in its path lead, and its owner, group and mode.
fact "root_resolved $(readlink -m "$ROOT")"
fact "root_access $(stat -c '%u:%g %a' "$ROOT" 2>/dev/null)"
# Files of others under the names of a deploy's files. Their first line counts, or the one after the interpreter.
for path in $FILES; do
    [ -e "$path" ] || [ -L "$path" ] || continue
    { [ ! -f "$path" ] || head -c 300 "$path" 2>/dev/null; } | {
        read -r line
        case $line in '#!'*) read -r line ;; esac
        case $line in *'written by Redoubt'*) ;; *) fact "foreign_file $path" ;; esac
    }
done
# The digest at the end of the program says which release it is.
fact "redisctl $(tail -c 64 "$ROOT/redisctl" 2>/dev/null | tr -cd '0-9a-f')"
fact "owner_account $(getent passwd "$OWNER" | cut -d: -f1)"
# A number for Redis that no account and no group has, at the end of the range where accounts begin.
free=59999
while getent passwd "$free" >/dev/null || getent group "$free" >/dev/null; do free=$((free - 1)); done
fact "free_id $free"
fact "logrotate $(command -v logrotate)"
fact "nft $(command -v nft)"
# A host that may listen on addresses before it has them (keepalived) has no list to check against.
[ "$(cat /proc/sys/net/ipv4/ip_nonlocal_bind 2>/dev/null)" = 1 ] ||
    ip -oneline address show 2>/dev/null | awk '{ sub("/.*", "", $4); print "address " $4 }'
ip -oneline -4 route show table all type unicast 2>/dev/null | sed 's/^/route /'
ss -Hltnp 2>/dev/null | sed 's/^/listener /'
exit 0
