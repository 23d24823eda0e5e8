# Has the running Redis write its data where the configuration that follows reads it; redoubt/host_checks.py says when.
# From the caller: INSTANCE (its name), ROOT (its directory), TO (log: start the AOF; dump: have a stop write a snapshot),
# SAVE (the save points to come), WAIT (seconds).
# The name that a command has on this instance.
name() { sed -n "s/^rename-command $1 //p" "$ROOT/secrets/server/commands.conf" | grep . || echo "$1"; }
config=$(name CONFIG)

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

# Redis is asked each second, as long as a stop may take.
until_written() {
    for _ in $(seq "$WAIT"); do
        state=$(ask 'INFO persistence')
        case $state in
        *$1_in_progress:1* | *$1_scheduled:1*) ;;
        *$2:ok*) return 0 ;;
        *) give_up "writing its data failed, see $ROOT/logs/redis.log" ;;
        esac
        sleep 1
    done
    give_up "writing its data takes longer than $WAIT s; deploy again when INFO persistence says that it is done"
}

if [ "$TO" = dump ]; then
    said=$(ask "$config SET save \"$SAVE\"")
    [ "$said" = OK ] || give_up "it does not turn snapshots on ($said)"
    # Not known below 7.0, where a stop writes one in any case.
    said=$(ask "$config SET shutdown-on-sigterm default")
    case $said in OK | *nknown* | *nsupported*) ;; *) give_up "it does not have its stop write a snapshot ($said)" ;; esac
    # Without its log a crash before the next save point would leave what an old snapshot has.
    # Not while it writes another or its log: that one began earlier.
    for _ in $(seq "$WAIT"); do
        said=$(ask "$(name BGSAVE)")
        [ "$said" != "Background saving started" ] || break
        sleep 1
    done
    [ "$said" = "Background saving started" ] || give_up "it does not write a snapshot ($said)"
    until_written rdb_bgsave rdb_last_bgsave_status
    exit 0
fi
said=$(ask "$config SET appendonly yes")
[ "$said" = OK ] || give_up "it does not start its log of writes ($said)"
until_written aof_rewrite aof_last_bgrewrite_status
