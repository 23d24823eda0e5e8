# Runs a script that stops and starts containers of an instance so that a host which goes down in the middle of it runs it
# again when it is up: the engine starts nothing that was stopped by then. After take-lock.sh. The script is on standard
# input, calls ended as soon as there is nothing left to do, and may be run again at any point of it.
# From the caller: ROOT (the instance's directory), SCRIPT (where it is kept), UNIT (file of the unit that runs it), TEXT (of
# that), WANTED (the link by which a boot starts it).
keep_script() (
    umask 077
    {
        printf 'ended() { rm -f %s %s %s; }\n' "$WANTED" "$UNIT" "$SCRIPT" && cat
    } >"$SCRIPT.partial" && mv "$SCRIPT.partial" "$SCRIPT" && sync "$SCRIPT" "$ROOT"
)

want_at_boot() {
    printf '%s' "$TEXT" >"$UNIT" && chmod 644 "$UNIT" && mkdir -p "${WANTED%/*}" && ln -sf "$UNIT" "$WANTED" &&
        sync "$UNIT" "${UNIT%/*}" "${WANTED%/*}"
}

keep_script && want_at_boot || {
    rm -f "$WANTED" "$UNIT" "$SCRIPT" "$SCRIPT.partial"
    echo "what runs was left alone: $SCRIPT and $UNIT cannot be written" >&2
    exit 1
}
sh "$SCRIPT"
