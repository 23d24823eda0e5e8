# Reports who holds the lock of an instance.
# The caller sets LOCK (the file) and RUN (the id of a deploy that is about to hold it; empty: only look).
# Prints one of
#   ours
#   free, and then why a deploy could not lock it
#   held, and then the lines of the lock: run, process, holder
#   denied
[ "$(id -u)" -eq 0 ] || {
    echo denied
    exit
}
held=0
for _ in $(seq 100); do
    [ -z "$RUN" ] || [ "$(sed -n 1p "$LOCK" 2>/dev/null)" != "$RUN" ] || {
        echo ours
        exit
    }
    # Another holder may be about to end, and ours may not have written yet.
    if [ -e "$LOCK" ] && ! flock --exclusive --nonblock "$LOCK" true; then
        held=$((held + 1))
        [ "$held" -lt 25 ] || {
            echo held
            if [ -s "$LOCK" ]; then
                cat "$LOCK"
            else
                # A step of a deploy that has ended. The kernel knows its process.
                awk -v end=":$(stat -c %i "$LOCK")\$" '$2 == "FLOCK" && $6 ~ end { print "\n" $5 "\n{}"; exit }' /proc/locks
            fi
            exit
        }
    elif [ -z "$RUN" ]; then
        break
    fi
    sleep 0.1
done
echo free
# The error of the shell, such as a file system without room. There is none if another process has just locked it.
[ -z "$RUN" ] || error=$( (exec 8>>"$LOCK" && flock --nonblock 8) 2>&1) || printf '%s\n' "$error"
