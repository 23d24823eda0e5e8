# Looks at a host before a deploy and changes nothing. Prints "key value" lines; redoubt/facts/host.py reads them.
# INSTANCE (its name), ROOT (its directory), KERNEL (paths of values) and CALENDAR (when backups are taken) come from the
# caller. POSIX sh, and only what a bare Debian has.
. /etc/os-release
echo "uid $(id -u)"
echo "system $PRETTY_NAME"
echo "id $ID"
echo "version $VERSION_ID"
echo "codename ${UBUNTU_CODENAME:-$VERSION_CODENAME}"
echo "memory_kib $(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)"

# Not by /etc/machine-id, which copies have in common. Containers are told apart on one kernel by a namespace of theirs.
echo "machine $(cat /proc/sys/kernel/random/boot_id) $(readlink /proc/1/ns/uts)"

echo "container $(systemd-detect-virt --container 2>/dev/null)"
for path in $KERNEL; do
    [ ! -r "$path" ] || echo "kernel $path $(cat "$path")"
done

# The nearest directory that exists is on the disk that the root will be on.
at=$ROOT
while [ ! -d "$at" ]; do at=$(dirname "$at"); done
echo "disk_free_kib $(df -Pk "$at" | awk 'NR == 2 { print $4 }')"
echo "data_kib $(du -sk "$ROOT/data" 2>/dev/null | awk '{ kib = $1 } END { print kib + 0 }')"

echo "engine_installed $(dockerd --version 2>/dev/null)"
echo "engine_answers $(timeout 10 docker version --format '{{.Server.Version}}' 2>/dev/null)"
echo "engine_enabled $(systemctl is-enabled docker.service 2>/dev/null)"
echo "engine_package $(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' docker.io docker-ce 2>/dev/null |
    sed '/^not-installed /d; /^config-files /d; s/.* //')"
echo "compose $(docker compose version --short 2>/dev/null)"
# By its labels: a Compose that was killed, or a person, may have left the container under another name.
docker ps --all --quiet --filter "label=com.docker.compose.project=$INSTANCE" \
    --filter "label=com.docker.compose.service=$INSTANCE" 2>/dev/null |
    xargs -r docker inspect --format '{{json .HostConfig.PortBindings}}' | sed 's/^/published /'
# Other instances: by the label that every container of Redis has, and by their projects, whatever one is called by now.
docker ps --all --quiet --filter label=redoubt.definition --filter label=com.docker.compose.oneoff=False 2>/dev/null |
    xargs -r docker inspect --format '[{{json (index .Config.Labels "com.docker.compose.project")}}, {{range .Mounts
        }}{{if eq .Destination "/data"}}{{json .Source}}{{end}}{{end}}, {{.HostConfig.Memory}}, {{
        json .HostConfig.PortBindings}}]' | sed "/^\[\"$INSTANCE\",/d; s/^/instance /"
echo "name_taken $(docker container inspect --format '{{index .Config.Labels "com.docker.compose.project"}} {{.Image}}' \
    "$INSTANCE" 2>/dev/null | sed "/^$INSTANCE /d")"
echo "data_at $(docker container inspect --format '{{range .Mounts}}{{if eq .Destination "/data"}}{{.Source}}{{end}}{{end}}' \
    "$INSTANCE" 2>/dev/null)"
# What its data is kept in: by the running Redis's word, by its configuration, and by what is on the disk.
if [ "$(docker container inspect --format '{{.State.Running}}' "$INSTANCE" 2>/dev/null)" = true ]; then
    config=$(sed -n 's/^rename-command CONFIG //p' "$ROOT/secrets/server/commands.conf" 2>/dev/null)
    {
        printf 'AUTH admin %s\n' "$(cat "$ROOT/secrets/admin" 2>/dev/null)"
        printf '%s GET appendonly\n%s GET save\nINFO memory\nINFO server\n' "${config:-CONFIG}" "${config:-CONFIG}"
    } | timeout 10 docker exec -i "$INSTANCE" redis-cli -s /run/redis/redis.sock 2>/dev/null |
        tr -d '\r' | sed -n '/^appendonly$/ { n; s/^/running_appendonly /p; }; /^save$/ { n; s/^/running_save /p; }
            s/^redis_version:/running_redis /p; s/^valkey_version:/running_valkey /p
            s/^used_memory:/running_used /p; s/^maxmemory:/running_maxmemory /p; s/^mem_not_counted_for_evict:/running_uncounted /p'
fi
# Whether the image of the settings is the one that runs.
echo "image_runs $([ "$(docker container inspect --format '{{.Image}}' "$INSTANCE" 2>/dev/null || echo none)" = \
    "$(docker image inspect --format '{{.Id}}' "$IMAGE" 2>/dev/null)" ] && echo yes)"
echo "configured_appendonly $(sed -n 's/^appendonly //p' "$ROOT/config/redis.conf" 2>/dev/null)"
echo "stored $(cd "$ROOT/data" 2>/dev/null && ls dump.rdb appendonlydir/*.manifest 2>/dev/null | tr '\n' ' ')"
# The settings of the last deploy that came to its end.
echo "deployed $(tr -d '\n' 2>/dev/null <"$ROOT/settings.json")"
# What a restore that was broken off had come to, see redisctl/data/swap.py.
echo "replacing $(sed -n 's/^  "what": "\(.*\)",$/\1/p' "$ROOT/replace.json" 2>/dev/null)"
echo "generation $(cat "$ROOT/secrets/server/generation" 2>/dev/null)"
# The first letters of a snapshot name its format: REDIS0012, VALKEY080.
for file in "$ROOT/data/dump.rdb" "$ROOT"/data/appendonlydir/*.base.rdb; do
    [ ! -f "$file" ] || echo "format $(head -c 9 "$file" | tr -cd '[:alnum:]')"
done
echo "network_filtered $(ls "/etc/systemd/system/$INSTANCE-network.service" 2>/dev/null)"
echo "backup_scheduled $(cd /etc/systemd/system && ls "$INSTANCE-backup.timer" "$INSTANCE-backup.service" 2>/dev/null | tr '\n' ' ')"
# What it says of one that it does not understand, or that lies in the past.
echo "calendar_refused $([ -z "$CALENDAR" ] || LC_ALL=C systemd-analyze calendar "$CALENDAR" 2>&1 |
    sed -n '/^Failed/p; /Next elapse: never/s/.*/it never comes/p' | head -n 1)"
echo "repository_password $(ls "$ROOT/secrets/repository/password" 2>/dev/null)"
for path in "$ROOT/ca.crt" "$ROOT/config/tls.conf" "$ROOT/config/tls" "$ROOT"/config/tls/*; do
    [ ! -e "$path" ] || echo "certificate $path"
done
echo "certificate_source $(sed -n 's/^# source //p' "$ROOT/config/tls.conf" 2>/dev/null)"
echo "selinux $(getenforce 2>/dev/null)"
# Debian's python3-minimal has not all of the library.
echo "python $(python3 -c 'import sys, asyncio, json, ssl, zipfile; print(sys.version_info >= (3, 10) or "")' 2>/dev/null)"
echo "logrotate $(command -v logrotate)"
# A host that may listen on addresses before it has them (keepalived) has no list to check against.
[ "$(cat /proc/sys/net/ipv4/ip_nonlocal_bind 2>/dev/null)" = 1 ] ||
    ip -oneline address show 2>/dev/null | awk '{ sub("/.*", "", $4); print "address " $4 }'
ss -Hltnp 2>/dev/null | sed 's/^/listener /'
exit 0
