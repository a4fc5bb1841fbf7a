"""The engine that shares slices through Redis: one exchange decides, SQL stays the truth.

A call's money is taken from a slice, which SQL holds already; its settlement is durable in SQL as
ever. Without Redis every call goes the way of SQL, at once (docs/explanation/redis.md).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime

from tuppence.adapters.redis import RedisLostError
from tuppence.budget.batch import Batch
from tuppence.budget.claims import Claims, Cover, Covers, set_name
from tuppence.budget.engine import BudgetEngine
from tuppence.budget.requests import Answer, End, Extend, Granted, OnSlice, Request, Reserve
from tuppence.budget.shared_slices import SharedSlices, Taken
from tuppence.budget.slices import (
    Adopt,
    Claim,
    Draw,
    Drawn,
    EndClaim,
    GiveBack,
    Join,
    Leave,
    Retire,
    SliceEndedError,
    SlicingBatch,
)
from tuppence.core.periods import END_OF_TIME_MICROS, MICROS_PER_SECOND
from tuppence.errors import BudgetExceeded, DatabaseUnreachable, HoldError, LedgerError
from tuppence.storage.database import Database, Transaction
from tuppence.storage.forks import forks

TICK_SECONDS = 0.25
"""How often is looked after slices, changed budgets, and a Redis that was lost."""
REAP_AFTER_MICROS = 5 * MICROS_PER_SECOND
"""How long after a slice's time its processes have to leave it themselves."""


class SharedBudgetEngine(BudgetEngine):
    """Carries out what callers ask of the budgets, together with other processes."""

    _batch: type[Batch] = SlicingBatch

    def __init__(self, database: Database, now: Callable[[], datetime], redis_url: str) -> None:
        super().__init__(database, now)
        self._slices = SharedSlices(redis_url)
        self._claims = Claims()
        self._covers = Covers(database)
        self._lost: list[tuple[int, str]] = []
        self._doubtful_slices: list[int] = []
        self._start_lock = threading.Lock()
        self._generation = -1
        self._stop = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def shares(self) -> bool:
        """Whether calls are decided on in Redis now."""
        return self._slices.ready

    def reserve(self, request: Reserve, wait_seconds: float = 0.0) -> Granted:
        """Hold money from a slice; without one that has enough, draw one, or go the way of SQL."""
        cover = self._cover_of(request)
        if cover is None:
            return super().reserve(request, wait_seconds)
        taken = self._take(request, cover)
        granted = self._granted(request, cover, taken)
        if granted is not None:
            return granted
        try:
            return super().reserve(self._draw(request, taken), wait_seconds)
        except BudgetExceeded:
            if wait_seconds:
                raise
            taken = self._take(request, cover)  # a slice may have been put in meanwhile
            granted = self._granted(request, cover, taken)
            if granted is None and not taken.rests:
                raise
        return granted or super().reserve(self._draw(request, taken))

    async def reserve_async(self, request: Reserve, wait_seconds: float = 0.0) -> Granted:
        """Do the same from a coroutine."""
        cover = self._cover_of(request)
        if cover is None:
            return await super().reserve_async(request, wait_seconds)
        taken = await self._take_async(request, cover)
        granted = await self._granted_async(request, cover, taken)
        if granted is not None:
            return granted
        try:
            return await super().reserve_async(self._draw(request, taken), wait_seconds)
        except BudgetExceeded:
            if wait_seconds:
                raise
            taken = await self._take_async(request, cover)
            granted = await self._granted_async(request, cover, taken)
            if granted is None and not taken.rests:
                raise
        return granted or await super().reserve_async(self._draw(request, taken))

    def perform(self, request: Request) -> Answer:
        """Carry out one request durably; a call on a slice is ended together with its part of it.

        Raises what BudgetEngine.perform raises.
        """
        claim = self._claim_of(request)
        if claim is None:
            return super().perform(request)
        if isinstance(request, End):
            try:
                answer = super().perform(EndClaim.of(claim, request))
            except HoldError:  # then it has a hold of its own: nothing else refuses to end it
                self._ended(claim)
                raise
            self._ended(claim)
            return answer
        super().perform(EndClaim.adopt(claim))
        self._ended(claim)
        return super().perform(request)

    async def perform_async(self, request: Request) -> Answer:
        """Do the same from a coroutine."""
        claim = self._claim_of(request)
        if claim is None:
            return await super().perform_async(request)
        if isinstance(request, End):
            try:
                answer = await super().perform_async(EndClaim.of(claim, request))
            except HoldError:
                self._ended(claim)
                raise
            self._ended(claim)
            return answer
        await super().perform_async(EndClaim.adopt(claim))
        self._ended(claim)
        return await super().perform_async(request)

    def close(self) -> None:
        """Leave all slices, then end the threads."""
        self._stop.set()
        if self._keeper is not None and self._generation == forks():
            self._keeper.join()
            with suppress(LedgerError):
                self._leave_slices(END_OF_TIME_MICROS)
        self._slices.close()
        super().close()

    def _cover_of(self, request: Reserve) -> Cover | None:
        """Return what covers a call, None where it has to go the way of SQL."""
        if self._generation != forks():
            self._start()
        return self._covers.of(request, self.now_micros()) if self._slices.ready else None

    def _start(self) -> None:
        with self._start_lock:
            if self._generation == forks():
                return
            self._claims.forget()
            self.new_id()  # registers the process, which gives a new ledger its name
            self._slices.ledger = self.database.read(_ledger_name)
            self._slices.connect()
            self._keeper = threading.Thread(target=self._keep, name="tuppence-slices", daemon=True)
            self._keeper.start()
            self._generation = forks()

    def _take(self, request: Reserve, cover: Cover) -> Taken:
        try:
            return self._slices.take(self._slices.taking(request, cover.keys, self.now_micros()))
        except RedisLostError:
            return self._lost_with(request, cover)

    async def _take_async(self, request: Reserve, cover: Cover) -> Taken:
        command = self._slices.taking(request, cover.keys, self.now_micros())
        try:
            return await self._slices.take_async(command)
        except RedisLostError:
            return self._lost_with(request, cover)

    def _lost_with(self, request: Reserve, cover: Cover) -> Taken:
        """Remember a call that Redis may have given money: the call asks elsewhere."""
        self._lost.append((request.hold_id, set_name(cover.keys)))
        return Taken(lost=True)

    def _granted(self, request: Reserve, cover: Cover, taken: Taken) -> Granted | None:
        """Return a call's money where it was taken from a slice that SQL still holds."""
        if not taken.slice_id:
            return None
        granted = self._accept(request, cover, taken)
        if granted is None:
            with suppress(SliceEndedError):
                self.perform(Join(taken.slice_id))
                self._joined(cover, taken)
                granted = self._accept(request, cover, taken)
        if granted is None:
            self._drop(request, cover, taken)
        return granted

    async def _granted_async(self, request: Reserve, cover: Cover, taken: Taken) -> Granted | None:
        if not taken.slice_id:
            return None
        granted = self._accept(request, cover, taken)
        if granted is None:
            with suppress(SliceEndedError):
                await self.perform_async(Join(taken.slice_id))
                self._joined(cover, taken)
                granted = self._accept(request, cover, taken)
        if granted is None:
            self._drop(request, cover, taken)
        return granted

    def _joined(self, cover: Cover, taken: Taken) -> None:
        """Remember the slice; where another thread has joined it too, the process counts once."""
        name = set_name(cover.keys)
        if not self._claims.join(taken.slice_id, name, taken.until_micros):
            self._group.submit_later(Leave(taken.slice_id))

    def _draw(self, request: Reserve, taken: Taken) -> Reserve:
        """Return the request for a slice; what was too little goes back to the budgets first."""
        if taken.lost:
            return request
        for slice_id, left in taken.rests:
            self._group.submit_later(GiveBack(slice_id, left))
        values = {one.name: getattr(request, one.name) for one in fields(request)}
        return Draw(**values, slice_id=self.new_id())

    def _accept(self, request: Reserve, cover: Cover, taken: Taken) -> Granted | None:
        """Remember a call that has its money; None where the process is not on that slice."""
        now = self.now_micros()
        claim = Claim(
            request.hold_id,
            taken.slice_id,
            request.bound_nanos,
            request.priority,
            now + request.lease_micros,
            request.certain_nanos,
            request.scope_text,
            now,
        )
        if not self._claims.add(claim):
            return None
        amounts = tuple((key, request.bound_nanos) for key in cover.keys)
        return Granted(request.hold_id, request.bound_nanos, amounts, claim.expires_at_micros)

    def _drop(self, request: Reserve, cover: Cover, taken: Taken) -> None:
        name = set_name(cover.keys)
        self._slices.drop(request.hold_id, taken.slice_id, taken.until_micros, name)

    def _claim_of(self, request: Request) -> Claim | None:
        if isinstance(request, End | Extend) and not isinstance(request, EndClaim):
            return self._claims.get(request.hold_id)
        return None

    def _ended(self, claim: Claim) -> None:
        """Forget a call whose row is durable."""
        name = self._claims.remove(claim)
        if name is not None:
            self._slices.end(claim.hold_id, name)

    def _commit(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """Commit, then put the slices that were drawn into Redis."""
        try:
            answers = super()._commit(requests)
        except DatabaseUnreachable:
            self._doubtful_slices += [one.slice_id for one in requests if isinstance(one, Draw)]
            raise
        drawn: dict[int, list[tuple[Draw, Drawn]]] = {}
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(request, Draw) and isinstance(answer, Drawn):
                drawn.setdefault(answer.part.slice_id, []).append((request, answer))
        for calls in drawn.values():
            self._put(calls)
        return answers

    def _put(self, calls: Sequence[tuple[Draw, Drawn]]) -> None:
        """Remember the calls that a slice was drawn for, and share what is left of it."""
        part = calls[0][1].part
        name = set_name(key for key, _ in calls[0][1].amounts)
        self._claims.join(part.slice_id, name, part.until_micros)
        claims = [
            Claim(
                answer.hold_id,
                part.slice_id,
                answer.bound_nanos,
                request.priority,
                answer.expires_at_micros,
                request.certain_nanos,
                request.scope_text,
                part.row.created_at_micros,
            )
            for request, answer in calls
        ]
        for claim in claims:
            self._claims.add(claim)
        # Where Redis is lost now, it may have the slice: it stays held until its time is over.
        with suppress(RedisLostError):
            self._slices.put(part, name, claims)

    def _keep(self) -> None:
        """Look after slices until the engine is closed."""
        while not self._stop.wait(TICK_SECONDS):
            with suppress(LedgerError):  # the database is away: the next time will do
                self._tick()

    def _tick(self) -> None:
        self._covers.refresh()
        self._leave_slices(self.now_micros())
        doubtful, self._doubtful_slices = self._doubtful_slices, []
        for slice_id in doubtful:
            self._perform_on_slice(Leave(slice_id))
        if not self._slices.ready and not self._slices.connect():
            return
        lost, self._lost = self._lost, []
        for hold_id, name in lost:
            self._slices.end(hold_id, name)
        with suppress(RedisLostError):
            self._slices.tell_ended()
            self._reap(self.now_micros() - REAP_AFTER_MICROS)

    def _leave_slices(self, now_micros: int) -> None:
        """Give calls that outlast their slice a hold of their own, then leave it."""
        for membership in self._claims.due(now_micros):
            slice_id = membership.slice_id
            while (claims := self._claims.leave(slice_id)) is not None:
                super().perform(Adopt(slice_id, tuple(claims)))
                for claim in claims:
                    self._ended(claim)
            self._perform_on_slice(Leave(slice_id))

    def _reap(self, before_micros: int) -> None:
        """End slices whose processes did not: they died, and their calls get holds of their own."""
        for due in self._slices.due(before_micros):
            claims = self._slices.retire(due)
            if claims is not None:
                self._perform_on_slice(Retire(due.slice_id, claims))
            self._slices.forget(due, claims or ())

    def _perform_on_slice(self, request: OnSlice) -> None:
        with suppress(SliceEndedError):
            super().perform(request)


def _ledger_name(tx: Transaction) -> str:
    """Return what tells a ledger from all others: its first process and when that began."""
    ((name, started_at),) = tx.rows(
        "SELECT name, started_at_micros FROM budget_workers ORDER BY id LIMIT 1"
    )
    return hashlib.blake2b(f"{name} {started_at}".encode(), digest_size=8).hexdigest()
