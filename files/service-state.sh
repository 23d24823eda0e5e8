# Reports the state of an instance's Compose service and changes nothing; redoubt/service.py reads it.
# INSTANCE (its name), ROOT (its directory), IMAGE and MOUNTS (directory:path in the container) come from the caller.
command -v docker >/dev/null || exit 0
cd "$ROOT" 2>/dev/null || exit 0

echo "@@hashes"
docker compose config --hash '*' 2>/dev/null
echo "@@containers"
ids=$(docker ps -aq --filter "label=com.docker.compose.project=$INSTANCE")
# shellcheck disable=SC2086 # a list of ids
[ -z "$ids" ] || docker inspect $ids
echo "@@networks"
docker network inspect "${INSTANCE}_backend" "${INSTANCE}_edge" 2>/dev/null
echo "@@image"
docker image inspect --format '{{.Id}}' "$IMAGE" 2>/dev/null
echo "@@files"
stat -c '%.6Y %n' config/redis.conf config/users.acl config/activedefrag.conf secrets/* 2>/dev/null

# A directory that was removed or replaced stays in the container as it was.
pid=$(docker inspect --format '{{.State.Pid}}' "$INSTANCE" 2>/dev/null)
if [ "${pid:-0}" -gt 0 ] && [ -d "/proc/$pid/root" ]; then
    echo "@@detached"
    for mount in $MOUNTS; do
        [ "${mount%%:*}" -ef "/proc/$pid/root${mount#*:}" ] || echo "${mount%%:*}"
    done
fi

# Passwords and the new name of CONFIG go in on standard input: arguments are visible in ps. What comes back is
# shown when pyinfra is asked for its output: no hash of a password, and no name that Redis does not know.
if [ "$(docker inspect --format '{{.State.Running}}' "$INSTANCE" 2>/dev/null)" = true ]; then
    config=$(sed -n 's/^rename-command CONFIG //p' secrets/commands.conf)
    echo "@@config"
    {
        printf 'AUTH admin %s\n' "$(cat secrets/admin)"
        printf '%s GET *\n' "${config:-CONFIG}"
        printf 'ECHO @@acl\nACL LIST\nECHO @@logins\n'
        for secret in secrets/*; do
            user=${secret#secrets/}
            [ "$user" = commands.conf ] || printf 'PING %s\nAUTH %s %s\n' "$user" "$user" "$(cat "$secret")"
        done
    } | timeout 10 docker exec -i "$INSTANCE" redis-cli 2>/dev/null |
        sed -e '/^ERR unknown command/d' -e 's/#[0-9a-f]\{64\}/#/g'
fi
exit 0
