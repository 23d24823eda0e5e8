# Has the running Redis write its data where the configuration that follows reads it; redoubt/preflight.py says when.
# From the caller: INSTANCE (its name), ROOT (its directory), TO (log: start the AOF; dump: have a stop write a snapshot),
# SAVE (the save points to come), WAIT (seconds).
config=$(sed -n 's/^rename-command CONFIG //p' "$ROOT/secrets/server/commands.conf")
config=${config:-CONFIG}

ask() {
    # On standard input: arguments are visible in ps.
    {
        printf 'AUTH admin %s\n' "$(cat "$ROOT/secrets/admin")"
        printf '%s\n' "$1"
    } | timeout 30 docker exec -i "$INSTANCE" redis-cli -s /run/redis/redis.sock 2>&1 | tr -d '\r' | sed 1d
}
give_up() {
    echo "$INSTANCE goes on as it is, and its data stays where it is: $*" >&2
    exit 1
}

if [ "$TO" = dump ]; then
    said=$(ask "$config SET save \"$SAVE\"")
    [ "$said" = OK ] || give_up "it does not turn snapshots on ($said)"
    exit 0
fi
said=$(ask "$config SET appendonly yes")
[ "$said" = OK ] || give_up "it does not start its log of writes ($said)"
for _ in $(seq "$WAIT"); do
    state=$(ask 'INFO persistence')
    case $state in
    *aof_rewrite_in_progress:1* | *aof_rewrite_scheduled:1*) ;;
    *aof_last_bgrewrite_status:ok*) exit 0 ;;
    *) give_up "writing the log failed, see $ROOT/logs/redis.log" ;;
    esac
    sleep 1
done
give_up "writing the log takes longer than $WAIT s; deploy again when INFO persistence says that it is done"
