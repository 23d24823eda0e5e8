#!/bin/sh
# Health check of the Redis container: exit 0 only when Redis really serves.
# Logs in, writes, reads and deletes a key of its own, and looks at the role and at persistence.
# What comes back is compared: redis-cli exits 0 on NOAUTH and WRONGPASS.
# POSIX sh with redis-cli only (no bash in Alpine images). The password goes in on standard input.
set -u
say() {
    echo "unhealthy: $*"
    exit 1
}

key="redoubt:health:$$"
# By TLS where Redis speaks it: with a certificate that the CA issued, and that has not ended. Shown by the check as well
# where Redis demands one; others may be for servers alone.
tls=/etc/redis/tls.conf
value() { sed -n "s/^$1 \"*\([^\"]*\)\"*$/\1/p" "$2"; }
port=$(value tls-port /etc/redis/redis.conf)
set --
# A deploy that was interrupted may have written the one and not yet the other.
if [ -n "$port" ]; then
    set -- --tls -p "$port" --cacert "$(value tls-ca-cert-file $tls)"
    [ "$(value tls-auth-clients $tls)" != yes ] ||
        set -- "$@" --cert "$(value tls-cert-file $tls)" --key "$(value tls-key-file $tls)"
    seconds=$(($(value '# expires' $tls) - $(date +%s)))
    [ $seconds -gt 0 ] || say "the certificate has ended: a deploy renews it"
fi
IFS= read -r password </run/secrets/health || say "the secret 'health' cannot be read"

# The key expires by itself if this script is killed half-way. An expiry is an event that subscribers may see,
# so it is long enough to lose to the DEL in every healthy check.
answer=$({
    printf 'AUTH health %s\n' "$password"
    printf 'SET %s %s EX 60\nGET %s\nDEL %s\n' "$key" "$$" "$key" "$key"
    printf 'ROLE\nINFO persistence\n'
} | redis-cli "$@" 2>&1) || say "redis-cli: $answer"

line() { printf '%s\n' "$answer" | sed -n "$1p"; }
[ "$(line 1)" = OK ] || say "login: $(line 1)"
[ "$(line 2)" = OK ] || say "write: $(line 2)"
[ "$(line 3)" = "$$" ] || say "read: $(line 3)"
[ "$(line 4)" = 1 ] || say "delete: $(line 4)"
[ "$(line 5)" = master ] || say "role: $(line 5)"

field() { printf '%s\n' "$answer" | tr -d '\r' | sed -n "s/^$1://p"; }
for name in rdb_last_bgsave_status aof_last_bgrewrite_status aof_last_write_status; do
    [ "$(field "$name")" = ok ] || say "$name: $(field "$name")"
done
[ "$(field loading)" = 0 ] || say "loading the data set"
echo "healthy${seconds+ (the certificate is valid for $((seconds / 86400)) days)}"
