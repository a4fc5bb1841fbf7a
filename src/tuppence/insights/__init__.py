"""What the ledger's sums say that could be done better: advice with numbers, never guesses."""
