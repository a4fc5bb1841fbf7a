"""Stand-ins for what tests must not reach: a model provider that answers, bills and fails."""
