# Takes a backup of a Redis that is about to be replaced by another version, and has both versions load it. The one that
# serves is not touched. What it was made from is kept. After way-back.sh.
# From the caller: ROOT (the instance's directory), IMAGE (of the other version) and VERIFY (yes, or nothing).
redisctl=$ROOT/redisctl
# Back to the version that an upgrade was begun from: its own data is kept, and needs no proof.
[ ! -d "$kept_data" ] || [ "$(docker image inspect --format '{{.Id}}' "$IMAGE")" != "$(served_id)" ] || exit 0
if [ -n "$VERIFY" ]; then
    "$redisctl" backup create --verify && "$redisctl" backup verify --image "$IMAGE"
else
    "$redisctl" backup create --no-verify
fi || {
    echo "what runs was left alone, and nothing was changed for the new version" >&2
    exit 1
}
keep_settings || {
    echo "what runs was left alone: its settings cannot be kept for a way back" >&2
    exit 1
}
