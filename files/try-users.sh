# Starts the image with the users of an ACL file, on standard input, on a socket that nobody reaches. From the caller:
# IMAGE, OWNER (uid:gid).
#
# Redis does not start with a file that has a rule it does not know: found out here, while the old file is in place.
said=$(timeout 60 docker run --rm --interactive --network none --read-only --cap-drop ALL --user "$OWNER" \
    --security-opt no-new-privileges --tmpfs /tmp:mode=1777 --entrypoint /bin/sh "$IMAGE" -c '
        cat >/tmp/users.acl
        redis-server --port 0 --unixsocket /tmp/trial --aclfile /tmp/users.acl --dir /tmp --save "" &
        for _ in $(seq 300); do
            kill -0 $! 2>/dev/null || break
            redis-cli -s /tmp/trial PING >/dev/null 2>&1 && exit 0
            sleep 0.1
        done
        exit 1' 2>&1) && exit
echo "Redis does not take these users; those on the host were left alone:" >&2
# What it says of a rule comes after the number of its line.
printf '%s\n' "$said" | grep -i 'users.acl' | sed 's/#[0-9a-f]\{64\}/(not shown)/g' | tail -n 5 >&2
exit 1
