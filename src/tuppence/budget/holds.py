"""A hold as the caller has it: money that is kept for one call until its cost is known."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from tuppence.budget.engine import BudgetEngine
from tuppence.budget.refusals import hold_name
from tuppence.budget.requests import Bill, End, Ending, Extend, Granted
from tuppence.core.money import Money, to_dollars, to_nanos
from tuppence.core.periods import MICROS_PER_SECOND
from tuppence.errors import HoldAlreadyEnded, InvalidInput

HOLD_ID = re.compile(r"h([0-9a-f]{1,16})")


class _HeldMoney:
    """What a hold is, whichever way it is waited for."""

    def __init__(
        self, engine: BudgetEngine, granted: Granted, requested_nanos: int, lease_seconds: float
    ) -> None:
        self._engine = engine
        self._granted = granted
        self._ended = False
        self._lease_ends = time.monotonic() + lease_seconds
        self.requested_nanos = requested_nanos
        """What was asked for."""
        self.max_tokens: int | None = None
        """The `max_tokens` that may be sent, of a hold for a call by model and tokens."""

    @property
    def id(self) -> str:
        """The id under which the hold is known: to `tuppence budget unresolved`, for one."""
        return hold_name(self._granted.hold_id)

    @property
    def is_journaled(self) -> bool:
        """Whether it was given while the database was away, and is not in it yet."""
        journal = self._engine.journal
        return journal is not None and journal.has(self._granted.hold_id)

    @property
    def bound_nanos(self) -> int:
        """What the call may cost: as asked for, or less where less was left and taken."""
        return self._granted.bound_nanos

    @property
    def bound(self) -> float:
        """The same in dollars."""
        return to_dollars(self._granted.bound_nanos)

    @property
    def held_nanos(self) -> int:
        """The most that any budget holds for the call; 0 where no budget covers it."""
        return max((amount for _, amount in self._granted.amounts), default=0)

    @property
    def shadow_refusals(self) -> tuple[str, ...]:
        """Budgets in the mode "shadow" that would have refused the call."""
        return self._granted.shadow_refusals

    def _ending(self, ending: Ending, amount_nanos: int = 0) -> End:
        within = not self._ended and time.monotonic() <= self._lease_ends
        return End(self._granted.hold_id, ending, amount_nanos, within_lease=within)

    def _billed(self, bill: Bill) -> End:
        end = self._ending("unresolved")
        end.bill = bill
        return end

    def _extension(self, seconds: float) -> Extend:
        return Extend(self._granted.hold_id, lease_micros(seconds))


class Hold(_HeldMoney):
    """Money that is held for a call; a context manager.

    Whoever leaves the block without `settle` or `release` leaves the hold *unresolved*: the call
    may have been billed, so it counts at its bound until its true cost is told.
    """

    def settle(self, actual: Money) -> None:
        """Book what the call cost, durably, and give back the rest.

        The true cost is booked whatever the bound was. Raises HoldAlreadyEnded, HoldExpired,
        UnknownHold, DatabaseUnreachable; then nothing was changed.
        """
        self._engine.perform(self._ending("settled", to_nanos(actual, field="actual")))
        self._ended = True

    def settle_bill(self, bill: Bill) -> None:
        """Book a call in the ledger and end the hold by what that says, in one commit.

        Settled at its cost; released where it was booked before; unresolved where it has no price
        or cannot be booked. Raises as `settle`; then `bill.booked` may be durable nevertheless.
        """
        self._engine.perform(self._billed(bill))
        self._ended = True

    def release(self) -> None:
        """Give everything back: the call was not made, or it is certain that it cost nothing."""
        self._engine.perform(self._ending("released"))
        self._ended = True

    def extend(self, seconds: float) -> None:
        """Let the lease run so long from now."""
        self._engine.perform(self._extension(seconds))
        self._lease_ends = time.monotonic() + seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._ended:
            with suppress(HoldAlreadyEnded):  # by its id, or by a call that was interrupted
                self._engine.perform(self._ending("unresolved"))
            self._ended = True


class AsyncHold(_HeldMoney):
    """The same for asyncio; an asynchronous context manager."""

    async def settle(self, actual: Money) -> None:
        """See Hold.settle."""
        await self._engine.perform_async(self._ending("settled", to_nanos(actual, field="actual")))
        self._ended = True

    async def settle_bill(self, bill: Bill) -> None:
        """See Hold.settle_bill."""
        await self._engine.perform_async(self._billed(bill))
        self._ended = True

    async def release(self) -> None:
        """See Hold.release."""
        await self._engine.perform_async(self._ending("released"))
        self._ended = True

    async def extend(self, seconds: float) -> None:
        """See Hold.extend."""
        await self._engine.perform_async(self._extension(seconds))
        self._lease_ends = time.monotonic() + seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._ended:
            with suppress(HoldAlreadyEnded):
                await self._engine.perform_async(self._ending("unresolved"))
            self._ended = True


def lease_micros(seconds: float) -> int:
    """Return a lease in microseconds; raise InvalidInput for one that cannot be."""
    if not 0 < seconds <= 7 * 86_400:
        raise InvalidInput(
            "is not a usable lease",
            field="lease_seconds",
            value=seconds,
            remedy="give a number of seconds above 0 and up to a week",
        )
    return max(int(seconds * MICROS_PER_SECOND), 1)


def check_wait_seconds(wait_seconds: float) -> float:
    """Return a time to wait; raise InvalidInput for one that cannot be."""
    if not 0 <= wait_seconds < float("inf"):
        raise InvalidInput(
            "is not a time to wait",
            field="wait_seconds",
            value=wait_seconds,
            remedy="give a number of seconds, 0 not to wait",
        )
    return wait_seconds


def hold_id_of(name: str) -> int:
    """Return the number of a hold's id; raise InvalidInput for what is none."""
    found = HOLD_ID.fullmatch(str(name))
    number = int(found[1], 16) if found else 0
    if not 0 < number < 2**63:
        raise InvalidInput(
            "is not the id of a hold", field="hold", value=name, remedy="give an id as h100000002"
        )
    return number
