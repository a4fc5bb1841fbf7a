"""Governor: holds money for calls, books what they cost and settles; and its async twin.

A client or a gateway opens a call, sends `call.request`, and ends it in one of three ways: `settle`
with what was used, `release` where nothing was billed, `leave` where nobody knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar, Unpack, cast

from tuppence.budget.engine import BudgetEngine
from tuppence.budget.holds import AsyncHold, Hold
from tuppence.budget.scopes import DEFAULT_THROTTLER, scopes_of
from tuppence.budget.throttler import (
    AsyncBudgetThrottler,
    BudgetThrottler,
    ThrottlerOptions,
    rank_of,
)
from tuppence.core.admission import ENFORCED, room_for
from tuppence.core.usage import MeteredResponse
from tuppence.cost_tracking.budgets import Scope
from tuppence.cost_tracking.ledger import utc_now
from tuppence.errors import (
    BudgetExceeded,
    DatabaseUnreachable,
    HoldAlreadyEnded,
    HoldExpired,
    InvalidInput,
    LedgerError,
)
from tuppence.governing.bookkeeping import Bookkeeper
from tuppence.governing.endpoints import Endpoint
from tuppence.governing.scope import Payment, current_scope
from tuppence.governing.steps import GovernOptions, Prepared, Steps
from tuppence.storage.threads import DatabaseThreads

T = TypeVar("T")
H = TypeVar("H", Hold, AsyncHold)

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class GovernedCall(Generic[H]):
    """A call that money is held for."""

    prepared: Prepared
    hold: H
    cost_nanos: int | None = None
    """What it did cost, once it is settled; None before, and where it has no price."""

    @property
    def request(self) -> dict[str, Any]:
        """What is to be sent."""
        return self.prepared.request


class Governor:
    """Governs calls of threads; the options are those of `GovernOptions`.

    Raises InvalidInput, InvalidMoney, DatabaseUnreachable, SchemaMismatch.
    """

    def __init__(self, **options: Unpack[GovernOptions]) -> None:
        _check_names(options)
        self._throttler = BudgetThrottler(
            options.get("monthly_budget"), **_throttler_options(options)
        )
        self._name = options.get("name", DEFAULT_THROTTLER)
        self._ledger = self._throttler.calls.ledger
        self._bookkeeper = Bookkeeper(self._ledger)
        self._steps = Steps(options, self._throttler.calls, options.get("now", utc_now))

    def open(
        self, endpoint: Endpoint, request: Mapping[str, Any], payment: Payment | None = None
    ) -> GovernedCall[Hold]:
        """Return a call for which money is held in every budget that covers it, durably.

        `payment` is who pays beside what the options say; what the scopes around the caller say by
        default. Raises BudgetExceeded, UnknownPrice, InvalidRequest, DatabaseUnreachable.
        """
        payer = self._steps.payment(current_scope() if payment is None else payment)
        prepared = self._steps.prepare(endpoint, request, payer)
        try:
            hold = self._hold(prepared)
        except BudgetExceeded as error:
            cheaper = self._steps.cheaper(prepared, error)
            if cheaper is None:
                raise
            prepared, hold = cheaper, self._hold(cheaper)
        prepared = prepared.fitted(prepared.wish.max_tokens_for(hold.bound_nanos))
        self._steps.sent(prepared)
        return GovernedCall(prepared, hold)

    def settle(self, call: GovernedCall[Hold], metered: MeteredResponse) -> None:
        """Book what a call used, once, and settle its hold: both durable on return.

        What has no price leaves the hold unresolved. Raises DatabaseUnreachable; in the mode
        "journal" the hold is left instead.
        """
        try:
            booked = self._bookkeeper.book(self._steps.bill(call.prepared, metered, call.hold.id))
        except DatabaseUnreachable:
            self.leave(call)
            if not self._steps.journals:
                raise
            return
        except BaseException:
            self.leave(call)
            raise
        if not booked.calls:  # this answer is paid for by whoever booked it first
            self._end_hold(call.hold, None)
        elif booked.measures.unpriced_count:
            self.leave(call)
        else:
            call.cost_nanos = booked.measures.cost_nanos
            self._end_hold(call.hold, _dollars(call.cost_nanos))

    def book_answers(self, answers: Sequence[MeteredResponse], provider: str) -> None:
        """Book answers that nothing was held for, such as those of a batch, each once."""
        if answers:
            calls = self._steps.bills(answers, provider, current_scope())
            self._ledger.book(calls, on_change="amend")

    def release(self, call: GovernedCall[Hold]) -> None:
        """Give back what is held: nothing was billed.

        Without the database the hold stays; this raises nothing, so as not to hide why.
        """
        self._steps.unanswered(call.prepared)
        try:
            self._end_hold(call.hold, None)
        except LedgerError:
            _logger.warning(_STAYS, call.hold.id, exc_info=True)

    def leave(self, call: GovernedCall[Hold]) -> None:
        """Let the hold count at its bound until somebody resolves it: the cost is not known.

        Without the database its lease runs out, which comes to the same; this raises nothing.
        """
        _logger.warning(_UNRESOLVED, call.hold.id, call.prepared.model, call.hold.id)
        try:
            call.hold.__exit__(None, None, None)
        except LedgerError:
            _logger.warning(_STAYS, call.hold.id, exc_info=True)

    def budget_left_nanos(self, call: GovernedCall[Hold]) -> int | None:
        """Return the least that a budget which covers a call has left; None where none does.

        Budgets that only watch do not count. Raises DatabaseUnreachable.
        """
        return _least_left(self._throttler.engine, self._scopes(call.prepared), call.prepared)

    def close(self) -> None:
        """Close the database."""
        self._bookkeeper.close()
        self._throttler.close()

    def _scopes(self, prepared: Prepared) -> tuple[Scope, ...]:
        return scopes_of(prepared.payment.payer, self._name)

    def _hold(self, prepared: Prepared) -> Hold:
        return self._throttler.hold(
            prepared.wish.upper_bound,
            **prepared.wish.amounts,
            priority=prepared.payment.priority,
            wait_seconds=self._steps.wait_seconds,
            **prepared.payment.payer,
        )

    def _end_hold(self, hold: Hold, cost: Decimal | None) -> None:
        """Settle a hold at a cost, or release it; after its lease, resolve it."""
        try:
            if cost is None:
                hold.release()
            else:
                hold.settle(cost)
        except HoldExpired:
            hold.__exit__(None, None, None)
            self._throttler.resolve(hold.id, cost or Decimal(0))
        except HoldAlreadyEnded:  # by an operator, who resolved it when its lease had run out
            _logger.warning(_ENDED, hold.id, exc_info=True)


class AsyncGovernor:
    """The same for asyncio: every method as in Governor, to be awaited.

    Once an end of a call has begun it is carried out, even where the caller is cancelled.
    """

    def __init__(self, **options: Unpack[GovernOptions]) -> None:
        _check_names(options)
        self._throttler = AsyncBudgetThrottler(
            options.get("monthly_budget"), **_throttler_options(options)
        )
        self._name = options.get("name", DEFAULT_THROTTLER)
        self._ledger = self._throttler.calls.ledger
        self._bookkeeper = Bookkeeper(self._ledger)
        self._steps = Steps(options, self._throttler.calls, options.get("now", utc_now))
        self._threads = DatabaseThreads()
        self._ends: set[asyncio.Task[None]] = set()

    async def open(
        self, endpoint: Endpoint, request: Mapping[str, Any], payment: Payment | None = None
    ) -> GovernedCall[AsyncHold]:
        """See Governor.open."""
        payer = self._steps.payment(current_scope() if payment is None else payment)
        prepared = await self._threads.call(self._steps.prepare, endpoint, request, payer)
        try:
            hold = await self._hold(prepared)
        except BudgetExceeded as error:
            cheaper = await self._threads.call(self._steps.cheaper, prepared, error)
            if cheaper is None:
                raise
            prepared, hold = cheaper, await self._hold(cheaper)
        prepared = prepared.fitted(prepared.wish.max_tokens_for(hold.bound_nanos))
        self._steps.sent(prepared)
        return GovernedCall(prepared, hold)

    async def settle(self, call: GovernedCall[AsyncHold], metered: MeteredResponse) -> None:
        """See Governor.settle."""
        await self._carry_out(self._settle(call, metered))

    async def book_answers(self, answers: Sequence[MeteredResponse], provider: str) -> None:
        """See Governor.book_answers."""
        if answers:
            calls = self._steps.bills(answers, provider, current_scope())
            await self._threads.call(self._ledger.book, calls, on_change="amend")

    async def release(self, call: GovernedCall[AsyncHold]) -> None:
        """See Governor.release."""
        self._steps.unanswered(call.prepared)
        try:
            await self._carry_out(self._end_hold(call.hold, None))
        except LedgerError:
            _logger.warning(_STAYS, call.hold.id, exc_info=True)

    async def leave(self, call: GovernedCall[AsyncHold]) -> None:
        """See Governor.leave."""
        _logger.warning(_UNRESOLVED, call.hold.id, call.prepared.model, call.hold.id)
        try:
            await self._carry_out(call.hold.__aexit__(None, None, None))
        except LedgerError:
            _logger.warning(_STAYS, call.hold.id, exc_info=True)

    async def budget_left_nanos(self, call: GovernedCall[AsyncHold]) -> int | None:
        """See Governor.budget_left_nanos."""
        prepared = call.prepared
        return await self._threads.call(
            _least_left, self._throttler.engine, self._scopes(prepared), prepared
        )

    async def close(self) -> None:
        """Wait for what is being settled, close the database and end the threads."""
        if self._ends:
            await asyncio.wait(self._ends)
        await self._threads.call(self._bookkeeper.close)
        await self._throttler.close()
        self._threads.shutdown()

    async def _settle(self, call: GovernedCall[AsyncHold], metered: MeteredResponse) -> None:
        try:
            booked = await self._bookkeeper.book_async(
                self._steps.bill(call.prepared, metered, call.hold.id)
            )
        except DatabaseUnreachable:
            await self.leave(call)
            if not self._steps.journals:
                raise
            return
        except BaseException:
            await self.leave(call)
            raise
        if not booked.calls:
            await self._end_hold(call.hold, None)
        elif booked.measures.unpriced_count:
            await self.leave(call)
        else:
            call.cost_nanos = booked.measures.cost_nanos
            await self._end_hold(call.hold, _dollars(call.cost_nanos))

    def _scopes(self, prepared: Prepared) -> tuple[Scope, ...]:
        return scopes_of(prepared.payment.payer, self._name)

    async def _hold(self, prepared: Prepared) -> AsyncHold:
        return await self._throttler.hold(
            prepared.wish.upper_bound,
            **prepared.wish.amounts,
            priority=prepared.payment.priority,
            wait_seconds=self._steps.wait_seconds,
            **prepared.payment.payer,
        )

    async def _end_hold(self, hold: AsyncHold, cost: Decimal | None) -> None:
        try:
            if cost is None:
                await hold.release()
            else:
                await hold.settle(cost)
        except HoldExpired:
            await hold.__aexit__(None, None, None)
            await self._throttler.resolve(hold.id, cost or Decimal(0))
        except HoldAlreadyEnded:
            _logger.warning(_ENDED, hold.id, exc_info=True)

    async def _carry_out(self, end: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(end)
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
        await asyncio.shield(task)


_UNRESOLVED = (
    "hold %s for %s counts at its bound: what the call cost is not known; "
    "book it with: tuppence budget unresolved --settle %s DOLLARS"
)


_ENDED = "hold %s was ended by somebody else; its call is booked all the same"
_STAYS = "hold %s could not be ended, and stays until its lease runs out"


def _least_left(engine: BudgetEngine, scopes: tuple[Scope, ...], prepared: Prepared) -> int | None:
    rank = rank_of(prepared.payment.priority)
    rooms = [
        0 if budget.terms.paused else max(room_for(budget.terms, tally, rank), 0)
        for budget, tally in engine.view(scopes)
        if budget.terms.mode in ENFORCED
    ]
    return min(rooms, default=None)


def _dollars(nanos: int) -> Decimal:
    return Decimal(nanos).scaleb(-9)


def _throttler_options(options: GovernOptions) -> ThrottlerOptions:
    known = ThrottlerOptions.__annotations__
    chosen = {name: value for name, value in options.items() if name in known}
    return cast("ThrottlerOptions", chosen)


def _check_names(options: Mapping[str, Any]) -> None:
    known = GovernOptions.__annotations__
    for name in options:
        if name not in known:
            raise InvalidInput(
                "is no option of governed calls",
                field=name,
                value=options[name],
                remedy=f"check the spelling; there are {', '.join(known)}",
            )
