"""What a call is expected to cost, learned from calls of its kind: for budgets of mode "expected".

A call costs what is certain (its input) and something beyond (its output). What 99 in 100 calls of
the same model and payer stayed below is held beyond the certain part. This is split conformal
prediction: whatever the distribution, as long as calls of a kind are exchangeable, at most one in a
hundred costs more than is held for it (Vovk, Gammerman, Shafer 2005, chapter 2). Where there are
too few calls to say so, the bound itself is held.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from math import ceil

from tuppence.budget.scopes import decode_scopes
from tuppence.cost_tracking.budgets import Scope
from tuppence.storage.database import Database, Transaction

QUANTILE = 0.99
LEAST_SAMPLES = 99
"""So many calls it takes for the largest of them to be a 99% quantile."""
MOST_SAMPLES = 5_000
REFRESH_SECONDS = 0.5

Kind = tuple[Scope, ...]


class Expectations:
    """The quantiles of the recent past, read again from time to time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._by_kind: dict[Kind, int] = {}
        self._in_use = False

    def expected(self, model: str, scopes: tuple[Scope, ...], bound: int, certain: int) -> int:
        """Return what to hold for a call: its bound where nothing better is known."""
        if time.monotonic() - self._read_at > REFRESH_SECONDS and self._lock.acquire(
            blocking=False
        ):
            try:
                self._refresh()
            finally:
                self._lock.release()
        if not self._in_use:
            return bound
        for kind in ((*scopes, ("model", model)), (("model", model),)):
            beyond = self._by_kind.get(kind)
            if beyond is not None:
                return min(certain + beyond, bound)
        return bound

    def _refresh(self) -> None:
        self._in_use, samples = self._database.read(_recent)
        self._by_kind = {
            kind: _quantile(values)
            for kind, values in samples.items()
            if len(values) >= LEAST_SAMPLES
        }
        self._read_at = time.monotonic()


def _recent(tx: Transaction) -> tuple[bool, dict[Kind, list[int]]]:
    """Return whether a budget goes by expectations, and what recent calls cost beyond certain."""
    samples: dict[Kind, list[int]] = defaultdict(list)
    if not tx.rows("SELECT 1 FROM cost_budgets WHERE mode = 'expected' LIMIT 1"):
        return False, samples
    rows = tx.rows(
        "SELECT scope, settled_nanos - certain_nanos FROM budget_holds "
        "WHERE ended_at_micros IS NOT NULL AND state = 'settled' AND bound_nanos > 0 "
        "ORDER BY ended_at_micros DESC LIMIT ?",
        (MOST_SAMPLES,),
    )
    for text, beyond in rows:
        scopes = decode_scopes(text)
        samples[scopes].append(max(beyond, 0))
        if scopes and scopes[-1][0] == "model":
            samples[scopes[-1:]].append(max(beyond, 0))
    return True, samples


def _quantile(values: list[int]) -> int:
    """Return the smallest value that the next call stays below with the promised probability."""
    ordered = sorted(values)
    return ordered[ceil((len(ordered) + 1) * QUANTILE) - 1]
