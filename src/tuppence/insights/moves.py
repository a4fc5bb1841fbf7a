"""Calls that another model serves for less: a weaker one, or a newer one of the same family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tuppence.cost_tracking.measures import Measures
from tuppence.insights.calls import Calls, dearest_nanos, repriced_nanos
from tuppence.insights.suggestion import Evidence, Phrase, Suggestion, grouped_number
from tuppence.language import mark as _
from tuppence.prices.model_facts import Family, Tier, Tiers, family_of, plain_name, token_growth

DOWNGRADE = "downgrade_simple_tasks"
USE_CURRENT = "use_current_model"

DOWNGRADE_MESSAGES = {
    ("simple", False): _(
        "{count} simple tasks used {family}; downgrade them to {target} - estimated saving {saving}"
    ),
    ("simple", True): _(
        "{count} simple task used {family}; downgrade it to {target} - estimated saving {saving}"
    ),
    ("moderate", False): _(
        "{count} moderate tasks used {family}; downgrade them to {target} "
        "- estimated saving {saving}"
    ),
    ("moderate", True): _(
        "{count} moderate task used {family}; downgrade it to {target} - estimated saving {saving}"
    ),
}
"""By the complexity of the tasks, and whether it is one only."""

USE_CURRENT_MESSAGE = _(
    "Calls of older {family} models ({count}): {target} of the same family costs less for the "
    "same text - estimated saving {saving}"
)
FAMILY_PHRASES = (
    _("a Haiku model"),
    _("a Sonnet model"),
    _("an Opus model"),
    _("a Fable model"),
    _("a Mythos model"),
)
"""What model_facts.toml says, marked for translation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Calls of one model that another one would have served for less."""

    code: str
    complexity: str
    family: Family
    model: str
    target: Tier
    requests: int
    saving_nanos: int


def suggest_moves(calls: Calls, tiers: Tiers) -> Iterator[Suggestion]:
    """Yield one suggestion for each complexity, family and target; no call is in two of them."""
    groups: dict[tuple[str, str, str, str], list[Move]] = {}
    for move in _moves(calls, tiers):
        complexity = move.complexity if move.code == DOWNGRADE else ""
        key = (move.code, complexity, move.family.name, move.target.model)
        groups.setdefault(key, []).append(move)
    for moves in groups.values():
        if any(move.requests for move in moves):
            yield _suggestion(moves, calls.book.real_model(moves[0].target.model))


def _moves(calls: Calls, tiers: Tiers) -> Iterator[Move]:
    for (complexity, provider, model), measures in calls.sums(
        "task_complexity", "provider", "model"
    ):
        family = family_of(model)
        target = None if family is None else target_tier(complexity, family, tiers)
        if family is None or target is None:
            continue
        saving = _saving(calls, provider, model, measures, target)
        if saving > 0:
            yield Move(
                code=USE_CURRENT if target.family == family else DOWNGRADE,
                complexity=complexity,
                family=family,
                model=model,
                target=target,
                requests=measures.request_count,
                saving_nanos=saving,
            )


def target_tier(complexity: str, family: Family, tiers: Tiers) -> Tier | None:
    """Return the tier for simple work, for moderate work of the top, else the family's own.

    None where the family has none.
    """
    if complexity == "simple" and family.rank > tiers[0].family.rank:
        return tiers[0]
    if complexity == "moderate" and len(tiers) > 1 and family.rank >= tiers[-1].family.rank:
        return tiers[-2]
    return next((tier for tier in tiers if tier.family == family), None)


def _saving(calls: Calls, provider: str, model: str, measures: Measures, target: Tier) -> int:
    """Return the saving; 0 where it is the same model, or where larger prompts could cost more."""
    price = calls.price(provider, target.model)
    growth = token_growth(model, target.model)
    if price is None or growth is None or _is_same(calls, provider, model, target):
        return 0
    cost = repriced_nanos(price, measures, growth)
    dearest = dearest_nanos(price, measures, growth)
    before = calls.comparable_nanos(provider, model, measures)
    if cost is None or dearest is None or dearest > before:
        return 0
    return before - cost


def _is_same(calls: Calls, provider: str, model: str, target: Tier) -> bool:
    here, there = calls.price(provider, model), calls.price(provider, target.model)
    if here is not None and there is not None and here.model == there.model:
        return True
    return plain_name(target.model) in plain_name(model)


def _suggestion(moves: list[Move], target_model: str) -> Suggestion:
    first = moves[0]
    requests = sum(move.requests for move in moves)
    saving = sum(move.saving_nanos for move in moves)
    evidence: Evidence = {
        "requests": requests,
        "models": _sorted_once(move.model for move in moves),
        "target_model": target_model,
    }
    if first.code == USE_CURRENT:
        return Suggestion(
            code=USE_CURRENT,
            priority="medium",
            message=USE_CURRENT_MESSAGE,
            parameters={
                "count": grouped_number(requests),
                "family": first.family.name,
                "target": target_model,
            },
            estimated_savings_nanos=saving,
            evidence=evidence,
        )
    return Suggestion(
        code=DOWNGRADE,
        priority="high",
        message=DOWNGRADE_MESSAGES[first.complexity, requests == 1],
        parameters={
            "count": grouped_number(requests),
            "family": Phrase(first.family.phrase),
            "target": first.target.family.name,
        },
        estimated_savings_nanos=saving,
        evidence={"task_complexity": first.complexity, **evidence},
    )


def _sorted_once(names: Iterable[str]) -> list[str]:
    return sorted(set(names))
