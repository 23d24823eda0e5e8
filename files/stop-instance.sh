# Stops an instance in order, and its backups with it. From the caller: INSTANCE (its name), ROOT, UNITS (of its backups,
# and of a start that was broken off), GRACE (seconds that Redis has to save).
for unit in $UNITS; do
    ! systemctl cat "$unit" >/dev/null 2>&1 || systemctl disable --quiet --now "$unit" || exit 1
done
ids=$(docker ps --quiet --filter "label=com.docker.compose.project=$INSTANCE")
[ -n "$ids" ] || exit 0
# Services that need Redis first, where Compose knows of them.
[ ! -e "$ROOT/compose.yml" ] || docker compose --ansi never --project-directory "$ROOT" stop 2>/dev/null
# shellcheck disable=SC2086 # a list of ids
docker stop -t "$GRACE" $ids >/dev/null || exit 1
# 137 is a kill: by the engine, once the grace was over, or by somebody.
[ "$(docker inspect --format '{{.State.ExitCode}}' "$INSTANCE" 2>/dev/null)" != 137 ] || {
    echo "$INSTANCE did not end within $GRACE s and was killed: tail $ROOT/logs/redis.log says what it was doing" >&2
    exit 1
}
