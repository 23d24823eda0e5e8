# Gives an unhealthy Redis that runs as it should the chance to recover, before Compose judges it by the last check.
# INSTANCE, ROOT and PATIENCE (seconds) come from the caller. Says nothing and decides nothing.
ask() {
    {
        printf 'AUTH admin %s\n' "$(cat "$ROOT/secrets/admin")"
        printf '%s\n' "$1"
    } | timeout 10 docker exec -i "$INSTANCE" redis-cli 2>/dev/null
}

# A save that failed counts until another one succeeds, and Redis may take a quarter of an hour to try again.
persistence=$(ask 'INFO persistence')
case $persistence in *rdb_last_bgsave_status:err*) ask BGSAVE >/dev/null ;; esac
case $persistence in *aof_last_bgrewrite_status:err*) ask BGREWRITEAOF >/dev/null ;; esac

for _ in $(seq "$PATIENCE"); do
    [ "$(docker inspect --format '{{.State.Health.Status}}' "$INSTANCE")" = unhealthy ] || break
    sleep 1
done
