# Starts a stopped instance as it is, and waits until it is healthy. From the caller: INSTANCE (its name), ROOT, TIMER (unit
# of its backups, empty: none), WAIT (seconds).
said=$(docker compose --ansi never --progress plain --project-directory "$ROOT" up --detach --no-recreate --wait \
    --wait-timeout "$WAIT" 2>&1) || {
    printf '%s\n' "$said" >&2
    tail -n 20 "$ROOT/logs/redis.log" >&2
    exit 1
}
[ -z "$TIMER" ] || systemctl enable --quiet --now "$TIMER"
