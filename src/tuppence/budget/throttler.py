"""BudgetThrottler: hard budgets as the specification shows them, and its async twin.

`should_throttle` looks and advises; `hold` holds money, and only a hold cannot be overtaken by
other callers. Dollars are floats here, each the correctly rounded value of the exact integer beside
it (`..._nanos`). Errors are those of `tuppence.errors`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import TypedDict, Unpack

from tuppence.budget import pace
from tuppence.budget.calls import (
    Amounts,
    CallOptions,
    CallPrices,
    HoldOptions,
    amounts_of,
    apart,
)
from tuppence.budget.decisions import (
    TOO_FAST,
    Landing,
    ThrottleDecision,
    decide,
    landing,
)
from tuppence.budget.expectation import Expectations
from tuppence.budget.holds import (
    AsyncHold,
    Hold,
    check_wait_seconds,
    hold_id_of,
    lease_micros,
)
from tuppence.budget.outages import Beginning, begin
from tuppence.budget.overview import (
    BudgetSummary,
    WindowUsage,
    budget_summary,
    window_usage,
)
from tuppence.budget.refusals import hold_name
from tuppence.budget.requests import End, Reserve, Spend
from tuppence.budget.scopes import DEFAULT_THROTTLER, Payer, encode_scopes, scopes_of
from tuppence.budget.tiers import suggested_model
from tuppence.core.admission import ENFORCED, Fit, Mode, fit, rank_of
from tuppence.core.money import Money, to_nanos
from tuppence.cost_tracking.budgets import NewBudget, Scope
from tuppence.cost_tracking.directory import Directory
from tuppence.cost_tracking.ledger import utc_now
from tuppence.errors import BudgetExceeded
from tuppence.language import translator
from tuppence.settings import WhenUnreachable, check_when_unreachable, load_settings
from tuppence.storage.threads import DatabaseThreads

DEFAULT_LEASE_SECONDS = 900.0
"""Longer than providers let a call run by default (10 minutes)."""


class ThrottlerOptions(TypedDict, total=False):
    """What a throttler can be told beside its budget; all of it by keyword."""

    name: str
    """Throttlers of one name share one budget; "default"."""
    database_url: str | None
    """Where state lives; what DATABASE_URL names, or a SQLite file in the data directory."""
    redis_url: str | None
    """Where processes decide together, state staying in the database; what REDIS_URL names.

    With "" they do not, whatever REDIS_URL says.
    """
    when_unreachable: WhenUnreachable | None
    """What becomes of calls without the database: "refuse" or "journal"; that of the settings."""
    time_zone: str
    """In which months begin; "UTC"."""
    mode: Mode
    """How the own budget is kept: "strict", "expected", "soft" or "shadow"."""
    critical_ceiling: float
    """Share of the limit that critical calls may spend beyond it; 0.1."""
    overdraft_share: float
    """Share of the limit by which what is held may pass it in the mode "expected"; 0.01."""
    lease_seconds: float
    """How long a hold lives without being settled; 900."""
    tiers: str
    """Which models are suggested: "default" or "chapter-12"."""
    language: str | None
    """Of reasons and recommendations: "en" or "zh_TW"; that of the settings."""
    now: Callable[[], datetime]
    """The clock."""


class BudgetThrottler:
    """Decides on calls by the money that is left, and keeps budgets from being overspent.

    `monthly_budget` is a budget of this throttler's own, over the calls that go through throttlers
    of its `name`; the budgets in the ledger that cover a call hold beside it. Without it there is
    the default of the settings, or none. State lives in the database: `database_url`, or what
    DATABASE_URL names, or a SQLite file in the user's data directory.

    Raises InvalidMoney, InvalidInput, DatabaseUnreachable, SchemaMismatch.
    """

    def __init__(
        self,
        monthly_budget: Money | None = None,
        warning_threshold: float | None = None,
        critical_threshold: float | None = None,
        **options: Unpack[ThrottlerOptions],
    ) -> None:
        settings = load_settings()
        self.name = options.get("name", DEFAULT_THROTTLER)
        self._tiers = options.get("tiers", "default")
        self._lease_seconds = options.get("lease_seconds", DEFAULT_LEASE_SECONDS)
        self._translate = translator(options.get("language") or settings.language)
        lease_micros(self._lease_seconds)
        now = options.get("now", utc_now)
        own = _own_budget(monthly_budget, warning_threshold, critical_threshold, options)
        redis_url = options.get("redis_url")
        self.engine = begin(
            Beginning(
                options.get("database_url") or settings.database_url,
                settings.redis_url if redis_url is None else redis_url,
                own,
                now,
                check_when_unreachable(
                    options.get("when_unreachable") or settings.when_unreachable
                ),
                settings.journal_directory,
            )
        )
        self.database = self.engine.database
        self._directory = Directory()
        self.expectations = Expectations(self.database)
        self.calls = CallPrices(self.engine.ledger, self._tiers)

    def should_throttle(
        self,
        requested_cost: Money,
        priority: str = "normal",
        *,
        model: str | None = None,
        **payer: Unpack[Payer],
    ) -> ThrottleDecision:
        """Return whether a call of this cost may be made now, and how.

        Judged by where the call would leave the fullest budget that covers it. This holds no
        money: calls that ask at once may all be allowed; `hold` is the promise.
        """
        cost, rank = to_nanos(requested_cost, field="requested_cost"), rank_of(priority)
        views = self.engine.view(scopes_of(payer, self.name))
        landings = [landing(budget, tally, cost) for budget, tally in views]
        if not landings:
            return ThrottleDecision(
                allow=True,
                strategy="none",
                reason=self._translate("no budget covers the call"),
                state="normal",
            )
        where = max(landings, key=lambda one: _urgency(one, cost, rank))
        suggestion = ""
        if where.state in ("critical", "exceeded"):
            suggestion = suggested_model(self._tiers, model)
        decision = decide(where, cost, rank, suggestion, self._translate)
        if decision["allow"] and pace.applies(where, rank):
            self._keep_pace(decision, where, cost, rank)
        return decision

    def hold(
        self,
        upper_bound: Money,
        *,
        priority: str = "normal",
        certain: Money = 0,
        minimum: Money | None = None,
        model: str = "",
        wait_seconds: float = 0.0,
        lease_seconds: float | None = None,
        idempotency_key: str | None = None,
        **payer: Unpack[Payer],
    ) -> Hold:
        """Hold money for a call in every budget that covers it, or in none.

        `upper_bound` is what the call can cost at most, `certain` what it costs at least (its
        input). Where less is left, `minimum` takes half of it, or at least that much.
        `wait_seconds` waits for calls in flight that hold the money. `model` and the payer choose
        whose history budgets of the mode "expected" go by.

        Raises BudgetExceeded, BudgetPaused, WaitTimedOut, HoldKeyUsed, DatabaseUnreachable.
        """
        amounts = amounts_of(upper_bound, certain, minimum, model)
        return self.hold_amounts(
            amounts,
            scopes_of(payer, self.name),
            priority=priority,
            wait_seconds=wait_seconds,
            lease_seconds=lease_seconds,
            idempotency_key=idempotency_key,
        )

    def hold_amounts(
        self, amounts: Amounts, scopes: tuple[Scope, ...], **options: Unpack[HoldOptions]
    ) -> Hold:
        """Do what `hold` does, for amounts in nano-dollars and the scopes that pay."""
        request = self._reservation(amounts, scopes, options)
        granted = self.engine.reserve(request, check_wait_seconds(options.get("wait_seconds", 0.0)))
        return Hold(self.engine, granted, request.bound_nanos, request.lease_micros / 1e6)

    def hold_call(
        self,
        model: str,
        input_tokens: int,
        max_tokens: int,
        *,
        minimum_max_tokens: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Hold:
        """Hold what a call costs at most by the price book; the hold tells its `max_tokens`.

        That is fewer than asked for where less money is left, if it is `minimum_max_tokens` or
        more. A BudgetExceeded tells in `offers` what would fit. Raises as `hold`, UnknownPrice.
        """
        wish = self.calls.wish(model, input_tokens, max_tokens, minimum_max_tokens)
        try:
            held, payer = apart(options)
            hold = self.hold_amounts(wish.amounts, scopes_of(payer, self.name), **held)
        except BudgetExceeded as error:
            error.offers = self.calls.offers(wish, error.available_nanos)
            raise
        hold.max_tokens = wish.max_tokens_for(hold.bound_nanos)
        return hold

    def record_usage(
        self,
        cost: Money,
        *,
        priority: str = "normal",
        idempotency_key: str | None = None,
        **payer: Unpack[Payer],
    ) -> None:
        """Count money that has been spent, durably; what was held for it is settled instead.

        A key that was used before counts nothing.
        """
        self.engine.perform(self._spending(cost, priority, idempotency_key, payer))

    def resolve(self, hold_id: str, actual: Money) -> None:
        """Book the true cost of a hold that is unresolved."""
        amount = to_nanos(actual, field="actual")
        self.engine.perform(End(hold_id_of(hold_id), "resolved", amount))

    def settle(self, hold_id: str, actual: Money) -> None:
        """Settle a hold by its id, from whichever process."""
        amount = to_nanos(actual, field="actual")
        self.engine.perform(End(hold_id_of(hold_id), "settled", amount))

    def release(self, hold_id: str) -> None:
        """Release a hold by its id, from whichever process."""
        self.engine.perform(End(hold_id_of(hold_id), "released"))

    def refund(self, hold_id: str, amount: Money) -> None:
        """Give back what a provider has refunded of a settled call, as a row of its own."""
        nanos = to_nanos(amount, field="amount")
        number, row = hold_id_of(hold_id), self.engine.new_id()
        self.engine.perform(End(number, "refund", nanos, refund_id=row))

    def get_sliding_window_usage(self, minutes: int = 60) -> WindowUsage:
        """Return what the calls through this throttler cost in the last so many minutes."""
        return window_usage(self.database, self.name, minutes, self.engine.now_micros())

    def get_budget_summary(self) -> BudgetSummary:
        """Return how this throttler's own budget stands, when it will be used up, what helps."""
        return budget_summary(self.database, self.name, self.engine.now_micros(), self._translate)

    def close(self) -> None:
        """Close the database."""
        self.expectations.close()
        self.engine.close()
        self.database.close()

    def _keep_pace(self, decision: ThrottleDecision, where: Landing, cost: int, rank: int) -> None:
        """Refuse a call for now that comes faster than the rest of the budget allows."""
        now = self.engine.now_micros()
        period = self._directory.period_at(where.budget, now)
        wanted = pace.Pace(where, cost, rank, pace.left_micros(where, period, now))
        seconds = self.database.run(pace.take, where.budget.id, rank, wanted, now)
        if seconds:
            share = f"{where.share:.1%}"
            decision["allow"] = False
            decision["strategy"] = "reduce_rate"
            decision["reason"] = self._translate(TOO_FAST).format(share=share)
            decision["retry_after_seconds"] = seconds

    def _reservation(
        self, amounts: Amounts, scopes: tuple[Scope, ...], options: HoldOptions
    ) -> Reserve:
        bound, certain, minimum, model = amounts
        lease = options.get("lease_seconds")
        key = options.get("idempotency_key")
        return Reserve(
            self.engine.new_id(),
            scopes,
            _scope_text(scopes, model),
            bound,
            self.expectations.expected(model, scopes, bound, certain),
            certain,
            min(minimum, bound),
            rank_of(options.get("priority", "normal")),
            lease_micros(self._lease_seconds if lease is None else lease),
            key=_key_of(key),
            key_text=key or "",
        )

    def _spending(
        self, cost: Money, priority: str, idempotency_key: str | None, payer: Payer
    ) -> Spend:
        scopes = scopes_of(payer, self.name)
        return Spend(
            self.engine.new_id(),
            scopes,
            encode_scopes(scopes),
            to_nanos(cost, field="cost"),
            rank_of(priority),
            _key_of(idempotency_key),
        )


class AsyncBudgetThrottler:
    """The same for asyncio: every method as in BudgetThrottler, to be awaited."""

    def __init__(
        self,
        monthly_budget: Money | None = None,
        warning_threshold: float | None = None,
        critical_threshold: float | None = None,
        **options: Unpack[ThrottlerOptions],
    ) -> None:
        self._throttler = BudgetThrottler(
            monthly_budget, warning_threshold, critical_threshold, **options
        )
        self.engine = self._throttler.engine
        self.calls = self._throttler.calls
        self._threads = DatabaseThreads()

    async def should_throttle(
        self,
        requested_cost: Money,
        priority: str = "normal",
        *,
        model: str | None = None,
        **payer: Unpack[Payer],
    ) -> ThrottleDecision:
        """See BudgetThrottler.should_throttle."""
        return await self._threads.call(
            self._throttler.should_throttle, requested_cost, priority, model=model, **payer
        )

    async def hold(
        self,
        upper_bound: Money,
        *,
        priority: str = "normal",
        certain: Money = 0,
        minimum: Money | None = None,
        model: str = "",
        wait_seconds: float = 0.0,
        lease_seconds: float | None = None,
        idempotency_key: str | None = None,
        **payer: Unpack[Payer],
    ) -> AsyncHold:
        """See BudgetThrottler.hold."""
        amounts = amounts_of(upper_bound, certain, minimum, model)
        return await self.hold_amounts(
            amounts,
            scopes_of(payer, self._throttler.name),
            priority=priority,
            wait_seconds=wait_seconds,
            lease_seconds=lease_seconds,
            idempotency_key=idempotency_key,
        )

    async def hold_amounts(
        self, amounts: Amounts, scopes: tuple[Scope, ...], **options: Unpack[HoldOptions]
    ) -> AsyncHold:
        """See BudgetThrottler.hold_amounts."""
        request = self._throttler._reservation(amounts, scopes, options)  # noqa: SLF001 - its twin
        wait_seconds = check_wait_seconds(options.get("wait_seconds", 0.0))
        granted = await self.engine.reserve_async(request, wait_seconds)
        return AsyncHold(self.engine, granted, request.bound_nanos, request.lease_micros / 1e6)

    async def hold_call(
        self,
        model: str,
        input_tokens: int,
        max_tokens: int,
        *,
        minimum_max_tokens: int | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncHold:
        """See BudgetThrottler.hold_call."""
        calls, threads = self.calls, self._threads
        wish = await threads.call(calls.wish, model, input_tokens, max_tokens, minimum_max_tokens)
        try:
            held, payer = apart(options)
            scopes = scopes_of(payer, self._throttler.name)
            hold = await self.hold_amounts(wish.amounts, scopes, **held)
        except BudgetExceeded as error:
            error.offers = await threads.call(calls.offers, wish, error.available_nanos)
            raise
        hold.max_tokens = wish.max_tokens_for(hold.bound_nanos)
        return hold

    async def record_usage(
        self,
        cost: Money,
        *,
        priority: str = "normal",
        idempotency_key: str | None = None,
        **payer: Unpack[Payer],
    ) -> None:
        """See BudgetThrottler.record_usage."""
        request = self._throttler._spending(cost, priority, idempotency_key, payer)  # noqa: SLF001
        await self.engine.perform_async(request)

    async def resolve(self, hold_id: str, actual: Money) -> None:
        """See BudgetThrottler.resolve."""
        await self._threads.call(self._throttler.resolve, hold_id, actual)

    async def settle(self, hold_id: str, actual: Money) -> None:
        """See BudgetThrottler.settle."""
        await self._threads.call(self._throttler.settle, hold_id, actual)

    async def release(self, hold_id: str) -> None:
        """See BudgetThrottler.release."""
        await self._threads.call(self._throttler.release, hold_id)

    async def refund(self, hold_id: str, amount: Money) -> None:
        """See BudgetThrottler.refund."""
        await self._threads.call(self._throttler.refund, hold_id, amount)

    async def get_sliding_window_usage(self, minutes: int = 60) -> WindowUsage:
        """See BudgetThrottler.get_sliding_window_usage."""
        return await self._threads.call(self._throttler.get_sliding_window_usage, minutes)

    async def get_budget_summary(self) -> BudgetSummary:
        """See BudgetThrottler.get_budget_summary."""
        return await self._threads.call(self._throttler.get_budget_summary)

    async def close(self) -> None:
        """Close the database and end the threads."""
        await self._threads.call(self._throttler.close)
        self._threads.shutdown()


def _own_budget(
    monthly_budget: Money | None,
    warning_threshold: float | None,
    critical_threshold: float | None,
    options: ThrottlerOptions,
) -> NewBudget | None:
    """Return the throttler's own budget, None where no limit is given."""
    settings = load_settings()
    limit = settings.default_monthly_budget if monthly_budget is None else monthly_budget
    if limit is None:
        return None
    return NewBudget(
        "throttler",
        options.get("name", DEFAULT_THROTTLER),
        to_nanos(limit, field="monthly_budget"),
        settings.warning_threshold if warning_threshold is None else warning_threshold,
        settings.critical_threshold if critical_threshold is None else critical_threshold,
        options.get("time_zone", "UTC"),
        mode=options.get("mode", "strict"),
        critical_ceiling=options.get("critical_ceiling", 0.1),
        overdraft_share=options.get("overdraft_share", 0.01),
    ).check()


def _urgency(where: Landing, cost: int, rank: int) -> tuple[bool, bool, bool, float]:
    """Order budgets by what they have to say: one that refuses comes before a fuller one."""
    terms = where.budget.terms
    enforced = terms.mode in ENFORCED
    refuses = enforced and fit(terms, where.tally, cost, rank) is not Fit.FITS
    return terms.paused, refuses, enforced and where.state == "exceeded", where.share


def _scope_text(scopes: tuple[Scope, ...], model: str) -> str:
    return encode_scopes((*scopes, ("model", model)) if model else scopes)


def _key_of(text: str | None) -> bytes | None:
    if text is None:
        return None
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


__all__ = ["AsyncBudgetThrottler", "BudgetThrottler", "ThrottleDecision", "hold_name"]
