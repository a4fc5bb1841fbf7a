"""The tests. A package, so that `tests.postgresql` means this one whatever else is installed."""
