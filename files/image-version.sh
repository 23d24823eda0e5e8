# Prints the configuration of an image (one line of JSON) and what its server says of its version. Changes nothing: the
# container that is asked has no network and ends at once.
# From the caller: IMAGE, OWNER (uid:gid).
docker image inspect --format '{{json .Config}}' "$IMAGE" 2>/dev/null || exit 0
timeout 60 docker run --rm --network none --read-only --cap-drop ALL --user "$OWNER" \
    --security-opt no-new-privileges --entrypoint redis-server "$IMAGE" --version 2>&1
exit 0
