# Holds the lock of an instance for as long as a deploy sends a heartbeat, and keeps the record of the deploy.
# The caller sets LOCK (the file), HISTORY (the file of records), RUN (the deploy's id), HOLDER (who deploys, as JSON),
# LOCK_TIMEOUT (seconds without a heartbeat after which the deploy is over) and MAX_RECORDS. On standard input comes the
# record as far as the deploy has come, a line of JSON each time that it grows and every few seconds. It ends with the
# deploy or with its connection.
umask 077
exec 8>>"$LOCK"
# The verbs of redisctl that this deploy calls share the lock with it, see redisctl/core/lock.py. Sharing is not one step:
# somebody who waits for the lock may get it in between, and writes another id.
attempts=0
until [ "$(sed -n 1p "$LOCK")" = "$RUN" ] && [ "$attempts" -gt 0 ]; do
    attempts=$((attempts + 1))
    [ "$attempts" -le 3 ] && flock --timeout 2 8 || exit 1
    printf '%s\n' "$RUN" "$$" "$HOLDER" >"$LOCK"
    flock --shared --timeout 2 8 || exit 1
done

append() {
    mkdir -p "${HISTORY%/*}"
    printf '%s\n' "$1" >>"$HISTORY"
}

first='' last=''
# A shell has no time limit for read: another one is given one.
# shellcheck disable=SC2016 # for that shell
while line=$(timeout --foreground "$LOCK_TIMEOUT" sh -c 'IFS=" " read -r line && printf "%s\n" "$line"'); do
    [ -n "$line" ] || continue
    last=$line
    # At once, because the host may go down in the middle of a deploy.
    [ -n "$first" ] || { first=$line && append "$first"; }
done
if [ "$last" != "$first" ]; then
    append "$last"
    # A deploy has two lines.
    if [ "$(wc -l <"$HISTORY")" -gt $((MAX_RECORDS * 4)) ]; then
        tail -n $((MAX_RECORDS * 2)) "$HISTORY" >"$HISTORY.partial" && mv "$HISTORY.partial" "$HISTORY"
    fi
fi
: >"$LOCK"
