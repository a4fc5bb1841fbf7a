"""Users who call so often that part of it may be work that can wait, at the batch price."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tuppence.core.usage import Terms
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.summary import UNATTRIBUTED
from tuppence.insights.calls import Calls, repriced_nanos
from tuppence.insights.suggestion import Evidence, Suggestion, grouped_number
from tuppence.language import mark as _

USE_BATCH = "use_batch"
BATCH = Terms(processing="batch")
LEAST_REQUESTS_PER_ACTIVE_DAY = 200
"""More than a person types: one call every two and a half minutes of a working day."""

MANY_USERS = _(
    "{count} users call at high frequency; use batch processing for work that can wait up to "
    "24 hours - estimated saving up to {saving}"
)
ONE_USER = _(
    "{count} user calls at high frequency; use batch processing for work that can wait up to "
    "24 hours - estimated saving up to {saving}"
)


def suggest_batch(calls: Calls) -> Iterator[Suggestion]:
    """Yield the suggestion for all users of high frequency whose models have a batch price.

    What is batched already is booked at the batch price, so it adds nothing to the saving.
    """
    frequent = _frequent_users(calls)
    if not frequent:
        return
    users: set[str] = set()
    models: set[str] = set()
    requests = saving = 0
    for (user, provider, model), measures in calls.sums("user", "provider", "model"):
        saved = _saving(calls, provider, model, measures) if user in frequent else 0
        if saved > 0:
            users.add(user)
            models.add(model)
            requests += measures.request_count
            saving += saved
    if users:
        evidence: Evidence = {
            "users": len(users),
            "requests": requests,
            "models": sorted(models),
            "least_requests_per_active_day": LEAST_REQUESTS_PER_ACTIVE_DAY,
        }
        yield Suggestion(
            code=USE_BATCH,
            priority="medium",
            message=ONE_USER if len(users) == 1 else MANY_USERS,
            parameters={"count": grouped_number(len(users))},
            estimated_savings_nanos=saving,
            evidence=evidence,
        )


def _frequent_users(calls: Calls) -> set[str]:
    """Return users with many requests on an average day of those on which they call at all."""
    requests: defaultdict[str, list[int]] = defaultdict(list)
    for (user, _day), measures in calls.sums("user", "day"):
        if user != UNATTRIBUTED and measures.request_count > 0:
            requests[user].append(measures.request_count)
    return {
        user
        for user, counts in requests.items()
        if sum(counts) >= LEAST_REQUESTS_PER_ACTIVE_DAY * len(counts)
    }


def _saving(calls: Calls, provider: str, model: str, measures: Measures) -> int:
    price = calls.price(provider, model, BATCH)
    cost = None if price is None else repriced_nanos(price, measures)
    return 0 if cost is None else calls.comparable_nanos(provider, model, measures) - cost
