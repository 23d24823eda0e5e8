# Installs Debian packages. PACKAGES and LOCK_SECONDS come from the caller. POSIX sh.
# A fresh server often upgrades itself just then: wait for the other apt. For its lists apt does not wait by itself.
export DEBIAN_FRONTEND=noninteractive
waited=0
until said=$(apt-get --quiet update 2>&1); do
    case $said in
    */lists/lock*) ;;
    *)
        # A repository that others set up may be broken; the one that is needed may not.
        printf '%s\n' "$said" >&2
        break
        ;;
    esac
    if [ "$waited" -ge "$LOCK_SECONDS" ]; then
        printf '%s\n' "$said" >&2
        exit 1
    fi
    waited=$((waited + 2))
    sleep 2
done
# shellcheck disable=SC2086 # a list of packages
exec apt-get --quiet --yes --no-install-recommends -o DPkg::Lock::Timeout="$LOCK_SECONDS" \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install $PACKAGES
