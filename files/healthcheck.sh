#!/bin/sh
# Health check of the Redis container: exits with 0 only if Redis serves.
# Logs in, writes, reads and deletes its own key, and checks the role and persistence.
# It compares the answers, because redis-cli exits with 0 on NOAUTH and WRONGPASS.
# POSIX sh with redis-cli only (Alpine images have no bash). The password travels on standard input.
set -u
unhealthy() {
    echo "unhealthy: $*"
    exit 1
}

key="redoubt:health:$$"
# With TLS it checks that the CA issued Redis's certificate and that it has not expired. It shows the client certificate
# that it has; without one Redis does not require one.
tls=/etc/redis/tls.conf
value() { sed -n "s/^$1 \"*\([^\"]*\)\"*$/\1/p" "$2"; }
port=$(value tls-port /etc/redis/redis.conf)
set --
# redis.conf decides: an interrupted deploy may have written tls.conf alone.
if [ -n "$port" ]; then
    set -- --tls -p "$port" --cacert "$(value tls-ca-cert-file $tls)"
    [ -z "$(value tls-client-cert-file $tls)" ] ||
        set -- "$@" --cert "$(value tls-client-cert-file $tls)" --key "$(value tls-client-key-file $tls)"
    seconds=$(($(value '# expires' $tls) - $(date +%s)))
    [ $seconds -gt 0 ] || unhealthy "the certificate has expired: a deploy renews it"
fi
IFS= read -r password </run/secrets/health || unhealthy "the secret 'health' cannot be read"

# If this script is killed, the key expires. 60 s are more than a check takes, so that subscribers never see the expiry.
answer=$({
    printf 'AUTH health %s\n' "$password"
    printf 'SET %s %s EX 60\nGET %s\nDEL %s\n' "$key" "$$" "$key" "$key"
    printf 'ROLE\nINFO persistence\n'
} | redis-cli "$@" 2>&1) || unhealthy "redis-cli: $answer"

line() { printf '%s\n' "$answer" | sed -n "$1p"; }
[ "$(line 1)" = OK ] || unhealthy "login: $(line 1)"
[ "$(line 2)" = OK ] || unhealthy "write: $(line 2)"
[ "$(line 3)" = "$$" ] || unhealthy "read: $(line 3)"
[ "$(line 4)" = 1 ] || unhealthy "delete: $(line 4)"
[ "$(line 5)" = master ] || unhealthy "role: $(line 5)"

field() { printf '%s\n' "$answer" | tr -d '\r' | sed -n "s/^$1://p"; }
for name in rdb_last_bgsave_status aof_last_bgrewrite_status aof_last_write_status; do
    [ "$(field "$name")" = ok ] || unhealthy "$name: $(field "$name")"
done
echo "healthy${seconds+ (the certificate is valid for $((seconds / 86400)) days)}"
