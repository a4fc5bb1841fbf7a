"""How users call tuppence: never run, only type-checked (`make lint`)."""

from datetime import datetime
from decimal import Decimal

import anthropic

import tuppence
from tuppence.cost_tracking.service import AsyncCostTrackingService, CostTrackingService


def book(tracker: CostTrackingService) -> float | None:
    """Book a call and read its cost."""
    log = tracker.log_api_usage(
        user_id="john",
        team_id="eng",
        project_id="chatbot",
        model="claude-sonnet-4-20250514",
        input_tokens=1500,
        output_tokens=800,
        cached_tokens=200,
        tags=["env=prod"],
        timestamp=datetime(2025, 11, 10),
    )
    when: datetime = log.timestamp
    nanos: int = log.total_cost_nanos
    print(when, nanos, log.team_id)
    return log.total_cost


def summarize(tracker: CostTrackingService) -> str:
    """Read a summary, a budget and suggestions."""
    summary = tracker.get_cost_summary(
        start_date=datetime(2025, 11, 1), end_date=datetime(2025, 11, 30), group_by="team"
    )
    budget = tracker.create_budget("team", "engineering", monthly_limit=Decimal("5000.00"))
    suggestions = tracker.get_optimization_suggestions(team_id="engineering", days=30)
    total: float = summary[0]["total_cost"] + budget.monthly_limit
    return f"{total} {suggestions[0]['message']}"


async def book_async(tracker: AsyncCostTrackingService) -> int:
    """Book calls from asyncio."""
    log = await tracker.log_api_usage(model="gpt-6-sol", input_tokens=10, output_tokens=5)
    booked = await tracker.log_many([{"model": "gpt-6-sol", "input_tokens": 10}])
    return log.id + booked.calls


def govern(client: anthropic.Anthropic) -> str:
    """Govern a client: it is of the same type to the checker, too."""
    governed: anthropic.Anthropic = tuppence.govern(client, team="support", wait_seconds=2.5)
    with tuppence.scope(user="ann", tags=["env=prod"]):
        message = governed.with_options(max_retries=0).messages.create(
            model="claude-opus-5-5", max_tokens=10, messages=[{"role": "user", "content": "hi"}]
        )
    return message.id
