"""The document's import name for `tuppence.model_router`."""
