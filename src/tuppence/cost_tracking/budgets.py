"""Budgets as rows: whom they cover, for which period, up to what; every change on record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tuppence.core.admission import MODES, NO_SHARES, PRIORITIES, Mode, Terms
from tuppence.core.attribution import check_name
from tuppence.core.periods import PERIODS, load_zone, to_micros
from tuppence.errors import InvalidInput, UnknownBudget
from tuppence.storage.database import Row, Transaction

ENTITY_TYPES = (
    "organisation",
    "team",
    "project",
    "user",
    "session",
    "agent",
    "tag",
    "throttler",
)
"""What a budget can be for, from the widest; a throttler's covers the calls through it."""

DEFAULT_ORGANISATION = "default"
"""The organisation of all calls that name no other one."""

MAX_WINDOW_SECONDS = 10 * 366 * 86_400
MAX_LIMIT_NANOS = 10**17
"""A hundred million dollars: sums of such limits stay within what a column holds."""

Scope = tuple[str, str]
"""What a budget is for: entity type and name."""


class NewBudget(NamedTuple):
    """A budget to create, or the new values of the one that its entity has for this period."""

    entity_type: str
    entity_id: str
    limit_nanos: int
    warning_threshold: float = 0.8
    critical_threshold: float = 0.95
    time_zone: str = "UTC"
    period: str = "month"
    window_seconds: int = 0
    mode: Mode = "strict"
    critical_ceiling: float = 0.1
    overdraft_share: float = 0.01
    reserved_shares: tuple[float, ...] = NO_SHARES

    def check(self) -> NewBudget:
        """Return self; raise InvalidInput for the first field that cannot be used."""
        _one_of("entity_type", self.entity_type, ENTITY_TYPES)
        _one_of("period", self.period, PERIODS)
        _one_of("mode", self.mode, MODES)
        check_name("entity_id", self.entity_id)
        if not self.entity_id:
            raise InvalidInput(
                "is empty", field="entity_id", value="", remedy=f"name the {self.entity_type}"
            )
        check_limit(self.limit_nanos)
        if not 0 < self.warning_threshold <= self.critical_threshold <= 1:
            raise InvalidInput(
                f"does not fit the critical threshold {self.critical_threshold}",
                field="warning_threshold",
                value=self.warning_threshold,
                remedy="give shares with 0 < warning <= critical <= 1",
            )
        _share("critical_ceiling", self.critical_ceiling)
        _share("overdraft_share", self.overdraft_share)
        self._check_window()
        self._check_reserved()
        load_zone(self.time_zone)
        return self

    def _check_window(self) -> None:
        rolling = self.period == "rolling"
        if rolling != (0 < self.window_seconds <= MAX_WINDOW_SECONDS):
            raise InvalidInput(
                f"does not go with the period {self.period}",
                field="window_seconds",
                value=self.window_seconds,
                remedy="give a rolling window its length in seconds, other periods none",
            )

    def _check_reserved(self) -> None:
        shares = self.reserved_shares
        if len(shares) != len(PRIORITIES) or min(shares) < 0 or sum(shares) > 1:
            raise InvalidInput(
                "are not shares of one limit",
                field="reserved_shares",
                value=shares,
                remedy="give shares from 0 to 1 that add up to at most 1",
            )


class Budget(NamedTuple):
    """A budget as it stands in the ledger."""

    id: int
    entity_type: str
    entity_id: str
    period: str
    window_seconds: int
    time_zone: str
    terms: Terms
    created_at_micros: int

    @property
    def scope(self) -> Scope:
        """What the budget is for."""
        return self.entity_type, self.entity_id

    @property
    def limit_nanos(self) -> int:
        """The limit, without what it is raised by in a period."""
        return self.terms.limit_nanos

    @property
    def name(self) -> str:
        """The budget as a person would name it: "team platform, month"."""
        period = f"{self.window_seconds} s" if self.period == "rolling" else self.period
        return f"{self.entity_type} {self.entity_id}, {period}"


COLUMNS = (
    "entity_type",
    "entity_id",
    "period",
    "window_seconds",
    "time_zone",
    "limit_nanos",
    "mode",
    "warning_threshold",
    "critical_threshold",
    "critical_ceiling",
    "overdraft_share",
    "reserved_shares",
    "paused",
)
KEY = COLUMNS[:4]
_SELECT = f"SELECT id, {', '.join(COLUMNS)}, created_at_micros FROM cost_budgets"


def set_budget(tx: Transaction, new: NewBudget, *, at: datetime, by: str) -> Budget:
    """Create a budget; the one that its entity has for this period gets the new values."""
    new.check()
    values = _values_of(new)
    key = (new.entity_type, new.entity_id, new.period, new.window_seconds)
    known = _find(tx, *key)
    if known is not None and not _changes(known, values):
        return known  # a process that starts says again what all have said before
    _next_version(tx)
    before = _find(tx, *key)
    if before is None:
        row = {**values, "created_at_micros": to_micros(at)}
        marks = ", ".join("?" * len(row))
        tx.execute(
            f"INSERT INTO cost_budgets ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
        )
        made = _get(tx, *key)
        record_change(tx, made, "set", {}, values, at=at, by=by)
        return made
    return _change(tx, before, "set", _changes(before, values), at=at, by=by)


def _changes(before: Budget, values: Mapping[str, object]) -> dict[str, object]:
    """Return the new values that differ; new terms do not let calls through again."""
    old = _values_of_budget(before)
    return {
        name: value for name, value in values.items() if old[name] != value and name != "paused"
    }


def raise_limit(
    tx: Transaction, budget: Budget, amount_nanos: int, *, at: datetime, by: str
) -> Budget:
    """Give a budget a higher limit for good, on record."""
    _next_version(tx)  # the next one who raises it sees the limit that this one makes
    known = budget_of_id(tx, budget.id)
    limit = check_limit(known.limit_nanos + check_raise(amount_nanos))
    return _change(tx, known, "raise", {"limit_nanos": limit}, at=at, by=by)


def set_paused(tx: Transaction, budget: Budget, *, paused: bool, at: datetime, by: str) -> Budget:
    """Pause a budget or let calls through again, on record; nothing where it is so already."""
    _next_version(tx)
    known = budget_of_id(tx, budget.id)
    if known.terms.paused == paused:
        return known
    action = "pause" if paused else "resume"
    return _change(tx, known, action, {"paused": int(paused)}, at=at, by=by)


def check_limit(nanos: int) -> int:
    """Return a limit; raise InvalidInput for one that is negative or that no column holds."""
    if not 0 <= nanos <= MAX_LIMIT_NANOS:
        raise InvalidInput(
            "is not a usable limit",
            field="limit_nanos",
            value=nanos,
            remedy="give an amount from 0 to 100 million dollars",
        )
    return nanos


def check_raise(nanos: int) -> int:
    """Return an amount to raise a limit by; raise InvalidInput unless it is one."""
    if not 0 < nanos <= MAX_LIMIT_NANOS:
        raise InvalidInput(
            "is not an amount to raise a limit by",
            field="amount_nanos",
            value=nanos,
            remedy="give more than 0; for a lower limit set the budget anew",
        )
    return nanos


def record_change(
    tx: Transaction,
    budget: Budget,
    action: str,
    before: Mapping[str, object],
    after: Mapping[str, object],
    *,
    at: datetime,
    by: str,
) -> None:
    """Put a change on record."""
    check_name("changed_by", by)
    tx.execute(
        "INSERT INTO budget_changes (budget_ref, changed_at_micros, changed_by, action, before, "
        "after) VALUES (?, ?, ?, ?, ?, ?)",
        (budget.id, to_micros(at), by, action, json.dumps(before), json.dumps(after)),
    )


def _change(
    tx: Transaction,
    budget: Budget,
    action: str,
    changed: Mapping[str, object],
    *,
    at: datetime,
    by: str,
) -> Budget:
    if not changed:
        return budget
    settings = ", ".join(f"{name} = ?" for name in changed)
    tx.execute(f"UPDATE cost_budgets SET {settings} WHERE id = ?", (*changed.values(), budget.id))
    old = _values_of_budget(budget)
    before = {name: old[name] for name in changed}
    record_change(tx, budget, action, before, changed, at=at, by=by)
    return _get(tx, budget.entity_type, budget.entity_id, budget.period, budget.window_seconds)


class BudgetChangeRecord(NamedTuple):
    """A line of the audit trail."""

    budget: Budget
    changed_at_micros: int
    changed_by: str
    action: str
    before: dict[str, Any]
    after: dict[str, Any]


def read_changes(
    tx: Transaction, budgets: Iterable[Budget] | None = None
) -> list[BudgetChangeRecord]:
    """Return the audit trail of budgets (of all), the oldest change first."""
    records = []
    for budget in all_budgets(tx) if budgets is None else budgets:
        rows = tx.rows(
            "SELECT changed_at_micros, changed_by, action, before, after "
            "FROM budget_changes WHERE budget_ref = ? ORDER BY id",
            (budget.id,),
        )
        records += [
            BudgetChangeRecord(budget, at, by, action, json.loads(before), json.loads(after))
            for at, by, action, before, after in rows
        ]
    return sorted(records, key=lambda record: record.changed_at_micros)


def all_budgets(tx: Transaction) -> list[Budget]:
    """Return all budgets."""
    return [_budget_of(row) for row in tx.rows(f"{_SELECT} ORDER BY id")]


def budgets_of(tx: Transaction, scope: Scope) -> tuple[Budget, ...]:
    """Return the budgets of one entity."""
    query = f"{_SELECT} WHERE entity_type = ? AND entity_id = ? ORDER BY id"
    return tuple(_budget_of(row) for row in tx.rows(query, scope))


def budgets_of_all(tx: Transaction, scopes: Iterable[Scope]) -> list[Budget]:
    """Return the budgets of many entities."""
    wanted = sorted(scopes)
    found: list[Budget] = []
    for start in range(0, len(wanted), 200):
        some = wanted[start : start + 200]
        marks = ", ".join(["(?, ?)"] * len(some))
        query = f"{_SELECT} WHERE (entity_type, entity_id) IN (VALUES {marks}) ORDER BY id"
        found += [_budget_of(row) for row in tx.rows(query, [one for key in some for one in key])]
    return found


def budget_of_id(tx: Transaction, number: int) -> Budget:
    """Return a budget by its number."""
    ((row),) = tx.rows(f"{_SELECT} WHERE id = ?", (number,))
    return _budget_of(row)


def find_budgets(tx: Transaction, scope: Scope, period: str | None = None) -> tuple[Budget, ...]:
    """Return the budgets of an entity, of one period or all; raise UnknownBudget for none."""
    check_name("entity_id", scope[1])
    found = tuple(one for one in budgets_of(tx, scope) if period in (None, one.period))
    if not found:
        raise UnknownBudget(
            "has no budget" if period is None else f"has no budget for the period {period}",
            field=scope[0],
            value=scope[1],
            remedy="see tuppence budget list, or make one: tuppence budget set",
        )
    return found


def read_version(tx: Transaction) -> int:
    """Return how often budgets have been changed: what was read before it is out of date after."""
    rows = tx.rows("SELECT version FROM budget_version WHERE id = 1")
    return int(rows[0][0]) if rows else 0


def encode_shares(shares: Iterable[float]) -> str:
    """Return reserved shares as they are kept: "high=0.2,critical=0.1"."""
    pairs = zip(PRIORITIES, shares, strict=True)
    return ",".join(f"{name}={share!r}" for name, share in pairs if share)


def decode_shares(text: str) -> tuple[float, ...]:
    """Return the reserved shares by priority; raise InvalidInput for an unreadable text."""
    if not text:
        return NO_SHARES
    shares = list(NO_SHARES)
    for pair in text.split(","):
        name, _, share = pair.partition("=")
        try:
            shares[PRIORITIES.index(name.strip())] = float(share)
        except ValueError:
            raise InvalidInput(
                "is not a list of priorities and shares",
                field="reserved_shares",
                value=text,
                remedy="write high=0.2,critical=0.1",
            ) from None
    return tuple(shares)


BUDGETS_LOCK = 7_488_118
"""The advisory lock that PostgreSQL's bookings share, and that a new budget waits for."""


def hold_budgets(tx: Transaction) -> None:
    """Let no budget be changed until this transaction ends: it knows all that cover its calls."""
    if not tx.exclusive:
        tx.rows(f"SELECT pg_advisory_xact_lock_shared({BUDGETS_LOCK})::text")


def _next_version(tx: Transaction) -> None:
    """Count a change; one change waits for the other.

    It waits for bookings too that do not know of it: the counters of a new budget begin with what
    they book. Those that come later wait for the change.
    """
    if not tx.exclusive:
        tx.rows(f"SELECT pg_advisory_xact_lock({BUDGETS_LOCK})::text")
    tx.execute(
        "INSERT INTO budget_version (id, version) VALUES (1, 1) "
        "ON CONFLICT (id) DO UPDATE SET version = budget_version.version + 1"
    )


def _find(tx: Transaction, *key: object) -> Budget | None:
    condition = " AND ".join(f"{name} = ?" for name in KEY)
    rows = tx.rows(f"{_SELECT} WHERE {condition}", key)
    return _budget_of(rows[0]) if rows else None


def _get(tx: Transaction, *key: object) -> Budget:
    found = _find(tx, *key)
    if found is None:
        raise KeyError(key)
    return found


def _budget_of(row: Row) -> Budget:
    number, entity_type, entity_id, period, window, zone, limit, mode, *rest = row
    warning, critical, ceiling, overdraft, shares, paused, created_at = rest
    terms = Terms(
        limit, mode, warning, critical, ceiling, overdraft, decode_shares(shares), bool(paused)
    )
    return Budget(number, entity_type, entity_id, period, window, zone, terms, created_at)


def _values_of(new: NewBudget) -> dict[str, object]:
    values = {name: getattr(new, name) for name in COLUMNS if name != "paused"}
    return {**values, "reserved_shares": encode_shares(new.reserved_shares), "paused": 0}


def _values_of_budget(budget: Budget) -> dict[str, object]:
    values = {**budget._asdict(), **budget.terms._asdict()}
    values["reserved_shares"] = encode_shares(budget.terms.reserved_shares)
    values["paused"] = int(budget.terms.paused)
    return {name: values[name] for name in COLUMNS}


def _one_of(field: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidInput(
            "is not something that a budget can have",
            field=field,
            value=value,
            remedy=f"choose one of {', '.join(choices)}",
        )


def _share(field: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidInput(
            "is not a share", field=field, value=value, remedy="give a number from 0 to 1"
        )
