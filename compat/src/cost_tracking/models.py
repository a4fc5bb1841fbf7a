"""The tables, under the import name that existing programs use."""

from tuppence.cost_tracking.models import APIUsageLog, Base, CostAlert, CostBudget

__all__ = ["APIUsageLog", "Base", "CostAlert", "CostBudget"]
