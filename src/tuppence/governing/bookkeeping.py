"""Bookings of many calls at once share a commit, as holds and settlements do.

Each commit waits for the disk, and a ledger has few of them per second; so whoever comes while one
is under way is booked with the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuppence.budget.group_commit import GroupCommit
from tuppence.budget.hold_rows import read_holds
from tuppence.budget.holds import hold_id_of
from tuppence.cost_tracking.booking import Booked, Call
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import TuppenceError
from tuppence.storage.database import Database


class Bookkeeper:
    """Books single calls, those that wait together in one transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._group: GroupCommit[Call, Booked | TuppenceError] = GroupCommit(self._commit)

    def book(self, call: Call) -> Booked:
        """Book a call once, durably; what was booked of it with less output is amended.

        Raises InvalidUsage for what cannot be booked, DatabaseUnreachable.
        """
        return _raised(self._group.submit(call))

    async def book_async(self, call: Call) -> Booked:
        """Do the same from a coroutine."""
        return _raised(await self._group.submit_async(call))

    def close(self) -> None:
        """End the thread that books for coroutines, when it has booked what waits."""
        self._group.close()

    def _commit(self, calls: Sequence[Call]) -> Sequence[Booked | TuppenceError]:
        if len(calls) == 1:
            return self._ledger.book_each(calls)
        try:
            return self._ledger.book_each(calls)
        except TuppenceError:  # of one of them: the others must not suffer
            return [self._book_alone(call) for call in calls]

    def _book_alone(self, call: Call) -> Booked | TuppenceError:
        try:
            (booked,) = self._ledger.book_each([call])
        except TuppenceError as error:
            return error
        return booked


def _raised(answer: Booked | TuppenceError) -> Booked:
    if isinstance(answer, TuppenceError):
        raise answer
    return answer


def settled_nanos(database: Database, hold_id: str) -> int:
    """Return what an ended hold was settled at, 0 where it was released."""
    number = hold_id_of(hold_id)
    hold = database.read(read_holds, [number]).get(number)
    return 0 if hold is None else hold.settled_nanos or 0
