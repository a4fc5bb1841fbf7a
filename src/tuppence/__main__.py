"""`python -m tuppence` is the command line."""

from tuppence.entrypoints.cli import main

main()
