"""Calls whose billed usage is recorded, but no prompt: session logs, and the ledger's own calls."""

from __future__ import annotations

from collections.abc import Sequence

from tuppence.core.periods import MICROS_PER_SECOND
from tuppence.core.usage import MeteredPart
from tuppence.cost_tracking.booking import Call
from tuppence.insights.moves import target_tier
from tuppence.insights.savings import Measure
from tuppence.language import mark
from tuppence.prices.model_facts import Tiers, family_of, load_tiers, token_growth
from tuppence.savings.recorded import PLAIN, ROUTED, Prices, Recorded, Traffic, grown

NO_TASK = mark("cannot be told: neither text nor task classes in the trace")
NO_PREFIXES = mark("cannot be told: no prompts in the trace (see Measured)")


def traffic_of_calls(calls: Sequence[Call], prices: Prices) -> Traffic:
    """Return calls as they were billed, and on the tier for their task class where it is known."""
    ordered = sorted(calls, key=lambda call: call.occurred_at_micros)
    untold: dict[Measure, str] = {"caching": NO_PREFIXES}
    if not any(call.attribution.task_complexity for call in ordered):
        untold["routing"] = NO_TASK
        return Traffic((_as_billed(call) for call in ordered), (), untold)
    tiers = load_tiers()
    return Traffic((_routed(call, tiers, prices) for call in ordered), ("routing",), untold)


def _as_billed(call: Call) -> Recorded:
    at_seconds = call.occurred_at_micros / MICROS_PER_SECOND
    return Recorded(at_seconds, call.provider, {PLAIN: call.parts}, call.parts)


def _routed(call: Call, tiers: Tiers, prices: Prices) -> Recorded:
    """Return a call with what it would be on the tier of its task, where that costs less."""
    recorded = _as_billed(call)
    at_seconds, provider = recorded.at_seconds, call.provider
    moved = tuple(_moved(part, call.attribution.task_complexity, tiers) for part in call.parts)
    before = prices.cost_nanos(call.parts, at_seconds, provider)
    after = prices.cost_nanos(moved, at_seconds, provider)
    pays = before is not None and after is not None and after < before
    sent = {PLAIN: call.parts, ROUTED: moved if pays else call.parts}
    return recorded._replace(sent=sent)


def _moved(part: MeteredPart, complexity: str, tiers: Tiers) -> MeteredPart:
    family = family_of(part.model)
    target = None if family is None else target_tier(complexity, family, tiers)
    if target is None or target.family == family:
        return part
    growth = token_growth(part.model, target.model)
    if growth is None:
        return part
    return MeteredPart(target.model, grown(part.usage, growth), part.terms)
