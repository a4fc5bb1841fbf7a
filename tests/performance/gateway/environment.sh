# What fresh.sh and serve.sh need; PEERS_DIR is where the benchmark keeps its peers.
. "$PEERS_DIR/tuppence/environment"
export HOME="$PEERS_DIR/tuppence/ledger" TUPPENCE_CACHE="$PEERS_DIR/tuppence/cache"
export OPENAI_API_KEY=sk-bench ANTHROPIC_API_KEY=sk-bench
TUPPENCE=${TUPPENCE:-tuppence}
