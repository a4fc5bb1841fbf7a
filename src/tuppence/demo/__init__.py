"""A day of made-up traffic, for showing what tuppence does where no ledger is at hand."""
