# Holds the lock of an instance for as long as a deploy sends a heartbeat, and keeps the record of the deploy.
# The caller sets LOCK (the file), HISTORY (the file of records), RUN (the deploy's id), HOLDER (who deploys, as JSON),
# LOCK_TIMEOUT (seconds without a heartbeat after which the deploy is over) and MAX_RECORDS (deploys in the history).
# The deploy writes its record to standard input: a line of JSON whenever the record grows, and every few seconds. Ends
# when the deploy or its connection ends.
umask 077
exec 8>>"$LOCK"
# The verbs of redisctl that this deploy calls share its lock, see redisctl/core/lock.py. The change from an exclusive to
# a shared lock is not atomic: another process may get the lock in between and write its id.
attempts=0
until [ "$(sed -n 1p "$LOCK")" = "$RUN" ] && [ "$attempts" -gt 0 ]; do
    attempts=$((attempts + 1))
    # For longer than files/lock-state.sh needs to see that another process holds it.
    [ "$attempts" -le 3 ] && flock --timeout 4 8 || exit 1
    printf '%s\n' "$RUN" "$$" "$HOLDER" >"$LOCK"
    flock --shared --timeout 2 8 || exit 1
done

append() {
    mkdir -p "${HISTORY%/*}"
    printf '%s\n' "$1" >>"$HISTORY"
}

first='' last=''
# The 'read' of POSIX sh has no timeout, so a second shell reads, under 'timeout'.
# shellcheck disable=SC2016 # for that shell
while line=$(timeout --foreground "$LOCK_TIMEOUT" sh -c 'IFS=" " read -r line && printf "%s\n" "$line"'); do
    [ -n "$line" ] || continue
    last=$line
    # The first record is written at once, because the host may go down in the middle of a deploy.
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
