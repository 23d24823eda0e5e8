# Takes an instance off the host; what is gone already is no matter. From the caller: INSTANCE (its name), ROOT, UNITS (names
# of units), GRACE (seconds that Redis has to save), PATHS (files and directories to remove, the program that looks after it
# last).
for unit in $UNITS; do
    ! systemctl cat "$unit" >/dev/null 2>&1 || systemctl disable --quiet --now "$unit" || exit 1
done
ids=$(docker ps --all --quiet --filter "label=com.docker.compose.project=$INSTANCE")
# shellcheck disable=SC2086 # lists
if [ -n "$ids" ]; then
    # Services that need Redis first, where Compose knows of them.
    [ ! -e "$ROOT/compose.yml" ] || docker compose --ansi never --project-directory "$ROOT" stop 2>/dev/null
    docker stop -t "$GRACE" $ids >/dev/null && docker rm --volumes $ids >/dev/null || exit 1
fi
networks=$(docker network ls --quiet --filter "label=com.docker.compose.project=$INSTANCE")
# shellcheck disable=SC2086 # a list
[ -z "$networks" ] || docker network rm $networks >/dev/null || exit 1
for path in $PATHS; do
    rm -rf -- "$path" || exit 1
done
systemctl daemon-reload
for unit in $UNITS; do
    systemctl reset-failed "$unit" 2>/dev/null
    case $unit in *.timer) systemctl clean --what=state "$unit" 2>/dev/null ;; esac
done
# A directory that holds what is kept, or other things, stays.
rmdir "$ROOT" 2>/dev/null
exit 0
