"""The service, under the import name that existing programs use."""

from tuppence.cost_tracking.service import AsyncCostTrackingService, CostTrackingService

__all__ = ["AsyncCostTrackingService", "CostTrackingService"]
