"""Holds that were abandoned: who made them, what they count at, and what they really cost."""

from __future__ import annotations

from typing import NamedTuple

from tuppence.budget.engine import BudgetEngine
from tuppence.budget.hold_rows import read_holds
from tuppence.budget.holds import hold_id_of
from tuppence.budget.refusals import hold_name
from tuppence.budget.requests import End, Turn
from tuppence.budget.scopes import decode_scopes
from tuppence.cost_tracking.budgets import Scope, budget_of_id, record_change
from tuppence.storage.database import Transaction

NOBODY = 0
"""The id of no hold: a request about it asks for nothing."""


class UnresolvedHold(NamedTuple):
    """A hold whose true cost is not known: it counts at its bound."""

    id: str
    scopes: tuple[Scope, ...]
    bound_nanos: int
    made_at_micros: int
    abandoned_at_micros: int


def unresolved_holds(engine: BudgetEngine) -> list[UnresolvedHold]:
    """Return all unresolved holds, the oldest first; with those whose lease has just run out."""
    _look_after_leases(engine)
    return engine.database.read(_read)


def resolve(engine: BudgetEngine, hold: str, actual_nanos: int, *, by: str) -> None:
    """Book the true cost of an unresolved hold, on record at all budgets that it counts in.

    Raises UnknownHold, HoldAlreadyEnded.
    """
    number = hold_id_of(hold)
    _look_after_leases(engine)
    engine.perform(End(number, "resolved", actual_nanos))
    engine.database.run(_record, engine, number, actual_nanos, by)


def _look_after_leases(engine: BudgetEngine) -> None:
    """Let the engine make unresolved what is abandoned: it does so with whatever it is asked."""
    engine.perform(Turn(NOBODY))


def _read(tx: Transaction) -> list[UnresolvedHold]:
    rows = tx.rows(
        "SELECT id, scope, bound_nanos, created_at_micros, expires_at_micros, ended_at_micros "
        "FROM budget_holds WHERE state = 'unresolved' ORDER BY created_at_micros, id"
    )
    return [
        UnresolvedHold(hold_name(number), decode_scopes(scope), bound, made_at, min(expires, ended))
        for number, scope, bound, made_at, expires, ended in rows
    ]


def _record(tx: Transaction, engine: BudgetEngine, number: int, actual_nanos: int, by: str) -> None:
    hold = read_holds(tx, [number])[number]
    name = hold_name(number)
    for budget_id in sorted({budget_id for (budget_id, _), _ in hold.amounts}):
        budget, at = budget_of_id(tx, budget_id), engine.now()
        before = {"hold": name, "unresolved_nanos": hold.bound_nanos}
        after = {"hold": name, "settled_nanos": actual_nanos}
        record_change(tx, budget, "resolve", before, after, at=at, by=by)
