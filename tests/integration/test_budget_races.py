"""Many processes race for the same money, on both databases: never a cent beyond a limit.

The processes live through all rounds; each round has a budget of its own, and a barrier before it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg
import pytest

from tests.contract.ledgers import open_ledger
from tests.contract.throttlers import CENT, DOLLAR, Throttlers
from tuppence.budget.engine import BudgetEngine
from tuppence.budget.hold_rows import decode_amounts
from tuppence.budget.requests import End, Granted, Reserve
from tuppence.budget.scopes import encode_scopes
from tuppence.budget.throttler import AsyncBudgetThrottler
from tuppence.cost_tracking.budgets import NewBudget, Scope, set_budget
from tuppence.cost_tracking.ledger import utc_now
from tuppence.errors import BudgetExceeded, HoldError
from tuppence.storage.database import Transaction
from tuppence.storage.opening import open_database

PROCESSES = 16
CALLS = 250
TIMEOUT_SECONDS = 120

processes = multiprocessing.get_context("spawn")


@contextmanager
def _workers(count: int, target: Any, *args: Any) -> Iterator[Any]:
    """Run a function in so many processes; give the queue of their results."""
    results: Any = processes.Queue()
    started = [
        processes.Process(target=target, args=(number, results, *args), daemon=True)
        for number in range(count)
    ]
    for one in started:
        one.start()
    try:
        yield results
        for one in started:
            one.join(TIMEOUT_SECONDS)
        assert [one.exitcode for one in started] == [0] * count
    finally:
        for one in started:
            one.kill()
            one.join()
        results.close()
        results.join_thread()


def _race(number: int, results: Any, barrier: Any, url: str, rounds: int) -> None:
    results.put((number, asyncio.run(_race_async(barrier, url, rounds))))


async def _race_async(barrier: Any, url: str, rounds: int) -> list[int]:
    """Ask for 250 holds at once, round after round; return how many were granted in each."""

    async def ask(throttler: AsyncBudgetThrottler, payer: str) -> int:
        try:
            await throttler.hold(0.10, project_id=payer)
        except BudgetExceeded:
            return 0
        return 1

    throttler = AsyncBudgetThrottler(database_url=url, name="race")
    granted = []
    try:
        for number in range(rounds):
            barrier.wait(TIMEOUT_SECONDS)
            asked = (ask(throttler, f"round {number}") for _ in range(CALLS))
            granted.append(sum(await asyncio.gather(*asked)))
    finally:
        await throttler.close()
    return granted


def _check_race(url: str, rounds: int) -> None:
    ledger = open_ledger(url)
    with Throttlers(ledger) as throttlers:
        for number in range(rounds):
            throttlers.set_budget("project", f"round {number}", 5 * DOLLAR, period="total")
        barrier = processes.Barrier(PROCESSES)
        with _workers(PROCESSES, _race, barrier, url, rounds) as results:
            granted = [results.get(timeout=TIMEOUT_SECONDS * 4)[1] for _ in range(PROCESSES)]
        assert [sum(one) for one in zip(*granted, strict=True)] == [50] * rounds
        tallies = [throttlers.tally("project", f"round {number}") for number in range(rounds)]
        assert {(one.total_nanos, one.held_nanos) for one in tallies} == {(5 * DOLLAR, 5 * DOLLAR)}
        assert throttlers.states() == ["held"] * (50 * rounds)
    ledger.close()


def test_sixteen_processes_take_exactly_what_is_there(database_url: str) -> None:
    """Of 4,000 calls at once of $0.10 exactly 50 get a share of $5.00, round after round."""
    _check_race(database_url, rounds=8)


@pytest.mark.torture
def test_sixteen_processes_take_exactly_what_is_there_100_times(database_url: str) -> None:
    """The same for 100 rounds."""
    _check_race(database_url, rounds=100)


TREE = {
    "organisation": 1,
    "team": 3,
    "project": 6,
    "user": 12,
    "session": 24,
    "agent": 5,
    "tag": 4,
}
"""How many entities of each kind there are."""
PERIODS: tuple[dict[str, Any], ...] = (
    {"period": "hour"},
    {"period": "day", "time_zone": "Asia/Taipei"},
    {"period": "week"},
    {"period": "month", "time_zone": "America/New_York"},
    {"period": "rolling", "window_seconds": 600},
    {"period": "total"},
)


def _plant(throttlers: Throttlers, seed: int, holds: int) -> None:
    """Give a random tree of entities budgets, one to three for different periods each.

    Limits grow with the holds to come, so that some fit and some do not.
    """
    dollars = max(200, holds // 50)
    chance = random.Random(seed)
    for kind, count in TREE.items():
        for number in range(count):
            for terms in chance.sample(PERIODS, chance.randint(1, 3)):
                limit = chance.randint(1, dollars) * DOLLAR
                throttlers.set_budget(kind, f"{kind} {number}", limit, **terms)


def _payer(chance: random.Random) -> tuple[Scope, ...]:
    """Return a path through the tree, and tags."""
    user = chance.randrange(TREE["user"])
    path: list[Scope] = [
        ("organisation", "organisation 0"),
        ("team", f"team {user % TREE['team']}"),
        ("project", f"project {user % TREE['project']}"),
        ("user", f"user {user}"),
        ("session", f"session {user * 2 + chance.randrange(2)}"),
        ("agent", f"agent {chance.randrange(TREE['agent'])}"),
    ]
    tags = chance.sample(range(TREE["tag"]), chance.randrange(3))
    chosen = [one for one in path if chance.random() < 0.8]
    return (*chosen, *(("tag", f"tag {number}") for number in tags))


def _live(engine: BudgetEngine, seed: int, calls: int) -> tuple[int, int]:
    """Make random holds and end most of them; return how many were granted and refused."""
    chance = random.Random(seed)
    granted = refused = 0
    for _ in range(calls):
        scopes, bound = _payer(chance), chance.randint(1, 60 * CENT)
        request = Reserve(
            *(engine.new_id(), scopes, encode_scopes(scopes)),
            *(bound, bound, 0, bound, chance.randrange(4), 3_600_000_000),
        )
        answer = None
        with suppress(BudgetExceeded):
            answer = engine.perform(request)
        if not isinstance(answer, Granted):
            refused += 1
            continue
        granted += 1
        fate = chance.random()
        if fate < 0.7:
            engine.perform(End(answer.hold_id, "settled", chance.randint(0, bound)))
        elif fate < 0.85:
            engine.perform(End(answer.hold_id, "released"))
        elif fate < 0.9:
            engine.perform(End(answer.hold_id, "unresolved"))
    return granted, refused


def _live_in_threads(number: int, results: Any, url: str, threads: int, calls: int) -> None:
    database = open_database(url)
    engine = BudgetEngine(database, utc_now)
    try:
        with ThreadPoolExecutor(threads) as pool:
            futures = [
                pool.submit(_live, engine, 1_000 * number + thread, calls)
                for thread in range(threads)
            ]
            results.put([sum(one) for one in zip(*(f.result() for f in futures), strict=True)])
    finally:
        engine.close()
        database.close()


def _sums_of_holds(tx: Transaction) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Return what the hold rows say of each counter: used, held, unresolved."""
    sums: dict[tuple[int, int], Counter[str]] = {}
    rows = tx.rows("SELECT state, bound_nanos, settled_nanos, amounts FROM budget_holds")
    for state, bound, settled, amounts in rows:
        for key, held in decode_amounts(amounts):
            used = {"held": held, "unresolved": bound}.get(state, settled)
            sums.setdefault(key, Counter()).update({"used": used, state: used})
    return {key: (one["used"], one["held"], one["unresolved"]) for key, one in sums.items()}


def _counters(tx: Transaction) -> dict[tuple[int, int], tuple[int, int, int]]:
    rows = tx.rows(
        "SELECT budget_ref, period_start_micros, used_low_nanos + used_normal_nanos + "
        "used_high_nanos + used_critical_nanos, held_nanos, unresolved_nanos FROM budget_counters"
    )
    return {(row[0], row[1]): tuple(row[2:]) for row in rows}


def _check_trees(url: str, seed: int, workers: int, threads: int, calls: int) -> None:
    ledger = open_ledger(url)
    with Throttlers(ledger) as throttlers:
        throttlers.clock.moment = utc_now()
        _plant(throttlers, seed, workers * threads * calls)
        with _workers(workers, _live_in_threads, url, threads, calls) as results:
            lived = [results.get(timeout=TIMEOUT_SECONDS * 10) for _ in range(workers)]
        granted, refused = map(sum, zip(*lived, strict=True))
        assert granted + refused == workers * threads * calls
        assert min(granted, refused) > workers * threads * calls // 20, "a test of one outcome only"
        counters = ledger.database.read(_counters)
        sums = ledger.database.read(_sums_of_holds)
        assert {key: sums.get(key, (0, 0, 0)) for key in counters} == counters
        assert set(sums) <= set(counters)
        assert len(throttlers.states()) == granted
        _check_limits(throttlers)
    ledger.close()


def _check_limits(throttlers: Throttlers) -> None:
    """No budget is used beyond what critical calls may use of it: nobody settled for more."""
    query = (
        "SELECT b.limit_nanos, b.period, MAX(c.used_low_nanos + c.used_normal_nanos + "
        "c.used_high_nanos + c.used_critical_nanos) FROM budget_counters c "
        "JOIN cost_budgets b ON b.id = c.budget_ref GROUP BY b.id, b.limit_nanos, b.period"
    )
    for limit, period, used in throttlers.ledger.database.read(lambda tx: tx.rows(query)):
        assert used <= limit + limit // 10, period


def _deadlocks(url: str) -> int:
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def test_random_trees_on_sqlite_add_up(sqlite_url: str) -> None:
    """10,000 holds by threads of two processes leave the sums of the holds, to the nano-dollar."""
    _check_trees(sqlite_url, seed=1, workers=2, threads=25, calls=200)


def test_random_trees_on_postgresql_add_up_without_deadlock(postgresql_url: str) -> None:
    """The same by four processes on PostgreSQL: each locks in the same order as the others."""
    open_ledger(postgresql_url).close()
    before = _deadlocks(postgresql_url)
    _check_trees(postgresql_url, seed=2, workers=4, threads=25, calls=100)
    assert _deadlocks(postgresql_url) == before


def test_counters_that_are_new_do_not_deadlock(postgresql_url: str) -> None:
    """Callers over different budgets whose periods all begin at once do not wait in a circle."""
    open_ledger(postgresql_url).close()
    before = _deadlocks(postgresql_url)
    database = open_database(postgresql_url)
    for number in range(30):  # a new counter for each of them every 0.1 s
        window = NewBudget("user", f"user {number}", DOLLAR, period="rolling", window_seconds=6)
        database.run(set_budget, window, at=utc_now(), by="test")

    def live(seed: int) -> None:
        chance = random.Random(seed)
        with closing(open_database(postgresql_url)) as own:
            engine = BudgetEngine(own, utc_now)
            for _ in range(60):
                users = chance.sample(range(30), 6)
                scopes = tuple(("user", f"user {number}") for number in users)
                hold = _reservation(engine, scopes)
                engine.perform(hold)
                engine.perform(End(hold.hold_id, "settled", 1))
            engine.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(8)))
    database.close()
    assert _deadlocks(postgresql_url) == before


def _reservation(engine: BudgetEngine, scopes: tuple[Scope, ...]) -> Reserve:
    text = encode_scopes(scopes)
    return Reserve(engine.new_id(), scopes, text, 1_000, 1_000, 0, 1_000, 1, 900_000_000)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(3))
def test_random_trees_add_up_at_length(database_url: str, seed: int) -> None:
    """100,000 holds over another tree."""
    _check_trees(database_url, seed=10 + seed, workers=4, threads=25, calls=1_000)


def test_only_one_thread_of_many_ends_a_hold(database_url: str) -> None:
    """Of many that settle or release the same hold at once one does, and it is counted once."""
    ledger = open_ledger(database_url)
    with Throttlers(ledger) as throttlers:
        throttler = throttlers(10)
        hold = throttler.hold(1)
        done: list[str] = []
        start = threading.Barrier(16)

        def end(number: int) -> None:
            start.wait()
            with suppress(HoldError):
                throttler.settle(hold.id, 0.5) if number % 2 else throttler.release(hold.id)
                done.append("settled" if number % 2 else "released")

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(end, range(16)))
        assert throttlers.states() == done
        assert len(done) == 1
        assert throttlers.tally().total_nanos == (50 * CENT if done == ["settled"] else 0)
    ledger.close()
