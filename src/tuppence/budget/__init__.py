"""Hard budgets: holds, throttling and what waits for money."""
