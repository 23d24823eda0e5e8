# The way back of an upgrade, as functions for the scripts that follow. What the version that serves was made from is kept
# in ROOT/upgrade, what it reads in ROOT/data/.upgrade, until the new one is healthy. ROOT/upgrade/stage says how far a
# return came, so that one that was broken off is ended by the next deploy.
# From the caller: INSTANCE (its name), ROOT (its directory); of compose-up.sh what stops, asks and starts.
kept=$ROOT/upgrade
kept_data=$ROOT/data/.upgrade

# Before anything is written for the new version.
keep_settings() {
    # Of a deploy that was broken off: the one that serves was made from that, not from what was written since.
    [ ! -d "$kept" ] || return 0
    rm -rf "$kept.partial"
    mkdir -m 700 "$kept.partial" || return
    for name in compose.yml ca.crt config secrets; do
        [ ! -e "$ROOT/$name" ] || cp -a "$ROOT/$name" "$kept.partial/" || return
    done
    docker inspect --format '{{.Image}} {{.Config.Image}}' "$INSTANCE" >"$kept.partial/image" &&
        sync -f "$kept.partial" && mv "$kept.partial" "$kept"
}

served_id() { cut -d ' ' -f 1 "$kept/image"; }

# Stops the version that serves and keeps its data: files that are only ever replaced by a link, logs of writes, to which
# the next version appends, by a copy. Nothing where there is no upgrade, or it came further already.
keep_data() {
    [ -d "$kept" ] && [ ! -d "$kept_data" ] || return 0
    [ "$(docker inspect --format '{{.Image}}' "$INSTANCE" 2>/dev/null)" = "$(served_id)" ] || return 0
    [ "$(docker image inspect --format '{{.Id}}' "$IMAGE")" != "$(served_id)" ] || return 0
    shorten_log
    has_room || return
    docker stop "$INSTANCE" >/dev/null && link_data && return
    rm -rf "$kept_data.partial"
    ! engine_ended || return
    # With what it was made from: by now the files are those for the new version.
    settings_back
    docker start "$INSTANCE" >/dev/null
    echo "the data cannot be kept for a way back: $INSTANCE was started again as it was"
    return 1
}

# In MiB: of the parts of the log whose names end so, and of what the data's disk has left.
size_of() {
    find "$ROOT/data/appendonlydir" -type f -name "*$1" -printf '%s\n' 2>/dev/null |
        awk '{ sum += $1 } END { printf "%.0f", sum / 1048576 + 1 }'
}
left() { df --output=avail --block-size=1048576 "$ROOT/data" | awk 'NR == 2 { print $1 }'; }

# While it still serves: its base is linked, and read faster. Where it cannot be done the log is as it is.
shorten_log() {
    [ -d "$ROOT/data/appendonlydir" ] && [ "$(left)" -gt "$(size_of '')" ] || return 0
    ask "$(name BGREWRITEAOF)" | grep -q 'started\|scheduled' || return 0
    for _ in $(seq 900); do
        case $(ask 'INFO persistence') in *aof_rewrite_in_progress:1* | *aof_rewrite_scheduled:1*) sleep 0.5 ;; *) return ;; esac
    done
}

has_room() {
    needed=$(size_of .incr.aof) free=$(left)
    [ "$free" -lt "$needed" ] || return 0
    echo "what runs was left alone: a copy of its log of writes, for the way back, takes $needed MiB, and $free MiB are free"
    return 1
}

link_data() {
    rm -rf "$kept_data.partial"
    mkdir -m 700 "$kept_data.partial" || return
    for path in "$ROOT"/data/*; do
        case $path in
        */previous | */data/\*) ;;
        *) cp -al "$path" "$kept_data.partial/" || return ;;
        esac
    done
    find "$kept_data.partial" -type f -name '*.incr.aof' \
        -exec sh -c 'cp -a --reflink=auto "$1" "$1.copy" && mv "$1.copy" "$1"' sh {} \; || return
    # find does not tell what of it failed.
    [ -z "$(find "$kept_data.partial" -type f -name '*.incr.aof*' \( -links +1 -o -name '*.copy' \))" ] || return
    sync -f "$kept_data.partial" && mv "$kept_data.partial" "$kept_data"
}

# In place: containers that stay hold these very files.
settings_back() (
    cd "$kept" || exit
    (cd "$ROOT" && find config secrets -type f) | while read -r file; do [ -e "$file" ] || rm -f "$ROOT/$file"; done
    [ -e ca.crt ] || rm -f "$ROOT/ca.crt"
    find compose.yml config secrets ca.crt -type f 2>/dev/null | while read -r file; do
        cmp -s "$file" "$ROOT/$file" || cp -a "$file" "$ROOT/$file" || exit 1
    done
)

returning() { [ -s "$kept/stage" ]; }
stage() { echo "$1" >"$kept/stage.new" && sync -f "$kept" && mv "$kept/stage.new" "$kept/stage" && sync -f "$kept"; }

# What the new version wrote moves to data/previous, what it found comes back, and the former version starts with it. May be
# broken off anywhere and begun again.
way_back() {
    returning || stage "away $(date -u +%Y%m%dT%H%M%SZ)" || return
    docker stop "$INSTANCE" >/dev/null 2>&1
    docker rm --force "$INSTANCE" >/dev/null 2>&1
    read -r came moment <"$kept/stage"
    former=$ROOT/data/previous/$moment
    if [ "$came" = away ]; then
        mkdir -p -m 700 "$ROOT/data/previous" "$former" && chown --reference="$ROOT/data" "$ROOT/data/previous" "$former" || return
        for path in "$ROOT"/data/*; do
            case $path in
            */previous | */data/\*) ;;
            *) mv "$path" "$former/" || return ;;
            esac
        done
        sync -f "$former" && stage "in $moment" || return
    fi
    for path in "$kept_data"/*; do
        [ ! -e "$path" ] || mv "$path" "$ROOT/data/" || return
    done
    settings_back || return
    read -r id reference <"$kept/image"
    # The reference may be another image's by now.
    docker tag "$id" "$reference" || return
    rm -f "$ROOT/$MADE_WITH"
    files=
    up --force-recreate || return
    forget_way_back
    echo "the former version is back and serves what it had; what the new one wrote is in $former"
}

forget_way_back() { rm -rf "$kept_data" "$kept_data.partial" "$kept" "$kept.partial"; }
