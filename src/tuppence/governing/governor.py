"""Governor: holds money for calls, books what they cost and settles; and its async twin.

A client or a gateway opens a call, sends `call.request`, and ends it in one of three ways: `settle`
with what was used, `release` where nothing was billed, `leave` where nobody knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar, Unpack, cast

from tuppence.budget.calls import Amounts
from tuppence.budget.hold_rows import settled_nanos
from tuppence.budget.holds import AsyncHold, Hold, hold_id_of
from tuppence.budget.requests import Bill
from tuppence.budget.scopes import DEFAULT_THROTTLER
from tuppence.budget.throttler import (
    AsyncBudgetThrottler,
    BudgetThrottler,
    ThrottlerOptions,
)
from tuppence.core.usage import MeteredResponse
from tuppence.cost_tracking.ledger import utc_now
from tuppence.errors import (
    BudgetExceeded,
    DatabaseUnreachable,
    HoldAlreadyEnded,
    HoldExpired,
    InvalidInput,
    LedgerError,
    TuppenceError,
    UnknownPrice,
)
from tuppence.governing.endpoints import Endpoint
from tuppence.governing.scope import Payment, current_scope
from tuppence.governing.steps import (
    LONGEST_BOOK_AGE_SECONDS,
    GovernOptions,
    Prepared,
    Steps,
)
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
    left_nanos: int | None = None
    """The least that a budget which covers it had left then; None where no budget is enforced."""
    is_left: bool = False
    """Whether its hold counts at its bound for good; then nothing else may end it."""

    @property
    def request(self) -> dict[str, Any]:
        """What is to be sent."""
        return self.prepared.request

    def settled_by(self, bill: Bill) -> None:
        """Take over what was booked; raise why the answer could not be."""
        self.cost_nanos, self.left_nanos = bill.cost_nanos, bill.left_nanos
        self.is_left = bill.is_unresolved
        why = _UNRESOLVED if isinstance(bill.booked, TuppenceError) else _UNPRICED
        if self.is_left:
            _logger.warning(why, self.hold.id, self.prepared.model, self.hold.id)
        if isinstance(bill.booked, TuppenceError):
            raise bill.booked


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

    def attempt_again(self, call: GovernedCall[Hold]) -> None:
        """Hold the same for another attempt: what the last one cost is not known.

        Raises BudgetExceeded, DatabaseUnreachable; then there must be no other attempt.
        """
        self.leave(call)
        call.hold = self._hold(call.prepared, call.hold.bound_nanos)
        call.is_left = False

    def check_batch(self, provider: str, requests: Sequence[Mapping[str, Any]]) -> None:
        """Raise BudgetExceeded where a batch of requests would not fit; nothing stays held.

        Of a batch whose requests are not known, where nothing at all is left. Raises UnknownPrice,
        InvalidRequest, DatabaseUnreachable.
        """
        payer = self._steps.payment(current_scope())
        wish = self._steps.batch_wish(provider, requests)
        scopes = payer.scopes(self._name)
        self._throttler.hold_amounts(wish, scopes, priority=payer.priority).release()

    def settle(self, call: GovernedCall[Hold], metered: MeteredResponse) -> None:
        """Book what a call used, once, and settle its hold: both durable on return.

        What has no price leaves the hold unresolved. Raises DatabaseUnreachable; in the mode
        "journal" the hold is left instead.
        """
        try:
            bill = Bill(self._steps.bill(call.prepared, metered, call.hold.id))
            self._settle_bill(call, bill)
        except DatabaseUnreachable:
            self.leave(call)
            if not self._steps.journals:
                raise
        except BaseException:
            self.leave(call)
            raise
        else:
            call.settled_by(bill)

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
        if call.is_left:
            return
        try:
            self._end_hold(call, None)
        except LedgerError:
            _logger.warning(_STAYS, call.hold.id, exc_info=True)

    def leave(self, call: GovernedCall[Hold], why: str = "") -> None:
        """Let the hold count at its bound until somebody resolves it: the cost is not known.

        Without the database its lease runs out, which comes to the same; this raises nothing.
        """
        if call.is_left:
            return
        call.is_left = True
        _logger.warning(why or _UNRESOLVED, call.hold.id, call.prepared.model, call.hold.id)
        try:
            call.hold.__exit__(None, None, None)
        except LedgerError:
            _logger.warning(_STAYS, call.hold.id, exc_info=True)

    def close(self) -> None:
        """Close the database."""
        self._throttler.close()

    def _settle_bill(self, call: GovernedCall[Hold], bill: Bill) -> None:
        if call.hold.is_journaled:
            self._settle_journaled(call, bill)
            return
        try:
            call.hold.settle_bill(bill)
        except HoldExpired:
            self._end_hold(call, bill.cost_nanos)
        except HoldAlreadyEnded:  # by an operator, who resolved it when its lease had run out
            _logger.warning(_ENDED, call.hold.id, exc_info=True)
            if not bill.is_unresolved:
                self._charge_difference(call, bill.cost_nanos or 0)

    def _settle_journaled(self, call: GovernedCall[Hold], bill: Bill) -> None:
        """Book a call, then end its hold, which is not in the database but in the journal."""
        bill.booked = self._ledger.book([bill.call], on_change="amend")
        if bill.is_unresolved:
            call.hold.__exit__(None, None, None)
        else:
            self._end_hold(call, bill.cost_nanos)

    def _hold(self, prepared: Prepared, bound_nanos: int | None = None) -> Hold:
        return self._throttler.hold_amounts(
            _amounts(prepared, bound_nanos),
            prepared.payment.scopes(self._name),
            priority=prepared.payment.priority,
            wait_seconds=self._steps.wait_seconds,
        )

    def _end_hold(self, call: GovernedCall[Hold], cost_nanos: int | None) -> None:
        """Settle a hold at a cost, or release it; after its lease, resolve it."""
        hold, cost = call.hold, cost_nanos or 0
        try:
            try:
                if cost_nanos is None:
                    hold.release()
                else:
                    hold.settle(_dollars(cost))
            except HoldExpired:
                hold.__exit__(None, None, None)
                self._throttler.resolve(hold.id, _dollars(cost))
        except HoldAlreadyEnded:  # by an operator, who resolved it when its lease had run out
            _logger.warning(_ENDED, hold.id, exc_info=True)
            self._charge_difference(call, cost)

    def _charge_difference(self, call: GovernedCall[Hold], cost_nanos: int) -> None:
        """Charge what a call cost beyond what its hold was ended at, or give back what it did not.

        Only the provider's counts are the truth, whatever an operator took it for.
        """
        hold, payment = call.hold, call.prepared.payment
        difference = cost_nanos - self._ledger.database.read(settled_nanos, hold_id_of(hold.id))
        if difference > 0:
            self._throttler.record_usage(
                _dollars(difference),
                priority=payment.priority,
                idempotency_key=f"difference of {hold.id}",
                **payment.payer,
            )
        elif difference < 0:
            self._throttler.refund(hold.id, _dollars(-difference))


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
        self._steps = Steps(
            options,
            self._throttler.calls,
            options.get("now", utc_now),
            LONGEST_BOOK_AGE_SECONDS,
        )
        self._threads = DatabaseThreads()
        self._ends: set[asyncio.Task[None]] = set()
        self._refreshing: asyncio.Task[None] | None = None

    async def open(
        self, endpoint: Endpoint, request: Mapping[str, Any], payment: Payment | None = None
    ) -> GovernedCall[AsyncHold]:
        """See Governor.open."""
        payer = self._steps.payment(current_scope() if payment is None else payment)
        prepared = await self._prepare(endpoint, request, payer)
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

    async def _prepare(
        self, endpoint: Endpoint, request: Mapping[str, Any], payer: Payment
    ) -> Prepared:
        if self._steps.is_quick(request):
            self._refresh_prices()
            with suppress(UnknownPrice):  # the thread may find that it has just been set
                return self._steps.prepare_quickly(endpoint, request, payer)
        return await self._threads.call(self._steps.prepare, endpoint, request, payer)

    def _refresh_prices(self) -> None:
        """Have the prices read again, while calls go on by those of a moment ago."""
        if not self._steps.is_aging or (self._refreshing and not self._refreshing.done()):
            return
        refreshing = self._threads.call(self._steps.refresh)
        self._refreshing = asyncio.get_running_loop().create_task(refreshing)

    async def attempt_again(self, call: GovernedCall[AsyncHold]) -> None:
        """See Governor.attempt_again."""
        await self.leave(call)
        call.hold = await self._hold(call.prepared, call.hold.bound_nanos)
        call.is_left = False

    async def check_batch(self, provider: str, requests: Sequence[Mapping[str, Any]]) -> None:
        """See Governor.check_batch."""
        payer = self._steps.payment(current_scope())
        wish = await self._threads.call(self._steps.batch_wish, provider, requests)
        scopes = payer.scopes(self._name)
        hold = await self._throttler.hold_amounts(wish, scopes, priority=payer.priority)
        await hold.release()

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
        if call.is_left:
            return
        try:
            await self._carry_out(self._end_hold(call, None))
        except LedgerError:
            _logger.warning(_STAYS, call.hold.id, exc_info=True)

    async def leave(self, call: GovernedCall[AsyncHold], why: str = "") -> None:
        """See Governor.leave."""
        if call.is_left:
            return
        call.is_left = True
        _logger.warning(why or _UNRESOLVED, call.hold.id, call.prepared.model, call.hold.id)
        try:
            await self._carry_out(call.hold.__aexit__(None, None, None))
        except LedgerError:
            _logger.warning(_STAYS, call.hold.id, exc_info=True)

    async def close(self) -> None:
        """Wait for what is being settled, close the database and end the threads."""
        if self._ends:
            await asyncio.wait(self._ends)
        if self._refreshing is not None:
            await self._refreshing
        await self._throttler.close()
        self._threads.shutdown()

    async def _settle(self, call: GovernedCall[AsyncHold], metered: MeteredResponse) -> None:
        try:
            bill = Bill(self._steps.bill(call.prepared, metered, call.hold.id))
            await self._settle_bill(call, bill)
        except DatabaseUnreachable:
            await self.leave(call)
            if not self._steps.journals:
                raise
        except BaseException:
            await self.leave(call)
            raise
        else:
            call.settled_by(bill)

    async def _settle_bill(self, call: GovernedCall[AsyncHold], bill: Bill) -> None:
        if call.hold.is_journaled:
            await self._settle_journaled(call, bill)
            return
        try:
            await call.hold.settle_bill(bill)
        except HoldExpired:
            await self._end_hold(call, bill.cost_nanos)
        except HoldAlreadyEnded:
            _logger.warning(_ENDED, call.hold.id, exc_info=True)
            if not bill.is_unresolved:
                await self._charge_difference(call, bill.cost_nanos or 0)

    async def _settle_journaled(self, call: GovernedCall[AsyncHold], bill: Bill) -> None:
        bill.booked = await self._threads.call(self._ledger.book, [bill.call], on_change="amend")
        if bill.is_unresolved:
            await call.hold.__aexit__(None, None, None)
        else:
            await self._end_hold(call, bill.cost_nanos)

    async def _hold(self, prepared: Prepared, bound_nanos: int | None = None) -> AsyncHold:
        return await self._throttler.hold_amounts(
            _amounts(prepared, bound_nanos),
            prepared.payment.scopes(self._name),
            priority=prepared.payment.priority,
            wait_seconds=self._steps.wait_seconds,
        )

    async def _end_hold(self, call: GovernedCall[AsyncHold], cost_nanos: int | None) -> None:
        hold, cost = call.hold, cost_nanos or 0
        try:
            try:
                if cost_nanos is None:
                    await hold.release()
                else:
                    await hold.settle(_dollars(cost))
            except HoldExpired:
                await hold.__aexit__(None, None, None)
                await self._throttler.resolve(hold.id, _dollars(cost))
        except HoldAlreadyEnded:
            _logger.warning(_ENDED, hold.id, exc_info=True)
            await self._charge_difference(call, cost)

    async def _charge_difference(self, call: GovernedCall[AsyncHold], cost_nanos: int) -> None:
        hold, payment = call.hold, call.prepared.payment
        read = self._ledger.database.read
        ended_at = await self._threads.call(read, settled_nanos, hold_id_of(hold.id))
        difference = cost_nanos - ended_at
        if difference > 0:
            await self._throttler.record_usage(
                _dollars(difference),
                priority=payment.priority,
                idempotency_key=f"difference of {hold.id}",
                **payment.payer,
            )
        elif difference < 0:
            await self._throttler.refund(hold.id, _dollars(-difference))

    async def _carry_out(self, end: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(end)
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
        await asyncio.shield(task)


_UNRESOLVED = (
    "hold %s for %s counts at its bound: what the call cost is not known; "
    "book it with: tuppence budget unresolved --settle %s DOLLARS"
)

_UNPRICED = (
    "hold %s for %s counts at its bound: the answer is booked, without a price. Set one and reprice"
    " (which charges the call), then: tuppence budget unresolved --settle %s 0"
)
_ENDED = "hold %s was ended by somebody else; its call is booked all the same"
_STAYS = "hold %s could not be ended, and stays until its lease runs out"


def _amounts(prepared: Prepared, bound_nanos: int | None) -> Amounts:
    """Return what to hold: what the call can cost, or again what was held for it."""
    amounts = prepared.wish.amounts
    if bound_nanos is None:
        return amounts
    return amounts._replace(bound_nanos=bound_nanos, minimum_nanos=bound_nanos)


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
