"""What a transaction books is charged to the budgets that cover it, when all else is written.

Sums are made first, so that a batch of any size touches each counter once. Counters are the last
rows that a booking locks, in sorted order: it cannot deadlock with those who hold money in budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter

from tuppence.core.admission import NORMAL, Tally
from tuppence.core.attribution import Attribution
from tuppence.cost_tracking.booking import MEASURES, NumberedRow, UsageRow
from tuppence.cost_tracking.budgets import (
    DEFAULT_ORGANISATION,
    Budget,
    Scope,
    hold_budgets,
)
from tuppence.cost_tracking.counters import (
    NOTHING,
    Booked,
    Crossing,
    Key,
    crossings,
    load_counters,
    save_counters,
    window_start,
    write_alerts,
)
from tuppence.cost_tracking.dictionary import Dictionary
from tuppence.cost_tracking.directory import Directory
from tuppence.cost_tracking.measures import Measures
from tuppence.storage.database import Transaction

_Charge = tuple[int, Attribution, Measures]
"""When, who, and what of it counts."""


class Charges:
    """What one transaction has booked, until it is charged."""

    def __init__(self, directory: Directory, now_micros: int) -> None:
        self._directory = directory
        self._now = now_micros
        self._rows: list[UsageRow] = []
        self._corrections: list[NumberedRow] = []
        self._budgets: dict[Key, Budget] = {}

    def add(self, rows: Sequence[UsageRow]) -> None:
        """Charge rows; those of calls that a hold has paid for are left out."""
        self._rows += [row for row in rows if not row.governed]

    def correct(self, rows: Iterable[NumberedRow]) -> None:
        """Charge corrections: differences to what was charged before."""
        self._corrections += rows

    def carry_out(self, tx: Transaction, dictionary: Dictionary) -> None:
        """Move the counters of all budgets that cover what was booked, and write alerts."""
        if not self._corrections and not self._rows:
            return
        hold_budgets(tx)
        self._directory.refresh(tx)
        if self._directory.version == 0:  # there never was a budget
            return
        sums = self._sums(tx, list(self._charges(dictionary)))
        if sums:
            self._move(tx, sums)

    def _charges(self, dictionary: Dictionary) -> Iterator[_Charge]:
        for row in self._rows:
            yield row.occurred_at_micros, row.attribution, row.measures
        for correction in self._corrections:
            occurred_at, attribution_ref, session_ref, *_ = correction
            attribution = dictionary.attribution_of(attribution_ref, session_ref)
            yield occurred_at, attribution, Measures(*correction[MEASURES])

    def _sums(self, tx: Transaction, charges: Sequence[_Charge]) -> dict[Key, Booked]:
        directory = self._directory
        covering = self._covering(tx, {attribution for _, attribution, _ in charges})
        covered = [charge for charge in charges if charge[1] in covering]
        covered.sort(key=itemgetter(0))  # the directory remembers the last period
        sums: dict[Key, Booked] = {}
        for occurred_at, attribution, measures in covered:
            cost, requests = measures.cost_nanos, measures.request_count
            for budget in covering[attribution]:
                key = directory.key_at(budget, occurred_at)
                self._budgets[key] = budget
                before = sums.get(key, NOTHING)
                sums[key] = Booked(before.cost_nanos + cost, before.request_count + requests)
        return {key: booked for key, booked in sums.items() if any(booked)}

    def _covering(
        self, tx: Transaction, attributions: Iterable[Attribution]
    ) -> dict[Attribution, list[Budget]]:
        """Return the budgets of those attributions that any budget covers."""
        scopes = {attribution: scopes_of(attribution) for attribution in attributions}
        directory = self._directory
        directory.learn(tx, set(chain.from_iterable(scopes.values())))
        found = {one: directory.covering(tx, some) for one, some in scopes.items()}
        return {one: budgets for one, budgets in found.items() if budgets}

    def _move(self, tx: Transaction, sums: Mapping[Key, Booked]) -> None:
        latest = self._latest(sums)
        wanted = {key: self._budgets[key] for key in {*sums, *latest.values()}}
        tallies = load_counters(tx, wanted, own=sums)
        spent_before = {key: tally.spent_nanos for key, tally in tallies.items()}
        for key, booked in sums.items():
            tallies[key].used_nanos[NORMAL] += booked.cost_nanos
            tallies[key].settled_count += booked.request_count
            self._count_in_window(key, latest.get(key[0], key), booked, tallies)
        save_counters(tx, {key: tallies[key] for key in sums})
        write_alerts(tx, self._crossings(tallies, spent_before, latest), self._now)

    def _latest(self, sums: Iterable[Key]) -> dict[int, Key]:
        """Return the newest slice of each rolling window: alerts are about the window up to it."""
        latest: dict[int, Key] = {}
        for key in sums:
            budget = self._budgets[key]
            if budget.period == "rolling":
                now = self._directory.key_at(budget, self._now)
                latest[budget.id] = max(key, latest.get(budget.id, now))
                self._budgets.setdefault(latest[budget.id], budget)
        return latest

    def _count_in_window(
        self, key: Key, newest: Key, booked: Booked, tallies: Mapping[Key, Tally]
    ) -> None:
        if window_start(self._budgets[newest], newest) < key[1] < newest[1]:
            tallies[newest].earlier_nanos += booked.cost_nanos

    def _crossings(
        self,
        tallies: Mapping[Key, Tally],
        spent_before: Mapping[Key, int],
        latest: Mapping[int, Key],
    ) -> Iterator[Crossing]:
        for key, before in spent_before.items():
            if key == latest.get(key[0], key) and tallies[key].spent_nanos > before:
                yield from crossings(self._budgets[key], key, before, tallies[key])


def scopes_of(attribution: Attribution) -> tuple[Scope, ...]:
    """Return the scopes whose budgets cover the calls of an attribution."""
    names = (
        ("team", attribution.team_id),
        ("project", attribution.project_id),
        ("user", attribution.user_id),
        ("session", attribution.session_id),
        ("agent", attribution.agent_id),
        *(("tag", tag) for tag in attribution.tags),
    )
    return (("organisation", DEFAULT_ORGANISATION), *(scope for scope in names if scope[1]))
