"""One file per provider: how its responses count tokens, turned into disjoint `Usage`."""
