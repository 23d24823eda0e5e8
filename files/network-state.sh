# Says how the table of an instance differs from its file; nothing when it does not. From the caller: TABLE, UNIT, RULES (a
# file). What the file would make is listed in a network of its own.
command -v nft >/dev/null || exit 0
wanted=$(unshare --net sh -c 'nft -f "$1" && nft --stateless list table inet "$2"' - "$RULES" "$TABLE" 2>&1)
[ "$wanted" = "$(nft --stateless list table inet "$TABLE" 2>&1)" ] || echo "other rules than $RULES"
[ "$(systemctl is-enabled "$UNIT" 2>/dev/null)" = enabled ] || echo "$UNIT is not started at boot"
[ "$(systemctl is-active "$UNIT" 2>/dev/null)" = active ] || echo "$UNIT is not active"
exit 0
