# Says how a timer and the unit that it starts differ from what their files say; nothing when they do not. From the caller:
# TIMER and JOB, names of units.
for unit in "$TIMER" "$JOB"; do
    [ "$(systemctl show --property NeedDaemonReload --value "$unit")" = no ] || echo "$unit was changed since it was loaded"
done
[ "$(systemctl is-enabled "$TIMER" 2>/dev/null)" = enabled ] || echo "$TIMER is not started at boot"
[ "$(systemctl is-active "$TIMER" 2>/dev/null)" = active ] || echo "$TIMER is not active"
exit 0
