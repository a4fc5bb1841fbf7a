"""The document's import name for `tuppence.budget.throttler`."""

from tuppence.budget.throttler import AsyncBudgetThrottler, BudgetThrottler

__all__ = ["AsyncBudgetThrottler", "BudgetThrottler"]
