"""What a call is expected to cost, learned from calls of its kind: for budgets of mode "expected".

A call costs what is certain (its input, at the least) and something beyond. What 999 in 1,000 calls
of the same model and payer stayed below is held beyond the certain part. This is split conformal
prediction: whatever the distribution, as long as calls of a kind are exchangeable, at most one in
1,000 costs more than is held for it; of fewer calls the dearest counts, which one in n + 1 exceeds
(Vovk, Gammerman, Shafer 2005, chapter 2). Where fewer than 99 calls are known, the bound is held.
What a budget promises on that ground: docs/explanation/utilisation.md.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from math import ceil

from tuppence.budget.scopes import decode_scopes
from tuppence.cost_tracking.budgets import Scope
from tuppence.errors import LedgerError
from tuppence.storage.database import Database, Transaction

QUANTILE = 0.999
ENOUGH_SAMPLES = 999
"""So many calls it takes for the dearest of them to be a 99.9% quantile."""
LEAST_SAMPLES = 99
"""With so many the dearest is a 99% quantile; with fewer nothing is said."""
MOST_SAMPLES = 5_000
REFRESH_SECONDS = 0.5
IDLE_REFRESH_SECONDS = 5.0
"""How often it is looked whether a budget goes by expectations, while none does."""
FIRST_WAIT_SECONDS = 0.25
"""How long the first call of a process waits for what is known."""

Kind = tuple[Scope, ...]


class Expectations:
    """The quantiles of the recent past, read again from time to time in the background.

    A call never waits for that, except the first, for a moment: where nothing is known yet, its
    bound is held, and while the database cannot be reached what was known last holds on.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._due_at = float("-inf")
        self._closed = False
        self._in_use = False
        self._quantiles: dict[Kind, tuple[int, int]] = {}

    def expected(self, model: str, scopes: Kind, bound: int, certain: int) -> int:
        """Return what to hold for a call: its bound where nothing better is known."""
        if time.monotonic() >= self._due_at:
            self._refresh_in_background()
        if not self._in_use:
            return bound
        beyond = self._beyond(model, scopes)
        return bound if beyond is None else min(certain + beyond, bound)

    def refresh(self) -> None:
        """Read what calls have cost up to now. Raises DatabaseUnreachable."""
        in_use, samples = self._database.read(_recent)
        self._quantiles = {
            kind: (quantile(values), len(values))
            for kind, values in samples.items()
            if len(values) >= LEAST_SAMPLES
        }
        self._in_use = in_use

    def close(self) -> None:
        """Read no more; wait until nothing reads."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()

    def _beyond(self, model: str, scopes: Kind) -> int | None:
        """Return the quantile of a payer's own calls, or where they are few, of all, if more."""
        own = self._quantiles.get((*scopes, ("model", model)) if model else scopes)
        if own is not None and own[1] >= ENOUGH_SAMPLES:
            return own[0]
        others = self._quantiles.get((("model", model),))
        return max((known[0] for known in (own, others) if known is not None), default=None)

    def _refresh_in_background(self) -> None:
        with self._lock:
            if self._closed or time.monotonic() < self._due_at:
                return
            first = self._due_at == float("-inf")
            self._due_at = time.monotonic() + IDLE_REFRESH_SECONDS
            self._thread = thread = threading.Thread(
                target=self._refresh_quietly, name="tuppence-expectations", daemon=True
            )
            thread.start()
        if first:
            thread.join(FIRST_WAIT_SECONDS)

    def _refresh_quietly(self) -> None:
        with suppress(LedgerError):  # what was known last holds on; the hold itself tells of it
            self.refresh()
        pause = REFRESH_SECONDS if self._in_use else IDLE_REFRESH_SECONDS
        self._due_at = time.monotonic() + pause


def quantile(values: Sequence[int]) -> int:
    """Return what the next value stays below with the promised probability, or the largest."""
    ordered = sorted(values)
    return ordered[min(ceil((len(ordered) + 1) * QUANTILE), len(ordered)) - 1]


def _recent(tx: Transaction) -> tuple[bool, dict[Kind, list[int]]]:
    """Return whether a budget goes by expectations, and what recent calls cost beyond certain.

    Spending that was never held (its bound is its cost) says nothing about what bounds are worth.
    """
    samples: dict[Kind, list[int]] = defaultdict(list)
    if not tx.rows("SELECT 1 FROM cost_budgets WHERE mode = 'expected' LIMIT 1"):
        return False, samples
    rows = tx.rows(
        "SELECT scope, settled_nanos - certain_nanos FROM budget_holds "
        "WHERE ended_at_micros IS NOT NULL AND state = 'settled' AND bound_nanos > certain_nanos "
        "ORDER BY ended_at_micros DESC LIMIT ?",
        (MOST_SAMPLES,),
    )
    for text, beyond in rows:
        scopes = decode_scopes(text)
        samples[scopes].append(max(beyond, 0))
        if scopes and scopes[-1][0] == "model":
            samples[scopes[-1:]].append(max(beyond, 0))
    return True, samples
