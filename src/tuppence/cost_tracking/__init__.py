"""The ledger: what was used, what it cost, who it is charged to, and the reports on it."""
