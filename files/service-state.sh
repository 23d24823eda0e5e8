# Reports the state of an instance's Compose service and changes nothing; redoubt/service.py reads it.
# INSTANCE (its name), ROOT (its directory) and IMAGE come from the caller.
command -v docker >/dev/null || exit 0
cd "$ROOT" 2>/dev/null || exit 0

echo "@@hashes"
docker compose config --hash '*' 2>/dev/null
echo "@@containers"
ids=$(docker ps -aq --filter "label=com.docker.compose.project=$INSTANCE")
# shellcheck disable=SC2086 # a list of ids
[ -z "$ids" ] || docker inspect $ids
echo "@@image"
docker image inspect --format '{{.Id}}' "$IMAGE" 2>/dev/null
echo "@@files"
stat -c '%.6Y %n' config/redis.conf config/users.acl config/activedefrag.conf secrets/* 2>/dev/null

# The password and the new name of CONFIG go in on standard input: arguments are visible in ps.
if [ "$(docker inspect --format '{{.State.Running}}' "$INSTANCE" 2>/dev/null)" = true ]; then
    config=$(sed -n 's/^rename-command CONFIG //p' secrets/commands.conf)
    echo "@@config"
    {
        printf 'AUTH admin %s\n' "$(cat secrets/admin)"
        printf '%s GET *\n' "${config:-CONFIG}"
    } | timeout 10 docker exec -i "$INSTANCE" redis-cli 2>/dev/null
fi
exit 0
