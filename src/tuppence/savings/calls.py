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
from tuppence.savings.recorded import PLAIN, ROUTED, Parts, Prices, Recorded, Traffic, grown

NO_TASK = mark("cannot be told: neither text nor task classes in the trace")
NO_PREFIXES = mark("cannot be told: no prompts in the trace (see Measured)")


def traffic_of_calls(calls: Sequence[Call], prices: Prices) -> Traffic:
    """Return calls as they were billed, and on the tier for their task class where it is known."""
    ordered = sorted(calls, key=lambda call: call.occurred_at_micros)
    untold: dict[Measure, str] = {"caching": NO_PREFIXES}
    if not any(call.attribution.task_complexity for call in ordered):
        untold["routing"] = NO_TASK
        return Traffic((_as_billed(call) for call in ordered), (), untold)
    tiers = _SessionTiers(load_tiers(), prices)
    return Traffic((_routed(call, tiers, prices) for call in ordered), ("routing",), untold)


class _SessionTiers:
    """Says to which model each call would have gone: the calls of a session stay together.

    A session's calls to one model go where the first of them goes, so that their cache is found;
    calls without a session go each by itself.
    """

    def __init__(self, tiers: Tiers, prices: Prices) -> None:
        self._tiers = tiers
        self._prices = prices
        self._complexities: dict[tuple[str, str, str], str] = {}

    def moved(self, call: Call) -> Parts:
        """Return what would be billed on the tier of the call's task, or of its session's."""
        payer = call.attribution
        if not payer.session_id:
            return self._on_tier(call, self._worthwhile(call))
        key = payer.session_id, payer.agent_id, call.parts[0].model
        complexity = self._complexities.get(key)
        if complexity is None:
            complexity = self._complexities[key] = self._worthwhile(call)
        return self._on_tier(call, complexity)

    def _worthwhile(self, call: Call) -> str:
        """Return the call's task class where its tier costs less than it did, else none."""
        complexity = call.attribution.task_complexity
        before = self._cost_nanos(call, call.parts)
        after = self._cost_nanos(call, self._on_tier(call, complexity))
        pays = before is not None and after is not None and after < before
        return complexity if pays else ""

    def _on_tier(self, call: Call, complexity: str) -> Parts:
        if not complexity:
            return call.parts
        return tuple(_moved(part, complexity, self._tiers) for part in call.parts)

    def _cost_nanos(self, call: Call, parts: Parts) -> int | None:
        at_seconds = call.occurred_at_micros / MICROS_PER_SECOND
        return self._prices.cost_nanos(parts, at_seconds, call.provider)


def _as_billed(call: Call) -> Recorded:
    at_seconds = call.occurred_at_micros / MICROS_PER_SECOND
    return Recorded(at_seconds, call.provider, {PLAIN: call.parts}, call.parts)


def _routed(call: Call, tiers: _SessionTiers, prices: Prices) -> Recorded:
    """Return a call with what it would be on another tier; on terms unknown there, it stays."""
    recorded = _as_billed(call)
    moved = tiers.moved(call)
    if prices.cost_nanos(moved, recorded.at_seconds, call.provider) is None:
        moved = call.parts
    return recorded._replace(sent={PLAIN: call.parts, ROUTED: moved})


def _moved(part: MeteredPart, complexity: str, tiers: Tiers) -> MeteredPart:
    family = family_of(part.model)
    target = None if family is None else target_tier(complexity, family, tiers)
    if target is None or target.family == family:
        return part
    growth = token_growth(part.model, target.model)
    if growth is None:
        return part
    return MeteredPart(target.model, grown(part.usage, growth), part.terms)
