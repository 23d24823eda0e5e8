# Gives the running Redis the users of an ACL file, on standard input. From the caller: INSTANCE (its name), ROOT.
#
# User by user, each in one step: whoever is logged in stays so. ACL LOAD would take all at once, and close every
# connection on Redis 7.0. A user that Redis refuses stays as it is.
wanted=$(cat)

ask() {
    # On standard input: arguments are visible in ps.
    {
        printf 'AUTH admin %s\n' "$(cat "$ROOT/secrets/admin")"
        cat
    } | timeout 60 docker exec -i "$INSTANCE" redis-cli -s /run/redis/redis.sock 2>&1 | tr -d '\r'
}
names() { sed -n 's/^user \([^ ]*\) .*/\1/p' | sort; }

there=$(echo 'ACL LIST' | ask)
case $there in
OK*) ;;
*)
    echo "$INSTANCE does not let admin in with $ROOT/secrets/admin; its users stay as they are"
    exit 1
    ;;
esac >&2

said=$({
    printf '%s\n' "$wanted" | sed -n 's/^user \([^ ]*\) /ACL SETUSER \1 reset /p'
    for user in $(printf '%s\n' "$there" | names); do
        printf '%s\n' "$wanted" | names | grep -Fqx "$user" || echo "ACL DELUSER $user"
    done
    # Nothing that came back would look like nothing to complain of.
    echo 'ECHO end'
} | ask)
case $said in
*end) ;;
*)
    echo "$INSTANCE did not answer to the end; deploy again"
    exit 1
    ;;
esac >&2
said=$(printf '%s\n' "$said" | grep -Evx 'OK|1|end|') || exit 0
echo "$INSTANCE refuses its new users, and keeps those that it has:" >&2
printf '%s\n' "$said" | sed 's/#[0-9a-f]\{64\}/(not shown)/g' >&2
exit 1
