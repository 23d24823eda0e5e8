# Runs a script that stops and starts containers of an instance so that a host which goes down in the middle of it runs it
# again when it is up: the engine starts nothing that was stopped by then. After take-lock.sh. The script is on standard
# input, calls ended as soon as there is nothing left to do, and may be run again at any point of it.
# From the caller: INSTANCE (its name), ROOT (its directory), SCRIPT (where it is kept), UNIT (file of the unit that runs
# it), WANTED (the link by which a boot starts that), LOCK_WAIT (seconds).
keep_script() (
    umask 077
    {
        printf 'ended() { rm -f %s %s %s; }\n' "$WANTED" "$UNIT" "$SCRIPT" && cat
    } >"$SCRIPT.partial" && mv "$SCRIPT.partial" "$SCRIPT" && sync "$SCRIPT" "$ROOT"
)

want_at_boot() {
    cat >"$UNIT" <<-END && chmod 644 "$UNIT" &&
	# Written by Redoubt while a deploy starts $INSTANCE, and removed at its end.
	[Unit]
	Description=Start of $INSTANCE that was broken off
	After=docker.service network-online.target

	[Service]
	Type=oneshot
	# Where Compose may be installed.
	Environment=HOME=%h
	ExecStart=flock --timeout $LOCK_WAIT $ROOT sh $SCRIPT
	END
        mkdir -p "${WANTED%/*}" && ln -sf "$UNIT" "$WANTED" && sync "$UNIT" "${UNIT%/*}" "${WANTED%/*}"
}

keep_script && want_at_boot || {
    rm -f "$WANTED" "$UNIT" "$SCRIPT" "$SCRIPT.partial"
    echo "what runs was left alone: $SCRIPT and $UNIT cannot be written" >&2
    exit 1
}
sh "$SCRIPT"
