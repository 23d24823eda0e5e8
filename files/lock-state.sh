# Who holds the lock of an instance.
# From the caller: INSTANCE (its name) and RUN (the id of a deploy that is about to have it; empty: just look).
# Prints "ours", "free", "denied", or "held" and after it the lines of the lock: run, process, holder.
lock=/run/redoubt-$INSTANCE.lock
[ "$(id -u)" -eq 0 ] || {
    echo denied
    exit
}
held=0
for _ in $(seq 100); do
    [ -z "$RUN" ] || [ "$(sed -n 1p "$lock" 2>/dev/null)" != "$RUN" ] || {
        echo ours
        exit
    }
    # Another one's end may be a moment away, and what holds it may be ours, which has not written yet.
    if [ -e "$lock" ] && ! flock --shared --nonblock "$lock" true; then
        held=$((held + 1))
        [ "$held" -lt 25 ] || {
            echo held
            cat "$lock"
            exit
        }
    elif [ -z "$RUN" ]; then
        break
    fi
    sleep 0.1
done
echo free
