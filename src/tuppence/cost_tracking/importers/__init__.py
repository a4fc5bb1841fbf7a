"""One file per kind of log that can be imported."""
