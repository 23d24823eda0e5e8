# Finds out whether the Redis of an image can defragment its memory, and writes the answer where redis.conf includes it.
# From the caller: IMAGE, FILE (where the answer goes), OWNER (uid:gid), REQUIRED (yes: it is an error if it cannot).
#
# The image itself is asked, in a container without network that ends at once: the server reads directives in order, so
# an unknown one behind "activedefrag yes" is what it complains of only where the build supports it. Debian's builds do
# not, though their version line names jemalloc.
said=$(docker run --rm --network none --read-only --cap-drop ALL --user "$OWNER" --entrypoint redis-server "$IMAGE" \
    --activedefrag yes --redoubt-asks yes 2>&1)
case $said in
*redoubt-asks*) value=yes ;;
*activedefrag* | *efragmentation*) value=no ;;
*)
    echo "the image does not start: $said" >&2
    exit 1
    ;;
esac
if [ "$REQUIRED" = yes ] && [ "$value" = no ]; then
    echo "redis_activedefrag = 'yes', but the build in $IMAGE cannot defragment: use auto or no" >&2
    exit 1
fi

umask 077
id=$(docker image inspect --format '{{.Id}}' "$IMAGE") || exit
new=$(mktemp "$FILE.XXXXXX") || exit
trap 'rm -f "$new"' EXIT
printf '%s\n' "# Found out by asking image $id: $value." "activedefrag $value" >"$new" &&
    chown "$OWNER" "$new" && chmod 0640 "$new" && mv -fT "$new" "$FILE"
