"""Small worlds of clients that wait, settle, die and come late: decided by a seed, step by step.

Two processes' engines work on one database in memory, in one thread. A failure names its seed:
`World(seed, database).run()` then does the same again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from tests.contract.ledgers import TABLES
from tuppence.budget.engine import BudgetEngine
from tuppence.budget.hold_rows import decode_amounts
from tuppence.budget.requests import (
    Answer,
    End,
    Ended,
    Extend,
    Granted,
    Request,
    Reserve,
    Turn,
    Waiting,
)
from tuppence.budget.scopes import decode_scopes, encode_scopes
from tuppence.cost_tracking.budgets import NewBudget, Scope, set_budget
from tuppence.errors import BudgetExceeded
from tuppence.storage.database import Database, Transaction
from tuppence.storage.opening import open_database

STEPS = 14
UNIT = 1_000_000_000
SECOND = 1_000_000
CRITICAL = 3
SCOPES: tuple[Scope, ...] = (("team", "red"), ("user", "ann"), ("user", "bob"))
PAYERS: tuple[tuple[Scope, ...], ...] = (
    SCOPES[:1],
    SCOPES[:2],
    (SCOPES[0], SCOPES[2]),
    SCOPES[1:2],
)
NEXT = {
    "waiting": {"held", "withdrawn"},
    "held": {"settled", "released", "unresolved"},
    "unresolved": {"settled"},
}
"""What may become of a hold; one that has ended stays as it is."""


class Engine(BudgetEngine):
    """An engine without threads: what it would look at later, the world hands in again."""

    def __init__(self, database: Database, world: World) -> None:
        super().__init__(database, world.now)
        self.later: list[Request] = []

    def _ask_for_turns(self, hold_ids: Sequence[int]) -> None:
        self.later += [Turn(number) for number in hold_ids]


class Row(NamedTuple):
    """A hold as the database has it."""

    id: int
    state: str
    priority: int
    bound: int
    settled: int | None
    amounts: str
    scope: str
    waits_on: int | None
    created_at: int

    @property
    def place(self) -> tuple[int, int, int]:
        """By priority, then in order of arrival."""
        return -self.priority, self.created_at, self.id

    @property
    def used(self) -> int:
        """What of it counts."""
        return self.bound if self.state in ("held", "unresolved") else self.settled or 0


class World:
    """Budgets, clients and a clock; `run` lives through it and checks each step."""

    def __init__(self, seed: int, database: Database) -> None:
        self.chance = random.Random(seed)
        self.moment = datetime(2026, 11, 23, 12, tzinfo=UTC)
        self.database = database
        database.run(_empty)
        self.limits: dict[int, int] = {}
        self.numbers: dict[Scope, int] = {}
        for scope in SCOPES[: self.chance.randint(1, 3)]:
            self.set_limit(scope, self.chance.randint(3, 20) * UNIT)
        self.engines = [Engine(database, self) for _ in range(2)]
        self.rows: dict[int, Row] = {}
        self.wishes: dict[int, Reserve] = {}
        self.deadlines: dict[int, datetime] = {}
        self.ends: Counter[int] = Counter()
        self.lowered = False

    def now(self) -> datetime:
        """Return the moment that the world's clock shows."""
        return self.moment

    def set_limit(self, scope: Scope, limit: int) -> None:
        """Create a budget or change its limit."""
        new = NewBudget(*scope, limit, period="total")
        budget = self.database.run(set_budget, new, at=self.moment, by="world")
        self.numbers[scope] = budget.id
        self.limits[budget.id] = limit

    def run(self) -> None:
        """Live for some steps, then let all leases and places lapse."""
        for _ in range(STEPS):
            self.moment += timedelta(seconds=self.chance.choice([0.001, 0.001, 0.3, 2, 6]))
            self.step(self.requests())
        self.moment += timedelta(hours=1)
        for _ in range(3):
            self.moment += timedelta(seconds=2)
            self.step([])
        assert {row.state for row in self.rows.values()} <= {
            *("settled", "released", "unresolved", "withdrawn")
        }

    def requests(self) -> list[Request]:
        """Return what comes together now."""
        if self.chance.random() < 0.1:
            scope = self.chance.choice(list(self.numbers))
            self.lowered = True
            self.set_limit(scope, self.chance.randint(1, 20) * UNIT)
            return [Turn(row.id) for row in self.rows.values() if row.state == "waiting"]
        late = [number for number, deadline in self.deadlines.items() if deadline < self.moment]
        for number in late:
            del self.deadlines[number]
        found: list[Request] = [End(number, "withdrawn") for number in late]
        while self.chance.random() < 0.75:
            found.append(self.request())
        return found

    def request(self) -> Request:
        """Return what one client asks for."""
        open_holds = [row for row in self.rows.values() if row.state in ("held", "unresolved")]
        if not open_holds or self.chance.random() < 0.55:
            return self.reserve()
        if self.deadlines and self.chance.random() < 0.3:
            number = self.chance.choice(sorted(self.deadlines))
            if self.chance.random() < 0.2:
                del self.deadlines[number]  # its process dies: no sign of life, no withdrawal
            return Extend(number)
        row = self.chance.choice(open_holds)
        cost = self.chance.choice([0, row.bound // 2, row.bound, row.bound, row.bound * 2])
        if row.state == "unresolved":
            return End(row.id, "resolved", cost)
        ending: Any = self.chance.choice(
            ["settled", "settled", "settled", "released", "unresolved"]
        )
        return End(row.id, ending, cost if ending == "settled" else 0)

    def reserve(self) -> Reserve:
        """Return a call of some payer, priority and size, that may wait or not."""
        engine, scopes = self.chance.choice(self.engines), self.chance.choice(PAYERS)
        bound = self.chance.randint(1, 8) * UNIT
        minimum = self.chance.choice([bound, bound, bound, UNIT])
        wish = Reserve(
            *(engine.new_id(), scopes, encode_scopes(scopes), bound, bound, 0, minimum),
            *(self.chance.choice([0, 1, 1, 1, 2, CRITICAL]), self.chance.choice([8, 900]) * SECOND),
            may_wait=self.chance.random() < 0.6,
        )
        self.wishes[wish.hold_id] = wish
        return wish

    def step(self, requests: list[Request]) -> None:
        """Carry out a batch and all that it leaves to be looked at, then check everything."""
        before, engine = self.rows, self.chance.choice(self.engines)
        answers = engine._commit(requests)
        self.note(requests, answers)
        waited = self.read()
        for one in self.engines:
            while one.later:
                again, one.later = one.later, []
                self.moment += timedelta(milliseconds=1)
                one._commit(again)
        self.rows = self.read()
        for number in [n for n in self.deadlines if self.rows[n].state != "waiting"]:
            del self.deadlines[number]
        self.check_transitions(before)
        self.check_sums()
        self.check_turns(before, waited)
        self.check_turns(waited, self.rows)
        self.check_heads()
        if len(requests) == 1 and isinstance(requests[0], Reserve):
            self.check_decision(requests[0], answers[0], before)

    def note(self, requests: list[Request], answers: Sequence[Answer]) -> None:
        """Keep who waits until when, and how often each hold has ended."""
        assert len(requests) == len(answers)
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(request, Reserve) and isinstance(answer, Waiting):
                seconds = self.chance.choice([0.5, 3, 20])
                self.deadlines[request.hold_id] = self.moment + timedelta(seconds=seconds)
            if isinstance(request, End) and isinstance(answer, Ended):
                self.ends[request.hold_id] += request.ending != "unresolved"

    def read(self) -> dict[int, Row]:
        """Return all holds."""
        return self.database.run(_rows)

    def used(self, budget: int, rows: dict[int, Row] | None = None, state: str = "") -> int:
        """Return what holds say is used of a budget, in one state or all."""
        return sum(
            row.used
            for row in (self.rows if rows is None else rows).values()
            if (not state or row.state == state)
            and row.state not in ("waiting", "withdrawn")
            and any(key[0] == budget for key, _ in decode_amounts(row.amounts))
        )

    def check_transitions(self, before: dict[int, Row]) -> None:
        """A hold goes its way and ends once."""
        for number, row in before.items():
            state = self.rows[number].state
            path = {state} if state == row.state else NEXT.get(row.state, set())
            steps = path | {two for one in path for two in NEXT.get(one, ())}
            assert state in steps, (row, state)
        assert max(self.ends.values(), default=0) <= 1

    def check_sums(self) -> None:
        """Counters are the sums of the holds; nothing but real costs goes beyond a limit."""
        counters = self.database.run(_counters)
        for number, limit in self.limits.items():
            used, held, unresolved = counters.get(number, (0, 0, 0))
            assert used == self.used(number)
            assert held == self.used(number, state="held")
            assert unresolved == self.used(number, state="unresolved")
            excess = sum(max(row.used - row.bound, 0) for row in self.rows.values())
            assert self.lowered or used <= limit * 11 // 10 + excess

    def check_turns(self, before: dict[int, Row], after: dict[int, Row]) -> None:
        """Whoever came later, or matters less, got no turn before one that waits for the same."""
        still = [
            row
            for row in after.values()
            if row.state == "waiting" and row.id in before and before[row.id] == row
        ]
        for row in after.values() if still else ():
            known, wish = before.get(row.id), self.wishes.get(row.id)
            if row.state != "held" or wish is None or not wish.may_wait:
                continue
            if known is not None:
                asked_for = known.waits_on
            else:  # it did not wait: where there is one budget only, it is the one asked for
                covers = set(self.numbers) <= set(wish.scopes) and len(self.numbers) == 1
                asked_for = next(iter(self.limits)) if covers else -1
            overtaken = [
                one for one in still if one.waits_on == asked_for and one.place < row.place
            ]
            assert not overtaken, (row, overtaken)

    def check_heads(self) -> None:
        """The first one that waits for a budget really has to."""
        for number in self.limits:
            queue = [row for row in self.rows.values() if row.waits_on == number]
            if queue:
                head = min(queue, key=lambda row: row.place)
                assert not self.fits(self.wishes[head.id], self.rows), head

    def check_decision(self, wish: Reserve, answer: Answer, before: dict[int, Row]) -> None:
        """A call that comes alone gets what fits, waits for what may fit, or is refused."""
        swept = {n: row for n, row in self.rows.items() if n in before}
        if wish.may_wait and any(row.state == "waiting" for row in before.values()):
            return
        if any(before[n].state != row.state for n, row in swept.items()):
            return  # leases have run out, or others had their turn, in the same batch
        if isinstance(answer, Granted):
            assert self.fits(wish, before)
        elif isinstance(answer, BudgetExceeded):
            assert not self.fits(wish, before)
            in_flight = {n: row for n, row in before.items() if row.state != "held"}
            assert not (wish.may_wait and self.fits(wish, in_flight))
        else:
            assert wish.may_wait
            assert not self.fits(wish, before)

    def fits(self, wish: Reserve, rows: dict[int, Row]) -> bool:
        """Tell by the holds alone whether the least that a call takes is free everywhere."""
        for scope in decode_scopes(wish.scope_text):
            number = self.numbers.get(scope)
            if number is None:
                continue
            limit = self.limits[number]
            limit = limit * 11 // 10 if wish.priority == CRITICAL else limit
            if self.used(number, rows) + wish.minimum_nanos > limit:
                return False
        return True


def _rows(tx: Transaction) -> dict[int, Row]:
    columns = (
        "id, state, priority, bound_nanos, settled_nanos, amounts, scope, waits_on_ref, "
        "created_at_micros"
    )
    return {row[0]: Row(*row) for row in tx.rows(f"SELECT {columns} FROM budget_holds ORDER BY id")}


def _counters(tx: Transaction) -> dict[int, tuple[int, int, int]]:
    rows = tx.rows(
        "SELECT budget_ref, used_low_nanos + used_normal_nanos + used_high_nanos + "
        "used_critical_nanos, held_nanos, unresolved_nanos FROM budget_counters"
    )
    return {row[0]: tuple(row[1:]) for row in rows}


def _empty(tx: Transaction) -> None:
    for table in TABLES:
        tx.execute(f"DELETE FROM {table}")


@pytest.fixture
def database() -> Iterator[Database]:
    """Return a database in memory."""
    made = open_database("sqlite://")
    yield made
    made.close()


def _live_through(seeds: range, database: Database) -> None:
    for seed in seeds:
        try:
            World(seed, database).run()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_small_worlds_keep_their_promises(database: Database) -> None:
    """Whatever clients do, in 2,000 worlds: limits, sums, turns and ends are as promised."""
    _live_through(range(2_000), database)


@pytest.mark.torture
def test_small_worlds_keep_their_promises_at_length(database: Database) -> None:
    """The same in 50,000 other worlds."""
    _live_through(range(2_000, 52_000), database)
