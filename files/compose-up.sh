# Brings an instance's Compose project up and waits until it is healthy; otherwise shows why it is not, and fails.
# Run by run-through.sh, and by a boot, which says so in AT_BOOT. After way-back.sh.
# From the caller: INSTANCE (its name), ROOT (its directory), WAIT (seconds), REPLACE and PAUSED (lists of services),
# RECOVER (seconds to give an unhealthy Redis first; empty: none), NETWORKS (to be made anew), IMAGE, OWNER (uid:gid),
# MADE_WITH (file in ROOT for Compose, of what a container that was changed live was made with).

# Redis quotes the line that it does not like.
unnamed() { sed "s/\(rename-command  *[^ ]*  *\)[^ ']*/\1(not shown)/"; }

engine() { cat /run/docker.pid 2>/dev/null; }
# In this order: where systemd holds its socket, the answer is that of the next one.
engine_ended() { ! docker version >/dev/null 2>&1 || [ "$(engine)" != "$began" ]; }

# An engine that ends takes what it was asked for with it, and starts nothing that was stopped by then: it is asked again
# when it is back. What was said is in $said, because a Compose whose output nobody reads any more dies in the middle: a
# lost connection must not leave Redis down.
through_the_engine() {
    began=$(engine)
    said=$("$@" 2>&1) && return
    engine_ended || return 1
    for _ in $(seq 120); do
        ! docker version >/dev/null 2>&1 || break
        sleep 1
    done
    began=$(engine)
    said=$("$@" 2>&1)
}

# shellcheck disable=SC2086 # options
compose() { docker compose $files --ansi never --progress plain --project-directory "$ROOT" "$@"; }
up() {
    # Of a Compose that was broken off: under a name that the next one wants.
    docker ps --all --quiet --filter "label=com.docker.compose.project=$INSTANCE" --filter status=created |
        xargs -r docker rm >/dev/null
    told=$(start "$@" 2>&1)
    came=$?
    printf '%s\n' "$told"
    [ "$came" -ne 0 ] || return 0
    case $told in
    *"port is already allocated"*) let_go_of_ports && start "$@" ;;
    *) return "$came" ;;
    esac
}
start() { compose up --detach --remove-orphans --wait --wait-timeout "$WAIT" "$@"; }

# An engine that was killed while it started a container may hold that one's ports for nobody when it is back (moby#20486),
# until it starts anew: making the networks anew does not help. Where others run it is not for a deploy to stop them; at
# boot the engine has just started those that it starts again.
let_go_of_ports() {
    own=$(docker ps --quiet --filter "label=com.docker.compose.project=$INSTANCE")
    others=$(docker ps --quiet | grep -vxF "$own" | xargs -r docker inspect --format '{{.HostConfig.RestartPolicy.Name}}' |
        grep -vxE "${AT_BOOT:+always|unless-stopped}")
    [ -z "$others" ] || {
        echo "if no other container has that port, the engine holds it for one that is gone: systemctl restart docker" \
            "on the host, which stops and starts all containers, and deploy again"
        return 1
    }
    systemctl restart docker
}

ask() {
    # On standard input: arguments are visible in ps.
    {
        printf 'AUTH admin %s\n' "$(cat "$ROOT/secrets/admin")"
        printf '%s\n' "$1"
    } | timeout 10 docker exec -i "$INSTANCE" redis-cli -s /run/redis/redis.sock 2>/dev/null
}

# The name that a command has on this instance.
name() { sed -n "s/^rename-command $1 //p" "$ROOT/secrets/server/commands.conf" | grep . || echo "$1"; }

# Compose would give up at once on what the last health check found.
recover() {
    # A save that failed counts until another one succeeds, and Redis may take a quarter of an hour to try again.
    persistence=$(ask 'INFO persistence')
    case $persistence in *rdb_last_bgsave_status:err*) ask "$(name BGSAVE)" >/dev/null ;; esac
    case $persistence in *aof_last_bgrewrite_status:err*) ask "$(name BGREWRITEAOF)" >/dev/null ;; esac
    for _ in $(seq "$RECOVER"); do
        [ "$(docker inspect --format '{{.State.Health.Status}}' "$INSTANCE")" = unhealthy ] || break
        sleep 1
    done
}

# Starts the image with the new configuration, users and command names, on a socket that nobody reaches and without the
# data. What Redis would refuse to start with is found here, while the old one still serves.
try_configuration() {
    said=$(timeout 60 docker run --rm --network none --read-only --cap-drop ALL --user "$OWNER" \
        --security-opt no-new-privileges --security-opt label=disable \
        --tmpfs /tmp:mode=1777 --tmpfs /data:mode=1777 --tmpfs /var/log/redis:mode=1777 \
        --volume "$ROOT/config:/etc/redis:ro" --volume "$ROOT/secrets/server:/run/secrets:ro" \
        --entrypoint /bin/sh "$IMAGE" -c '
            redis-server /etc/redis/redis.conf --port 0 --unixsocket /tmp/trial --dir /tmp --logfile "" \
                --appendonly no --save "" &
            for _ in $(seq 300); do
                kill -0 $! 2>/dev/null || break
                redis-cli -s /tmp/trial PING >/dev/null 2>&1 && exit 0
                sleep 0.1
            done
            exit 1' 2>&1) && return
    echo "Redis does not start with this configuration; what runs was left alone:"
    printf '%s\n' "$said" | tail -n 20
    return 1
}

# shellcheck disable=SC2086 # lists of services
bring_up() {
    try_configuration && keep_data || return
    [ -z "$PAUSED" ] || compose unpause $PAUSED
    [ -z "$RECOVER" ] || recover
    # Compose leaves a network as it is, whatever its definition says by now.
    [ -z "$NETWORKS" ] || compose down --remove-orphans || return
    [ -z "$REPLACE" ] || up --force-recreate --no-deps $REPLACE || return
    up
}

# Of the very container that runs and stays: any other is made from the project alone.
id=$(docker inspect --format '{{.Id}}' "$INSTANCE" 2>/dev/null)
files="-f $ROOT/compose.yml -f $ROOT/$MADE_WITH"
case " $REPLACE " in *" $INSTANCE "*) id= ;; esac
if [ -n "$NETWORKS" ] || [ -z "$id" ] || ! grep -qs "^# $id$" "$ROOT/$MADE_WITH"; then
    rm -f "$ROOT/$MADE_WITH"
    files=
fi

give_way() {
    through_the_engine way_back ||
        said=$(printf '%s\n' "$said" "the former version is not back: deploy again, which goes on with that")
    ended
    printf '%s\n' "$said" | unnamed
    exit 1
}
! returning || give_way

if through_the_engine bring_up; then
    forget_way_back
    ended
    printf '%s\n' "$said" | unnamed
else
    printf '%s\n' "$said" | unnamed
    compose ps --all
    # A container that never started has no health.
    docker inspect --format '{{with .State.Health}}{{range .Log}}{{.Output}}{{end}}{{end}}' "$INSTANCE"
    compose logs --tail 20 | unnamed
    tail -n 20 "$ROOT/logs/redis.log"
    # A service beside a new version that is healthy is no reason to give up what was written since.
    if [ -d "$kept_data" ]; then
        [ "$(docker inspect --format '{{.State.Health.Status}}' "$INSTANCE" 2>/dev/null)" = healthy ] || give_way
    elif [ -d "$kept" ]; then
        # What runs was left alone: let it find its own files when it starts again.
        settings_back && forget_way_back
    fi
    ended
    exit 1
fi
