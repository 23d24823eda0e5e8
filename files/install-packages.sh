# Installs Debian packages. The caller sets PACKAGES and LOCK_SECONDS. POSIX sh.
# A new server often upgrades itself at first: wait for the other apt, which 'apt-get update' does not do by itself.
export DEBIAN_FRONTEND=noninteractive
waited=0
until output=$(apt-get --quiet update 2>&1); do
    case $output in
    */lists/lock*) ;;
    *)
        # One of several repositories may be broken, and the packages may be in another one.
        printf '%s\n' "$output" >&2
        break
        ;;
    esac
    if [ "$waited" -ge "$LOCK_SECONDS" ]; then
        printf '%s\n' "$output" >&2
        exit 1
    fi
    waited=$((waited + 2))
    sleep 2
done
# shellcheck disable=SC2086 # a list of packages
exec apt-get --quiet --yes --no-install-recommends -o DPkg::Lock::Timeout="$LOCK_SECONDS" \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install $PACKAGES
