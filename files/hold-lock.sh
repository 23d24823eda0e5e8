# Holds the lock of an instance for as long as a deploy is heard of, and keeps the record of it.
# From the caller: INSTANCE (its name), RUN (the deploy's id), HOLDER (who it is, as JSON), SILENCE (seconds after which a
# deploy that is not heard of is over) and KEEP (records that are kept). On standard input: the record as far as it has
# come, in JSON, a line each time that it grows and every few seconds; its end is the deploy's end, or that of its
# connection.
umask 077
lock=/run/redoubt-$INSTANCE.lock
history=/var/log/redoubt/$INSTANCE.jsonl
exec 8>>"$lock"
# Who looks whether it is held holds it for a moment.
flock --timeout 2 8 || exit 1
printf '%s\n' "$RUN" "$$" "$HOLDER" >"$lock"

note() {
    mkdir -p /var/log/redoubt
    printf '%s\n' "$1" >>"$history"
}

first='' last=''
# A shell without a limit of its own for read: another is given one.
# shellcheck disable=SC2016 # for that one
while heard=$(timeout --foreground "$SILENCE" sh -c 'IFS=" " read -r line && printf "%s\n" "$line"'); do
    [ -n "$heard" ] || continue
    last=$heard
    # At once: a host may go down in the middle of a deploy.
    [ -n "$first" ] || { first=$heard && note "$first"; }
done
if [ "$last" != "$first" ]; then
    note "$last"
    # A deploy has two lines.
    if [ "$(wc -l <"$history")" -gt $((KEEP * 4)) ]; then
        tail -n $((KEEP * 2)) "$history" >"$history.partial" && mv "$history.partial" "$history"
    fi
fi
: >"$lock"
