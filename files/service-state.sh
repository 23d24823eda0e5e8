# Reports the state of an instance's Compose service and changes nothing; redoubt/facts/containers.py reads it.
# INSTANCE (its name), ROOT (its directory), IMAGE, MOUNTS (directory:path in the container) and MADE_WITH (file in ROOT)
# come from the caller, the ACL file as it should be on standard input.
wanted=$(cat)
command -v docker >/dev/null || exit 0
cd "$ROOT" 2>/dev/null || exit 0

# A container that was changed live is compared with what it was made with; another one is not the container meant.
overlay=
# shellcheck disable=SC2046 # three words, or none
set -- $(docker inspect --format '{{.Id}} {{.State.Pid}} {{.State.Running}}' "$INSTANCE" 2>/dev/null)
id=$1 pid=$2 running=$3
if [ -n "$id" ] && grep -qs "^# $id$" "$MADE_WITH"; then
    overlay="-f compose.yml -f $MADE_WITH"
    echo "@@overlaid"
    echo yes
fi
echo "@@hashes"
# shellcheck disable=SC2086 # options
docker compose $overlay config --hash '*' 2>/dev/null
echo "@@containers"
ids=$(docker ps -aq --filter "label=com.docker.compose.project=$INSTANCE")
# shellcheck disable=SC2086 # a list of ids
[ -z "$ids" ] || docker inspect $ids
echo "@@networks"
docker network inspect "${INSTANCE}_backend" "${INSTANCE}_edge" 2>/dev/null
echo "@@image"
docker image inspect --format '{{.Id}}' "$IMAGE" 2>/dev/null
[ ! -d upgrade ] || printf '@@upgrade\nunfinished\n'
[ ! -e start ] || printf '@@start\nunfinished\n'
echo "@@defrag"
sed -n 's/^activedefrag //p' config/activedefrag.conf 2>/dev/null
echo "@@files"
find config/redis.conf config/users.acl config/activedefrag.conf ca.crt secrets -type f -exec stat -c '%.6Y %n' {} + 2>/dev/null

# A directory that was removed or replaced stays in the container as it was.
if [ "${pid:-0}" -gt 0 ] && [ -d "/proc/$pid/root" ]; then
    echo "@@detached"
    for mount in $MOUNTS; do
        [ "${mount%%:*}" -ef "/proc/$pid/root${mount#*:}" ] || echo "${mount%%:*}"
    done
    # What the kernel holds it to, whatever the engine once asked for: systemd sets limits anew at every daemon-reload.
    echo "@@kernel"
    limit() { [ ! -r "$2/$1" ] || { read -r value <"$2/$1" && echo "$1 $value"; }; }
    cgroup=/sys/fs/cgroup
    # Lines of number:controllers:path; version 2 has one, without controllers. Without a process for each question.
    while IFS=: read -r _ controllers path; do
        if [ -e $cgroup/cgroup.controllers ]; then
            [ -z "$controllers" ] || continue
            for file in memory.max memory.swap.max pids.max cpu.max; do limit $file "$cgroup$path"; done
            continue
        fi
        case ",$controllers," in *,memory,*)
            for file in memory.limit_in_bytes memory.memsw.limit_in_bytes; do limit $file "$cgroup/memory$path"; done ;;
        esac
        case ",$controllers," in *,pids,*) limit pids.max "$cgroup/pids$path" ;; esac
        case ",$controllers," in *,cpu,*)
            for file in cpu.cfs_quota_us cpu.cfs_period_us; do limit $file "$cgroup/cpu$path"; done ;;
        esac
    done <"/proc/$pid/cgroup"
fi

# Where the host listens, with the queues that the kernel gave, and the most that it gives.
echo "@@listeners"
ss -Hltn 2>/dev/null
echo "@@somaxconn"
cat /proc/sys/net/core/somaxconn 2>/dev/null

# Passwords and the new name of CONFIG go in on standard input: arguments are visible in ps. What comes back is
# shown when pyinfra is asked for its output: no hash of a password, and no name that Redis does not know.
if [ "$running" = true ]; then
    config=$(sed -n 's/^rename-command CONFIG //p' secrets/server/commands.conf)
    # Twice: docker exec loses what a program printed once in a long while (moby#27289).
    for _ in 1 2; do
        answer=$({
            printf 'AUTH admin %s\n' "$(cat secrets/admin)"
            printf '%s GET *\n' "${config:-CONFIG}"
            printf 'ECHO @@acl\nACL LIST\n'
        } | timeout 10 docker exec -i "$INSTANCE" redis-cli -s /run/redis/redis.sock 2>/dev/null)
        [ -z "$answer" ] || break
    done
    echo "@@config"
    printf '%s\n' "$answer" | sed -e '/^ERR unknown command/d' -e 's/#[0-9a-f]\{64\}/#/g'
    # The users whose passwords are not those of the ACL file.
    echo "@@passwords"
    printf '%s\n@@acl\n%s\n' "$wanted" "$answer" | awk '
        $1 == "@@acl" { running = 1 }
        $1 == "user" && running { answers = 1 }
        $1 == "user" {
            for (i = 3; i <= NF; i++)
                if ($i ~ /^#/ && length($i) == 65) count[$2 " " $i] += running ? 1 : 2
        }
        END {
            for (password in count)
                if (answers && count[password] != 3) { split(password, of, " "); differing[of[1]] }
            for (user in differing) print user
        }' | sort
fi
exit 0
