"""What one batch works on: counters and holds, read under lock, moved, and written at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tuppence.budget.hold_rows import CHANGES, ENDS, HOLDS, HoldRow, new_row, read_holds
from tuppence.budget.known import Known
from tuppence.budget.scopes import decode_scopes
from tuppence.core.admission import Tally
from tuppence.core.periods import Period
from tuppence.cost_tracking.budgets import Budget, Scope
from tuppence.cost_tracking.counters import (
    Crossing,
    Key,
    crossings,
    load_counters,
    save_counters,
    write_alerts,
)
from tuppence.cost_tracking.directory import Directory
from tuppence.storage.database import Transaction

OnFound = Callable[[Mapping[Key, Budget], Mapping[Key, Tally]], None]
"""Is told the counters as they were found, before anything is decided on them."""


class OvertakenError(Exception):
    """Another process was quicker with a key or with a hold: the batch has to start again."""


class Books:
    """The counters that a batch has locked and the holds that it is about."""

    def __init__(
        self,
        tx: Transaction,
        directory: Directory,
        known: Known,
        now_micros: int,
        on_found: OnFound | None = None,
    ) -> None:
        self.tx = tx
        self.now = now_micros
        self.tallies: dict[Key, Tally] = {}
        self.holds: dict[int, HoldRow] = {}
        self._on_found = on_found
        self._directory = directory
        self._known = known
        self._budgets: dict[Key, Budget] = {}
        self._current: dict[int, Key] = {}
        self._spent_before: dict[Key, int] = {}
        self._inserts: list[tuple[object, ...]] = []
        self._ends: dict[int, tuple[Any, ...]] = {}
        self._changes: dict[int, tuple[Any, ...]] = {}
        self._changed: set[Key] = set()
        self._trusts_known = tx.follows(known.mark)
        if not self._trusts_known:
            if tx.exclusive:
                known.forget()  # otherwise each statement proves what it was decided on
            directory.refresh(tx)

    @property
    def current(self) -> list[tuple[Budget, Tally]]:
        """The budgets with their counters of this moment."""
        return [(self._budgets[key], self.tallies[key]) for key in self._current.values()]

    def load(self, scopes: Iterable[tuple[Scope, ...]], hold_ids: Sequence[int]) -> None:
        """Lock all counters of some scopes and holds, then read the holds as they are now."""
        self._read_holds(hold_ids)
        for one in scopes:
            self._touch_scopes(one)
        for hold in self.holds.values():
            if hold.state == "waiting":
                self._touch_scopes(decode_scopes(hold.scope_text))
            for key, _ in hold.amounts:
                self._touch(self.budget(key[0]), key)
        self._read_tallies()
        if hold_ids and not self.tx.exclusive:
            # Whatever ends a hold has locked its counters, which are ours from now on.
            self.holds = read_holds(self.tx, hold_ids, lock=True)
            holds = self.holds.values()
            if any(key not in self.tallies for hold in holds for key, _ in hold.amounts):
                raise OvertakenError  # a waiting call got its turn in a period that has passed

    def budget(self, number: int) -> Budget:
        """Return a budget by its number."""
        return self._directory.of_id(self.tx, number)

    def period(self, budget: Budget) -> Period:
        """Return a budget's period of this moment."""
        return self._directory.period_at(budget, self.now)

    def reaches(self, scopes: Sequence[Scope]) -> bool:
        """Tell whether the counters of all budgets that cover these scopes are locked."""
        budgets = self._directory.covering(self.tx, scopes)
        return all(budget.id in self._current for budget in budgets)

    def covering(self, scopes: Sequence[Scope]) -> list[tuple[Budget, Key, Tally]]:
        """Return the budgets that cover these scopes, with their counters of this moment."""
        budgets = self._directory.covering(self.tx, scopes)
        keys = [self._current[budget.id] for budget in budgets]
        return [(one, key, self.tallies[key]) for one, key in zip(budgets, keys, strict=True)]

    def tally(self, budget: Budget) -> Tally:
        """Return a budget's counter of this moment."""
        return self.tallies[self._current[budget.id]]

    def move(
        self,
        key: Key,
        priority: int,
        *,
        used: int = 0,
        held: int = 0,
        unresolved: int = 0,
        settled: int = 0,
    ) -> None:
        """Change a counter; of a rolling window the current one sees its earlier slices change."""
        tally = self.tallies[key]
        tally.used_nanos[priority] += used
        tally.held_nanos += held
        tally.unresolved_nanos += unresolved
        tally.settled_count += settled
        self._changed.add(key)
        current = self._current[key[0]]
        if current != key and self._budgets[key].period == "rolling":
            self.tallies[current].earlier_nanos += used
            self.tallies[current].earlier_held_nanos += held

    def add(
        self,
        hold: HoldRow,
        *,
        key: bytes | None = None,
        throttler: int | None = None,
        ended_at: int | None = None,
        corrects: int | None = None,
    ) -> None:
        """Make a new hold row."""
        row = new_row(hold, key=key, throttler=throttler, ended_at=ended_at, corrects=corrects)
        self._inserts.append(row)
        if hold.state in ("held", "waiting"):
            self.holds[hold.id] = hold

    def close(self, hold: HoldRow, ending: str, amount: int) -> None:
        """Move what a hold holds to what it has become."""
        bound, priority = hold.bound_nanos, hold.priority
        for key, held in hold.amounts:
            if ending == "unresolved":
                self.move(key, priority, used=bound - held, held=-held, unresolved=bound)
            elif ending == "resolved":
                self.move(key, priority, used=amount - bound, unresolved=-bound, settled=1)
            else:
                settled = int(ending == "settled")
                self.move(key, priority, used=amount - held, held=-held, settled=settled)
        hold.state = "settled" if ending == "resolved" else ending
        hold.settled_nanos = None if ending == "unresolved" else amount
        self._ends[hold.id] = (hold.id, hold.state, self.now, hold.settled_nanos)

    def end_unwritten(self, hold_id: int) -> int | None:
        """Return when a hold that is not written yet has ended: it is written as ended at once."""
        end = self._ends.pop(hold_id, None)
        return None if end is None else int(end[2])

    def change(self, hold: HoldRow, expires_at: int, ended_at: int | None = None) -> None:
        """Write a hold as it has become; its lease runs until `expires_at`."""
        hold.expires_at_micros = expires_at
        self._changes[hold.id] = (
            hold.id,
            hold.state,
            hold.bound_nanos,
            hold.amounts_text,
            hold.waits_on,
            expires_at,
            ended_at,
        )

    def write_new_holds(self) -> None:
        """Insert the new holds now, so that a query finds them."""
        if self._inserts:
            if self.tx.insert(HOLDS, self._inserts) != len(self._inserts):
                raise OvertakenError
            self._inserts = []

    def write(self) -> None:
        """Write everything that has changed, and the alerts of thresholds that were crossed."""
        self.write_new_holds()
        if self._ends:
            self.tx.update(ENDS, list(self._ends.values()))
        if self._changes:
            self.tx.update(CHANGES, list(self._changes.values()))
        save_counters(self.tx, {key: self.tallies[key] for key in self._changed})
        write_alerts(self.tx, self._crossings(), self.now)
        self._known.remember(self.tallies, self.holds, self.tx.mark)

    def _read_holds(self, hold_ids: Sequence[int]) -> None:
        known = self._known.holds if self._trusts_known else {}
        unknown = [number for number in hold_ids if number not in known]
        self.holds = {number: known[number] for number in hold_ids if number in known}
        if unknown:
            self.holds |= read_holds(self.tx, unknown)

    def _read_tallies(self) -> None:
        known = self._known.tallies if self._trusts_known else {}
        unknown = {key: one for key, one in self._budgets.items() if key not in known}
        self.tallies = {key: known[key] for key in self._budgets if key in known}
        if unknown:
            self.tallies |= load_counters(self.tx, unknown, known=self._known.tallies)
        self._spent_before = {key: tally.spent_nanos for key, tally in self.tallies.items()}
        if self._on_found is not None:
            self._on_found(self._budgets, self.tallies)

    def _touch_scopes(self, scopes: Sequence[Scope]) -> None:
        for budget in self._directory.covering(self.tx, scopes):
            self._touch(budget, self._directory.key_at(budget, self.now))

    def _touch(self, budget: Budget, key: Key) -> None:
        if key not in self._budgets:
            self._budgets[key] = budget
            if budget.id not in self._current:
                current = self._directory.key_at(budget, self.now)
                self._current[budget.id] = current
                self._budgets[current] = budget

    def _crossings(self) -> list[Crossing]:
        found: list[Crossing] = []
        for key in self._changed:
            tally, before = self.tallies[key], self._spent_before[key]
            if tally.spent_nanos > before:
                found += crossings(self._budgets[key], key, before, tally)
        return found
