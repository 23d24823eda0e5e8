# Changes what runs without a restart: Redis's configuration in one step where it can, and the container's limits.
# From the caller: INSTANCE (its name), ROOT, CONFIG_SET (arguments of CONFIG SET, a call on each line), UPDATE (options of
# docker update; empty: the limits stay), GROWS (empty: Redis is told first, and gives memory back before it is held to
# less), MEMORY (bytes that it will be held to), OVERLAY (a Compose file of what the container was made with) and MADE_WITH
# (its place in ROOT).
config=$(sed -n 's/^rename-command CONFIG //p' "$ROOT/secrets/server/commands.conf")
config=${config:-CONFIG}

ask() {
    # On standard input: arguments are visible in ps.
    {
        printf 'AUTH admin %s\n' "$(cat "$ROOT/secrets/admin")"
        printf '%s\n' "$1"
    } | timeout 30 docker exec -i "$INSTANCE" redis-cli -s /run/redis/redis.sock 2>&1 | tr -d '\r' | sed 1d
}

tell_redis() {
    # Nothing else holds a line: names and values are of redis.conf.
    while IFS= read -r arguments; do
        [ -n "$arguments" ] || continue
        said=$(ask "$config SET $arguments")
        [ "$said" = OK ] || {
            echo "$INSTANCE does not take this while it runs, and keeps what it has:" >&2
            printf '%s\n' "$said" | sed "s/$config/CONFIG/g" >&2
            return 1
        }
    done <<-END
	$CONFIG_SET
	END
}

set_limits() {
    [ -n "$UPDATE" ] || return 0
    if [ -z "$GROWS" ]; then
        # The kernel would kill it for what it still holds. It gives back what was evicted, in some seconds or not at all.
        for _ in $(seq 30); do
            held=$(ask 'INFO memory' | sed -n 's/^used_memory_rss://p')
            [ "${held:-$MEMORY}" -ge "$MEMORY" ] || break
            sleep 1
        done
        [ "${held:-$MEMORY}" -lt "$MEMORY" ] || {
            echo "$INSTANCE holds ${held:-nobody knows how many} bytes, and the kernel would kill it at a limit of $MEMORY: it keeps the limit that" \
                "it has. What was freed comes back when Redis starts anew: docker restart $INSTANCE, then deploy again" >&2
            return 1
        }
    fi
    # shellcheck disable=SC2086 # a list of options
    said=$(docker update $UPDATE "$INSTANCE" 2>&1) || {
        echo "the engine does not take these limits while $INSTANCE runs: $said" >&2
        echo "docker rm --force $INSTANCE after docker stop $INSTANCE has the next deploy make it anew with them" >&2
        return 1
    }
}

# Before anything: by compose.yml to come it is another container, and Compose must not replace it for that.
place=$ROOT/$MADE_WITH
umask 077
{ docker inspect --format '# {{.Id}}' "$INSTANCE" && printf '%s' "$OVERLAY"; } >"$place.partial" &&
    mv "$place.partial" "$place" || exit 1
if [ -n "$GROWS" ]; then
    set_limits && tell_redis
else
    tell_redis && set_limits
fi
