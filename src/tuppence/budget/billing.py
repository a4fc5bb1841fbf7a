"""Booking what calls cost in the transaction that ends their holds: one commit for both."""

from __future__ import annotations

from collections.abc import Sequence

from tuppence.budget.requests import Bill, End, Request
from tuppence.cost_tracking.booking import Booked
from tuppence.cost_tracking.dictionary import KnownIds
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import TuppenceError
from tuppence.storage.database import Transaction


class Billing:
    """The bills of one batch, within one attempt at its transaction."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._ends = [(one, one.bill) for one in requests if isinstance(one, End) and one.bill]
        self._found: KnownIds = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to book."""
        return not self._ends

    def carry_out(self, tx: Transaction, ledger: Ledger) -> None:
        """Book all bills, and let each decide how its hold ends."""
        if not self._ends:
            return
        calls = [bill.call for _, bill in self._ends]
        booked, self._found = ledger.book_each(tx, calls)
        for (end, bill), one in zip(self._ends, booked, strict=True):
            if not (end.again and _was_left(bill, one)):
                bill.booked = one
                _decide(end, bill)

    def remember(self, ledger: Ledger) -> None:
        """Keep the ids that were found; the transaction must be durable."""
        ledger.remember(self._found)


def _was_left(bill: Bill, now: Booked | TuppenceError) -> bool:
    """Tell whether an attempt before left the hold unresolved and may be what booked the call."""
    is_known = isinstance(now, Booked) and not now.calls
    return is_known and bill.booked is not None and bill.is_unresolved


def _decide(end: End, bill: Bill) -> None:
    """Settle at what is booked; what another booking has paid for is released."""
    cost = bill.cost_nanos
    end.amount_nanos = cost or 0
    if bill.is_unresolved:
        end.ending = "unresolved"
    else:
        end.ending = "released" if cost is None else "settled"
