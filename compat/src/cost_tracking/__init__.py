"""The old import name of `tuppence.cost_tracking`."""
