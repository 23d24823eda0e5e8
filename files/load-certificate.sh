# Has the running Redis load its certificate anew, in one step; connections stay open, and it keeps the one that it has
# where it does not like the other. From the caller: INSTANCE (its name), ROOT, DIRECTIVES (names and values).
config=$(sed -n 's/^rename-command CONFIG //p' "$ROOT/secrets/server/commands.conf")
said=$({
    # On standard input: arguments are visible in ps.
    printf 'AUTH admin %s\n' "$(cat "$ROOT/secrets/admin")"
    printf '%s SET %s\n' "${config:-CONFIG}" "$DIRECTIVES"
} | timeout 30 docker exec -i "$INSTANCE" redis-cli -s /run/redis/redis.sock 2>&1 | tr -d '\r')
[ "$said" != "OK
OK" ] || exit 0
echo "$INSTANCE does not take the certificate, and keeps the one that it has:" >&2
printf '%s\n' "$said" | grep -v '^OK$' | sed "s/${config:-CONFIG}/CONFIG/g" >&2
exit 1
