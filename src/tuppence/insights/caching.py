"""Prompt caching that is missing where it would pay, and caching that costs more than it saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tuppence.core.periods import MICROS_PER_HOUR
from tuppence.core.prices import Price
from tuppence.core.usage import Usage
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.summary import UNATTRIBUTED, SummaryRow
from tuppence.insights.calls import Calls, card_of_average
from tuppence.insights.suggestion import Suggestion, grouped_number, project_name
from tuppence.language import mark as _
from tuppence.prices.model_facts import cacheable_minimum

ENABLE_CACHING = "enable_caching"
STOP_WASTED_WRITES = "stop_wasted_cache_writes"

ASSUMED_REPEATED_PERCENT = 50
"""How much of the input is taken to be the same in all requests of an hour; evidence says so."""
LEAST_AVERAGE_INPUT_TOKENS = 2_048
LEAST_REQUESTS_PER_ACTIVE_HOUR = 2
MOST_CACHED_PERCENT = 1
"""Up to here caching counts as not in use."""
CACHE_LIFETIME = "1h"
LIFETIME_RATE = "cache_write_1h_tokens"
HIGH_FROM_PERCENT = 25
"""From this share of a group's cost on, the advice has high priority."""

ENABLE_MESSAGE = _(
    "Enable prompt caching for {model} in project {project}: {count} requests with {tokens} input "
    "tokens each on average read almost nothing from the cache - estimated saving {saving} "
    "if {share} % of the input repeats"
)
WASTED_MESSAGE = _(
    "Cache writes of {model} in project {project} cost {saving} more than their reads saved; "
    "cache only what is sent again before it expires"
)

GroupKey = tuple[str, ...]
"""(project, provider, model)."""


def suggest_enabling(calls: Calls, groups: Sequence[SummaryRow]) -> Iterator[Suggestion]:
    """Yield a suggestion for each project and model whose large prompts are never cached."""
    priced = ((group, calls.price(group.keys[1], group.keys[2])) for group in groups)
    candidates = [(group, price) for group, price in priced if price and _could_cache(group, price)]
    hours_of = _active_hours(calls, [group for group, _price in candidates]) if candidates else {}
    for group, price in candidates:
        hours = hours_of.get(group.keys, 0)
        if 0 < hours * LEAST_REQUESTS_PER_ACTIVE_HOUR <= group.measures.request_count:
            saving = _saving(price, group.measures, hours)
            if saving > 0:
                yield _enabling(group, hours, saving)


def suggest_stopping(groups: Sequence[SummaryRow]) -> Iterator[Suggestion]:
    """Yield a suggestion for each project and model where caching has cost more than it saved."""
    for (project, provider, model), measures in groups:
        if measures.cache_savings_nanos < 0:
            yield Suggestion(
                code=STOP_WASTED_WRITES,
                priority="medium",
                message=WASTED_MESSAGE,
                parameters={"model": model, "project": project_name(project)},
                estimated_savings_nanos=-measures.cache_savings_nanos,
                evidence={
                    "project": project,
                    "provider": provider,
                    "models": [model],
                    "requests": measures.request_count,
                    "cache_write_tokens": measures.cache_write_tokens,
                    "cache_read_tokens": measures.cache_read_tokens,
                },
            )


def _could_cache(group: SummaryRow, price: Price) -> bool:
    """Tell whether the prompts are large, hardly cached, and the price of the lifetime is known."""
    minimum = cacheable_minimum(group.keys[2])
    if minimum is None or LIFETIME_RATE not in price.rates:
        return False
    least = max(LEAST_AVERAGE_INPUT_TOKENS, minimum.tokens * 100 // ASSUMED_REPEATED_PERCENT)
    measures = group.measures
    cached = measures.cache_write_tokens + measures.cache_read_tokens
    return (
        measures.request_count > 0
        and measures.input_tokens >= least * measures.request_count
        and cached * 100 <= MOST_CACHED_PERCENT * (measures.input_tokens + cached)
    )


def _saving(price: Price, measures: Measures, hours: int) -> int:
    """Return what one write per active hour and reads after it cost less than plain input.

    An entry that lives an hour is written at most once per clock hour, however the requests
    are spread in it: from sums alone, nothing more favourable can be promised.
    """
    card = card_of_average(price, measures)
    repeated = measures.input_tokens * ASSUMED_REPEATED_PERCENT // 100
    written = -(-repeated * hours // measures.request_count)
    cached = card.cost(Usage(cache_write_1h_tokens=written, cache_read_tokens=repeated - written))
    plain = card.cost(Usage(input_tokens=measures.input_tokens))
    if cached is None or plain is None or plain.input_nanos <= 0:
        return 0
    # Input that was billed below the standard price (batch) saves as much less.
    billed = min(measures.input_cost_nanos, plain.input_nanos)
    return cached.cache_savings_nanos * billed // plain.input_nanos


def _enabling(group: SummaryRow, hours: int, saving: int) -> Suggestion:
    project, provider, model = group.keys
    measures = group.measures
    average = measures.input_tokens // measures.request_count
    is_large = saving * 100 >= HIGH_FROM_PERCENT * measures.cost_nanos
    return Suggestion(
        code=ENABLE_CACHING,
        priority="high" if is_large else "medium",
        message=ENABLE_MESSAGE,
        parameters={
            "model": model,
            "project": project_name(project),
            "count": grouped_number(measures.request_count),
            "tokens": grouped_number(average),
            "share": str(ASSUMED_REPEATED_PERCENT),
        },
        estimated_savings_nanos=saving,
        evidence={
            "project": project,
            "provider": provider,
            "models": [model],
            "requests": measures.request_count,
            "average_input_tokens": average,
            "active_hours": hours,
            "cache_lifetime": CACHE_LIFETIME,
            "assumed_repeated_percent": ASSUMED_REPEATED_PERCENT,
        },
    )


def _active_hours(calls: Calls, groups: Sequence[SummaryRow]) -> Mapping[GroupKey, int]:
    """Return in how many clock hours each group has calls, from the hourly roll-up.

    Hours that the span cuts count whole: one write too many is assumed rather than one too few.
    """
    models = sorted({group.keys[2] for group in groups})
    marks = ", ".join("?" * len(models))
    conditions = ["t.request_count > 0", f"m.name IN ({marks})"]
    parameters: list[object] = [*models]
    start, end = calls.span
    if start is not None:
        conditions.append("t.hour >= ?")
        parameters.append(start // MICROS_PER_HOUR)
    if end is not None:
        conditions.append("t.hour < ?")
        parameters.append(-(-end // MICROS_PER_HOUR))
    if calls.team_id is not None:
        conditions.append("a.team_ref IN (SELECT id FROM teams WHERE name = ?)")
        parameters.append(calls.team_id)
    rows = calls.tx.rows(
        "SELECT p.name, m.provider, m.name, COUNT(DISTINCT t.hour) FROM usage_hourly t "
        "JOIN models m ON m.id = t.model_ref JOIN attributions a ON a.id = t.attribution_ref "
        f"LEFT JOIN projects p ON p.id = a.project_ref WHERE {' AND '.join(conditions)} "
        "GROUP BY p.name, m.provider, m.name",
        parameters,
    )
    return {(name or UNATTRIBUTED, provider, model): hours for name, provider, model, hours in rows}
