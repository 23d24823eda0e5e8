# Goes before a script that starts or stops containers of an instance: one at a time. Two Composes at once take each other's
# containers away and may leave none, and the other one may be that of a deploy that was interrupted and goes on here.
# From the caller: INSTANCE (its name), ROOT (its directory), LOCK_WAIT (seconds).
if [ -d "$ROOT" ]; then
    exec 9<"$ROOT"
    flock --timeout "$LOCK_WAIT" 9 || {
        echo "another deploy of $INSTANCE is still under way on this host" >&2
        exit 1
    }
fi
