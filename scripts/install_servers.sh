#!/bin/sh
# Install the servers that the tests run against: PostgreSQL and Redis. None is started: the tests
# run their own in a temporary directory, so nothing here may open a port or create a database.
set -eu

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        echo "Installing PostgreSQL and Redis needs root; run this first: $*" >&2
        exit 1
    fi
}

install_with_apt() {
    # Debian would create and start a cluster at once. The drop-in is read by its packaging only
    # and leaves an administrator's own createcluster.conf as it is.
    as_root mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' |
        as_root tee /etc/postgresql-common/createcluster.d/tuppence-tests.conf >/dev/null
    as_root apt-get -qq update </dev/null
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends postgresql </dev/null
    command -v redis-server >/dev/null || install_redis_with_apt
}

# Debian would start a service at once, and at each boot; a masked one is only installed.
install_redis_with_apt() {
    unit=/etc/systemd/system/redis-server.service
    as_root mkdir -p "${unit%/*}"
    as_root ln -sf /dev/null "$unit"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends redis-server </dev/null
}

echo "Installing PostgreSQL and Redis, which the tests run against"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if command -v apt-get >/dev/null; then
    installation=install_with_apt
elif command -v dnf >/dev/null; then
    installation='as_root dnf -q -y install postgresql-server redis'
else
    echo "Please install PostgreSQL's and Redis's servers so that initdb and redis-server are on" \
        "the PATH (with Homebrew: brew install redis postgresql@17 && brew link postgresql@17)" >&2
    exit 1
fi
# Hundreds of lines of a package manager would bury the tests; they are shown only when it fails.
if ! ($installation) >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
