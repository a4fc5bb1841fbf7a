"""What a throttler decides by the state that a budget would be in: text, strategy, pace."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict

from tuppence.core.admission import (
    CRITICAL,
    Fit,
    State,
    Tally,
    fit,
    limit_of,
    state_of,
)
from tuppence.cost_tracking.budgets import Budget
from tuppence.language import Translate, mark

Strategy = Literal["none", "reduce_rate", "downgrade_model", "block"]


class ThrottleDecision(TypedDict, total=False):
    """Whether a call may be made, and how."""

    allow: bool
    strategy: Strategy
    reason: str
    suggested_model: str
    """A cheaper model, where the strategy is "downgrade_model"."""
    retry_after_seconds: float
    """When to ask again, where the call is refused for now."""
    state: State
    """The state that the fullest budget would be in after the call."""
    budget: str
    """That budget."""


STRATEGIES: dict[State, Strategy] = {
    "normal": "none",
    "warning": "reduce_rate",
    "critical": "downgrade_model",
    "exceeded": "block",
}

SUFFICIENT = mark("budget is sufficient")
LOWER_RATE = mark("{share} of the budget is used; lower the call rate")
TOO_FAST = mark("{share} of the budget is used, and calls come faster than the rest allows")
DOWNGRADE = mark("the budget is nearly used up ({share}); downgrade the model")
OVER = mark("over budget ({share}); non-critical requests are blocked")
OVER_CRITICAL = mark("over budget ({share}); allowed because it is critical, on a cheaper model")
OVER_CEILING = mark("over budget ({share}); the ceiling for critical requests is reached")
RESERVED = mark("what is left of the budget is reserved for higher priorities")
IN_FLIGHT = mark("calls in flight hold what is left of the budget; try again when they are done")
PAUSED = mark("the budget is paused")

SETTLES_SOON_SECONDS = 1.0
"""When to ask again where calls in flight hold the money."""

WEIGHTS = (0.5, 1.0, 2.0)
"""How fast low, normal and high priority may spend, beside the pace that lasts to the end."""

BURST_SHARE = 0.01
"""Share of the limit that may be spent at once before the pace is kept."""


class Landing(NamedTuple):
    """Where a budget would be after a call."""

    budget: Budget
    tally: Tally
    state: State
    used_nanos: int
    limit_nanos: int

    @property
    def share(self) -> float:
        """Used divided by the limit."""
        return self.used_nanos / self.limit_nanos if self.limit_nanos else float("inf")


def landing(budget: Budget, tally: Tally, cost_nanos: int) -> Landing:
    """Return where a call of this cost would leave a budget, with all that is held."""
    used = tally.total_nanos + cost_nanos
    limit = limit_of(budget.terms, tally)
    return Landing(budget, tally, state_of(budget.terms, used, limit), used, limit)


def decide(
    where: Landing, cost_nanos: int, priority: int, suggested_model: str, _: Translate
) -> ThrottleDecision:
    """Return what follows for a call from where it would leave its fullest budget."""
    share = f"{where.share:.1%}"
    decision = ThrottleDecision(
        allow=True,
        strategy=STRATEGIES[where.state],
        reason=_(SUFFICIENT),
        state=where.state,
        budget=where.budget.name,
    )
    terms = where.budget.terms
    if terms.paused:
        return _blocked(decision, _(PAUSED))
    if terms.mode in ("soft", "shadow"):
        if where.state != "normal":
            decision["reason"] = _(LOWER_RATE).format(share=share)
        decision["strategy"] = "none" if where.state == "exceeded" else decision["strategy"]
        return decision
    if where.state == "exceeded":
        return _over(decision, where, cost_nanos, priority, suggested_model, _)
    verdict = fit(terms, where.tally, cost_nanos, priority)
    if verdict is not Fit.FITS:
        return _blocked(decision, _(RESERVED))
    if where.state == "critical":
        decision["reason"] = _(DOWNGRADE).format(share=share)
        decision["suggested_model"] = suggested_model
    elif where.state == "warning":
        decision["reason"] = _(LOWER_RATE).format(share=share)
    return decision


def _over(
    decision: ThrottleDecision,
    where: Landing,
    cost_nanos: int,
    priority: int,
    suggested_model: str,
    _: Translate,
) -> ThrottleDecision:
    share = f"{where.share:.1%}"
    verdict = fit(where.budget.terms, where.tally, cost_nanos, priority)
    if priority == CRITICAL and verdict is Fit.FITS:
        decision["strategy"] = "downgrade_model"
        decision["suggested_model"] = suggested_model
        decision["reason"] = _(OVER_CRITICAL).format(share=share)
        return decision
    if verdict is Fit.WAITS:
        decision["retry_after_seconds"] = SETTLES_SOON_SECONDS
        return _blocked(decision, _(IN_FLIGHT))
    return _blocked(decision, _(OVER_CEILING if priority == CRITICAL else OVER).format(share=share))


def _blocked(decision: ThrottleDecision, reason: str) -> ThrottleDecision:
    decision["allow"] = False
    decision["strategy"] = "block"
    decision["reason"] = reason
    return decision
