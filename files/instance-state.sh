# Says what there is of an instance on the host, and changes nothing; redoubt/facts/units.py reads it. From the caller: INSTANCE
# (its name), ROOT, UNITS (names of units), PATHS (files and directories that are an instance's own).
for unit in $UNITS; do
    # One that nobody has heard of is inactive and not-found.
    [ "$(systemctl is-active "$unit" 2>/dev/null)" != active ] || echo "active $unit"
    [ "$(systemctl is-enabled "$unit" 2>/dev/null)" != enabled ] || echo "enabled $unit"
done
docker ps --all --quiet --filter "label=com.docker.compose.project=$INSTANCE" 2>/dev/null |
    xargs -r docker inspect --format 'container {{.Name}} {{.State.Status}}{{with .State.Health}} {{.Status}}{{end}}'
docker network ls --filter "label=com.docker.compose.project=$INSTANCE" --format 'network {{.Name}}' 2>/dev/null
for path in $PATHS; do
    [ ! -e "$path" ] || echo "path $(du -sk "$path" 2>/dev/null | cut -f 1) $path"
done
# A verb of redisctl that works on the data, or one that was broken off.
[ ! -e "$ROOT/redisctl.lock" ] || flock --nonblock --shared "$ROOT/redisctl.lock" true ||
    echo "held $(sed -n 's/.*"verb": "\([^"]*\)".*/\1/p' "$ROOT/redisctl.lock")"
echo "replacing $(sed -n 's/^  "what": "\(.*\)",$/\1/p' "$ROOT/replace.json" 2>/dev/null)"
# The former version's data is aside, until another version is healthy.
[ ! -d "$ROOT/upgrade" ] || [ ! -d "$ROOT/data/.upgrade" ] || echo "upgrading yes"
exit 0
