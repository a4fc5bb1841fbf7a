"""What could be done to spend less, computed from the ledger's roll-ups.

Each saving is what the calls of the span would have cost less. Savings of different codes do not
add up: a call that is moved to a cheaper model saves less by caching.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tuppence.core.periods import Span
from tuppence.core.price_book import PriceBook
from tuppence.cost_tracking.summary import SummaryRow
from tuppence.insights.batching import suggest_batch
from tuppence.insights.caching import suggest_enabling, suggest_stopping
from tuppence.insights.calls import calls_of
from tuppence.insights.moves import suggest_moves
from tuppence.insights.suggestion import PRIORITIES, Suggestion, few_names, grouped_number
from tuppence.language import mark as _
from tuppence.prices.model_facts import Tiers, load_tiers
from tuppence.storage.database import Transaction

SET_MISSING_PRICES = "set_missing_prices"
LEAST_SAVING_NANOS = 10_000_000
"""One cent: nobody changes anything for less."""

MISSING_PRICE_MESSAGE = _(
    "Calls without a known price ({count}), so their cost is missing from every report: {models}. "
    "Run `tuppence prices set MODEL ...`, then `tuppence prices reprice`"
)


def suggest(
    tx: Transaction,
    book: PriceBook,
    *,
    span: Span,
    team_id: str | None = None,
    tiers: Tiers | None = None,
) -> list[Suggestion]:
    """Return what could be done, the most important first, within it the largest saving first.

    What would save less than a cent, or cost more than it saves, is left out.
    """
    calls = calls_of(tx, book, span, team_id)
    if calls is None:
        return []
    groups = calls.sums("project", "provider", "model")
    found = [
        *suggest_moves(calls, tiers or load_tiers()),
        *suggest_batch(calls),
        *suggest_enabling(calls, groups),
        *suggest_stopping(groups),
        *_suggest_prices(groups),
    ]
    return sorted((one for one in found if _is_worth_it(one)), key=_rank)


def _suggest_prices(groups: Sequence[SummaryRow]) -> Iterator[Suggestion]:
    """Yield one suggestion that names all models with calls that have no price."""
    unpriced: defaultdict[str, int] = defaultdict(int)
    for (_project, _provider, model), measures in groups:
        if measures.unpriced_count > 0:
            unpriced[model] += measures.unpriced_count
    if unpriced:
        models = sorted(unpriced, key=lambda model: (-unpriced[model], model))
        count = sum(unpriced.values())
        yield Suggestion(
            code=SET_MISSING_PRICES,
            priority="high",
            message=MISSING_PRICE_MESSAGE,
            parameters={"count": grouped_number(count), "models": few_names(models)},
            estimated_savings_nanos=None,
            evidence={"unpriced_requests": count, "models": models},
        )


def _is_worth_it(suggestion: Suggestion) -> bool:
    saving = suggestion.estimated_savings_nanos
    return saving is None or saving >= LEAST_SAVING_NANOS


def _rank(suggestion: Suggestion) -> tuple[int, int, str, str]:
    saving = suggestion.estimated_savings_nanos or 0
    return PRIORITIES.index(suggestion.priority), -saving, suggestion.code, suggestion.text()
