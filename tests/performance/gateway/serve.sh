#!/bin/sh
# Serves the gateway to the benchmark.
set -eu
here=$(dirname "$0")
. "$here/environment.sh"
exec "$TUPPENCE" serve --port 4170 --upstreams "$here/upstreams.toml" "$@"
