#!/bin/sh
# Makes an empty ledger with two budgets and a key: on SQLite, or with "postgres" on the benchmark's servers.
set -eu
here=$(dirname "$0")
directory=$PEERS_DIR/tuppence
rm -rf "$directory/ledger"
mkdir -p "$directory/ledger"
if [ "${1:-}" = postgres ]; then
    psql -q -h 127.0.0.1 -p 5544 -U postgres -c "DROP DATABASE IF EXISTS tuppence" -c "CREATE DATABASE tuppence"
    echo "export DATABASE_URL=postgresql://postgres@127.0.0.1:5544/tuppence REDIS_URL=redis://127.0.0.1:6399/5" > "$directory/environment"
else
    echo "export DATABASE_URL=sqlite:///$directory/ledger/ledger.db" > "$directory/environment"
fi
. "$here/environment.sh"
"$TUPPENCE" budget set team support 1000000 >&2
"$TUPPENCE" key create --team support --project bot --budget 1000000 --json |
    sed -n 's/.*"key": "\(.*\)".*/\1/p' > "$directory/key"
