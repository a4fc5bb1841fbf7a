"""How a throttler begins: what it needs of the database, and what it does where there is none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tuppence.budget.engine import BudgetEngine
from tuppence.budget.journal import Journal, directory_of, recover
from tuppence.cost_tracking.budgets import NewBudget, set_budget
from tuppence.settings import WhenUnreachable
from tuppence.storage.database import Database
from tuppence.storage.opening import connect, open_database, prepare


class Beginning(NamedTuple):
    """What a throttler begins with."""

    url: str
    redis_url: str | None
    own: NewBudget | None
    """Its own budget, which is made or gets these values."""
    now: Callable[[], datetime]
    when_unreachable: WhenUnreachable
    journal_directory: Path


def begin(beginning: Beginning) -> BudgetEngine:
    """Return an engine whose database is ready, or has a journal to stand in for it.

    Whichever it is, what processes that have died have left in their journals is booked first.
    """
    if beginning.when_unreachable == "journal":
        return _with_journal(beginning)
    database = open_database(beginning.url)
    try:
        _set_own_budget(database, beginning)
        engine = _engine(database, beginning)
        recover(directory_of(beginning.journal_directory, beginning.url), engine.carry_out)
    except BaseException:
        database.close()
        raise
    return engine


def _with_journal(beginning: Beginning) -> BudgetEngine:
    database = connect(beginning.url)

    def make_ready() -> None:
        prepare(database, beginning.url)
        _set_own_budget(database, beginning)

    engine = _engine(database, beginning)
    directory = directory_of(beginning.journal_directory, beginning.url)
    engine.journal = Journal(directory, engine.carry_out, make_ready)
    try:
        engine.journal.book()
    except BaseException:
        engine.close()
        database.close()
        raise
    return engine


def _set_own_budget(database: Database, beginning: Beginning) -> None:
    if beginning.own is not None:
        database.run(set_budget, beginning.own, at=beginning.now(), by="BudgetThrottler")


def _engine(database: Database, beginning: Beginning) -> BudgetEngine:
    if not beginning.redis_url:
        return BudgetEngine(database, beginning.now)
    from tuppence.budget.shared_engine import SharedBudgetEngine  # noqa: PLC0415 - 0.1 s

    return SharedBudgetEngine(database, beginning.now, beginning.redis_url)
