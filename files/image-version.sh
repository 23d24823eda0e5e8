# Prints the configuration of an image (one line of JSON) and the output of its 'redis-server --version'. Changes
# nothing: the container has no network and exits at once.
# The caller sets IMAGE and OWNER (uid:gid).
docker image inspect --format '{{json .Config}}' "$IMAGE" 2>/dev/null || exit 0
timeout 60 docker run --rm --network none --read-only --cap-drop ALL --user "$OWNER" \
    --ulimit core=1:1 --security-opt no-new-privileges --entrypoint redis-server "$IMAGE" --version 2>&1
exit 0
