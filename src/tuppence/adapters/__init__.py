"""One file per outside thing that tuppence talks to."""
