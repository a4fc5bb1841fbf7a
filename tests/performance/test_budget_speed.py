"""Budgets, beside the bare engines with the same durability. All in turns: the machine is noisy.

TUPPENCE_BENCH_BUDGETS=1000000 measures among a million budgets.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

from tests.performance.bare_engines import (
    Update,
    bare_postgresql,
    bare_redis,
    bare_sqlite,
    is_durable,
    make_table,
    updates_per_second,
)
from tests.performance.conftest import seconds_of
from tuppence.budget.throttler import AsyncBudgetThrottler, BudgetThrottler
from tuppence.cost_tracking.budgets import COLUMNS, NewBudget
from tuppence.cost_tracking.counters import create_budget
from tuppence.cost_tracking.ledger import utc_now
from tuppence.storage.database import Transaction

Figure = Callable[[str, str, str], None]

BUDGETS = int(os.environ.get("TUPPENCE_BENCH_BUDGETS", "10000"))
LIMIT = 10**6
BOUND, COST = 0.01, 0.009
PAIRS = 10_000
TURNS = 3


def kind_of(database_url: str) -> str:
    """Return the engine's name."""
    return database_url.partition(":")[0]


def test_looking(database_url: str, figure: Figure) -> None:
    """should_throttle takes 10 µs in the median: it looks at what the process knows."""
    with closing(BudgetThrottler(LIMIT, database_url=database_url)) as throttler:
        throttler.hold(BOUND).settle(COST)
        taken = sorted(seconds_of(lambda: throttler.should_throttle("0.01"), 20_000))
        assert throttler.should_throttle("0.01")["allow"]
    kind, p99 = kind_of(database_url), taken[len(taken) * 99 // 100]
    figure(
        f"should_throttle on {kind}, median",
        f"{median(taken) * 1e6:.1f} us",
        f"target 10 us; p99 {p99 * 1e6:.0f} us",
    )


async def pairs_of_tasks(database_url: str, tasks: int) -> float:
    """Return how many calls per second asyncio tasks hold money for and settle."""
    throttler = AsyncBudgetThrottler(LIMIT, name="tasks", database_url=database_url)

    async def call_after_call() -> None:
        """Hold and settle again and again."""
        for _ in range(PAIRS // tasks):
            hold = await throttler.hold(BOUND)
            await hold.settle(COST)

    try:
        await (await throttler.hold(BOUND)).settle(COST)
        start = perf_counter()
        await asyncio.gather(*(call_after_call() for _ in range(tasks)))
        return PAIRS // tasks * tasks / (perf_counter() - start)
    finally:
        await throttler.close()


def pairs_of_threads(database_url: str, threads: int) -> float:
    """Return the same for threads."""

    def call_after_call(throttler: BudgetThrottler) -> None:
        for _ in range(PAIRS // threads):
            throttler.hold(BOUND).settle(COST)

    with (
        closing(BudgetThrottler(LIMIT, name="threads", database_url=database_url)) as throttler,
        ThreadPoolExecutor(threads) as pool,
    ):
        throttler.hold(BOUND).settle(COST)
        start = perf_counter()
        list(pool.map(call_after_call, [throttler] * threads))
        return PAIRS // threads * threads / (perf_counter() - start)


Rates = dict[str, list[float]]


def rates_in_turns(measured: dict[str, Callable[[], float]]) -> Rates:
    """Return the rates of several ways, measured one after the other, some times over."""
    rates: Rates = {name: [] for name in measured}
    for _ in range(TURNS):
        for name, measure in measured.items():
            rates[name].append(measure())
    return rates


def ways_to_call(database_url: str) -> dict[str, Callable[[], float]]:
    """Return the ways in which many callers come."""
    return {
        "256 tasks": lambda: asyncio.run(pairs_of_tasks(database_url, 256)),
        "64 threads": lambda: pairs_of_threads(database_url, 64),
        "256 threads": lambda: pairs_of_threads(database_url, 256),
    }


def note_rates(figure: Figure, kind: str, rates: Rates, target: str) -> None:
    """Note rates, the bare ones as what they are: a pair takes two of them."""
    for name, values in rates.items():
        low, high = min(values), max(values)
        if name.startswith("bare"):
            against = f"{low:,.0f}-{high:,.0f}; a pair takes two"
            figure(f"{kind}: {name}", f"{median(values):,.0f} updates/s", against)
        else:
            against = f"target {target}; {low:,.0f}-{high:,.0f}"
            figure(f"{kind}: hold + settle, {name}", f"{median(values):,.0f} pairs/s", against)


def booked(database_url: str) -> int:
    """Return how many calls the budgets of the throttlers have counted."""
    with closing(BudgetThrottler(database_url=database_url)) as throttler:
        ((count,),) = throttler.database.read(
            lambda tx: tx.rows("SELECT CAST(SUM(settled_count) AS BIGINT) FROM budget_counters")
        )
        return int(count)


def expected_calls() -> int:
    """Return how many calls the ways to call make in all, each with one to begin with."""
    return TURNS * sum(PAIRS // callers * callers + 1 for callers in (256, 64, 256))


def test_many_callers_on_sqlite(tmp_path: Path, sqlite_url: str, figure: Figure) -> None:
    """Many callers of one process hold and settle 10,000 calls/s, each durably, on one file."""
    with bare_sqlite(tmp_path / "bare.db") as update:

        def bare() -> float:
            return 1 / median(seconds_of(update, 1_000))

        rates = rates_in_turns({**ways_to_call(sqlite_url), "bare UPDATE, 1 caller": bare})
    note_rates(figure, "sqlite", rates, "10,000")
    assert booked(sqlite_url) == expected_calls()


def test_many_callers_on_postgresql(postgresql_url: str, figure: Figure) -> None:
    """Many callers of one process hold and settle 5,000 calls/s, each durably, on a hot budget."""
    assert is_durable(postgresql_url)
    make_table(postgresql_url)
    bare: dict[str, Callable[[], float]] = {
        f"bare UPDATE, {connections} connections": (
            lambda n=connections: updates_per_second(postgresql_url, n, 1_600 // n)
        )
        for connections in (1, 8, 32)
    }
    rates = rates_in_turns({**ways_to_call(postgresql_url), **bare})
    note_rates(figure, "postgresql", rates, "5,000")
    assert booked(postgresql_url) == expected_calls()


@contextmanager
def bare_engine(database_url: str, directory: Path) -> Iterator[Update]:
    """Lend the bare update on the same engine."""
    if kind_of(database_url) == "sqlite":
        with bare_sqlite(directory / "bare.db") as update:
            yield update
    else:
        with bare_postgresql(database_url) as update:
            yield update


def test_one_caller(database_url: str, tmp_path: Path, figure: Figure) -> None:
    """For a lone caller a hold, and a settlement, takes 1.5x as long as the bare update."""
    taken: dict[str, list[float]] = {"hold": [], "settle": [], "bare": []}
    with (
        closing(BudgetThrottler(LIMIT, database_url=database_url)) as throttler,
        bare_engine(database_url, tmp_path) as update,
    ):
        for _ in range(2_000):  # each in turn: whatever slows the disk slows all three
            times = [perf_counter()]
            hold = throttler.hold(BOUND)
            times.append(perf_counter())
            hold.settle(COST)
            times.append(perf_counter())
            update()
            times.append(perf_counter())
            for name, begin, end in zip(taken, times, times[1:], strict=False):
                taken[name].append(end - begin)
    middle = {name: median(values[100:]) for name, values in taken.items()}
    for name in ("hold", "settle"):
        figure(
            f"{kind_of(database_url)}: {name} / bare UPDATE, 1 caller",
            f"{middle[name] / middle['bare']:.2f}x",
            f"target 1.5x; {middle[name] * 1e6:.0f} us against {middle['bare'] * 1e6:.0f} us",
        )
    assert max(middle["hold"], middle["settle"]) < 5 * middle["bare"]


def test_redis(redis_url: str, database_url: str, figure: Figure) -> None:
    """With Redis a lone caller gets 60% as many decisions per second as Redis answers scripts."""
    throttler = BudgetThrottler(LIMIT, database_url=database_url, redis_url=redis_url)
    decided: list[float] = []
    bare: list[float] = []
    with closing(throttler), bare_redis(redis_url) as script:
        for _ in range(20):
            holds = []
            for _ in range(50):
                times = [perf_counter()]
                holds.append(throttler.hold(BOUND))
                times.append(perf_counter())
                script()
                times.append(perf_counter())
                decided.append(times[1] - times[0])
                bare.append(times[2] - times[1])
            for hold in holds:
                hold.settle(COST)
        assert throttler.get_budget_summary()["current_usage_nanos"] == 1_000 * 9_000_000
    share = median(bare) / median(decided)
    figure(
        f"redis and {kind_of(database_url)}: hold / bare EVALSHA, rates, 1 caller",
        f"{share:.0%}",
        f"target 60%; {1 / median(decided):,.0f}/s against {1 / median(bare):,.0f}/s",
    )
    assert share > 0.05


def seconds_per_pair(throttler: BudgetThrottler, payers: Sequence[dict[str, str]]) -> float:
    """Return the median time of a hold with its settlement for each of some payers."""
    taken = []
    for payer in payers:
        start = perf_counter()
        throttler.hold(BOUND, **payer).settle(COST)  # type: ignore[arg-type]
        taken.append(perf_counter() - start)
    return median(taken)


def test_more_scopes(database_url: str, figure: Figure) -> None:
    """Four budgets that cover one call cost little more than one: they are written together."""
    one = {"team_id": "single"}
    four = {f"{kind}_id": "many" for kind in ("team", "project", "user", "agent")}
    with closing(BudgetThrottler(database_url=database_url)) as throttler:
        for field, name in (*one.items(), *four.items()):
            new = NewBudget(field.removesuffix("_id"), name, LIMIT * 10**9)
            throttler.database.run(create_budget, new, at=utc_now(), by="test")
        ratios = []
        for _ in range(9):
            single = seconds_per_pair(throttler, [one] * 100)
            ratios.append(seconds_per_pair(throttler, [four] * 100) / single)
    ratio = median(ratios)
    figure(f"{kind_of(database_url)}: 4 scopes / 1 scope", f"{ratio:.2f}x", "1 caller, hold+settle")
    assert ratio < 4


def make_budgets(tx: Transaction) -> None:
    """Make budgets of so many users by SQL alone."""
    values = {
        "entity_type": "'user'",
        "entity_id": "'user-' || n",
        "period": "'month'",
        "window_seconds": "0",
        "time_zone": "'UTC'",
        "limit_nanos": str(LIMIT * 10**9),
        "mode": "'strict'",
        "warning_threshold": "0.8",
        "critical_threshold": "0.95",
        "critical_ceiling": "0.1",
        "overdraft_share": "0.01",
        "reserved_shares": "''",
        "paused": "0",
    }
    tx.execute(
        f"INSERT INTO cost_budgets ({', '.join(COLUMNS)}, created_at_micros) "
        "WITH RECURSIVE a(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM a WHERE n < 999), "
        f"b(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM b WHERE n < {BUDGETS // 1000 - 1}) "
        f"SELECT {', '.join(values[name] for name in COLUMNS)}, 0 "
        "FROM (SELECT b.n * 1000 + a.n AS n FROM b, a) s"
    )


def test_more_budgets(database_url: str, figure: Figure) -> None:
    """Among many budgets a call takes little longer than with one: rows are found by index."""
    chosen = random.Random(7).sample(range(BUDGETS), 1_000)
    payers = [{"user_id": f"user-{number}"} for number in chosen]
    with closing(BudgetThrottler(database_url=database_url)) as throttler:
        alone = NewBudget("team", "single", LIMIT * 10**9)
        throttler.database.run(create_budget, alone, at=utc_now(), by="test")
        few = [seconds_per_pair(throttler, [{"team_id": "single"}] * 100) for _ in range(5)]
        throttler.database.run(make_budgets)
        single, first, again = [], [], []
        for start in range(0, len(payers), 100):
            some = payers[start : start + 100]
            single.append(seconds_per_pair(throttler, [{"team_id": "single"}] * 100))
            first.append(seconds_per_pair(throttler, some))
            again.append(seconds_per_pair(throttler, random.Random(start).sample(some, 100)))
    kind = kind_of(database_url)
    note = f"{median(few) * 1e6:.0f} us per pair with 1 budget"
    for what, taken in (("the same budget", single), ("a budget's first call", first)):
        figure(
            f"{kind}: {BUDGETS:,} budgets / 1, {what}", f"{median(taken) / median(few):.2f}x", note
        )
    figure(
        f"{kind}: {BUDGETS:,} budgets / 1, random ones", f"{median(again) / median(few):.2f}x", note
    )
    assert median(again) < 4 * median(few)
