"""The document's import name for `tuppence.caching`."""
