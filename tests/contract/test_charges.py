"""What is booked counts against every budget that covers it: once, and in the call's own period."""

from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from multiprocessing import get_context

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.ledgers import NOON, call, empty, open_ledger, opened, plain_sum
from tuppence.budget.throttler import BudgetThrottler
from tuppence.core.periods import bucket_micros, load_zone, period_at, to_micros
from tuppence.cost_tracking.booking import Call
from tuppence.cost_tracking.budgets import Budget, NewBudget
from tuppence.cost_tracking.counters import BudgetStatus, status_of
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.service import CostTrackingService
from tuppence.errors import IdempotencyConflict, InvalidInput
from tuppence.storage.database import Row

TOKEN_NANOS = 3_000
"""What an input token of model alpha costs."""

WHO = {
    "team_id": "red",
    "project_id": "web",
    "user_id": "ann",
    "session_id": "s1",
    "agent_id": "main",
    "tags": ("env=prod", "x"),
}
SCOPES = (
    ("organisation", "default"),
    ("team", "red"),
    ("project", "web"),
    ("user", "ann"),
    ("session", "s1"),
    ("agent", "main"),
    ("tag", "env=prod"),
    ("tag", "x"),
)
PERIODS = ("hour", "day", "week", "month", "total")


def _budget(kind: str, name: str, period: str = "month", tokens: int = 10**9) -> NewBudget:
    window = 3_600 if period == "rolling" else 0
    return NewBudget(kind, name, tokens * TOKEN_NANOS, period=period, window_seconds=window)


def _status(ledger: Ledger, budget: Budget, at: datetime = NOON) -> BudgetStatus:
    return ledger.database.read(status_of, budget, to_micros(at))


def _used(ledger: Ledger, budget: Budget, at: datetime = NOON) -> tuple[int, int]:
    status = _status(ledger, budget, at)
    return status.spent_nanos, status.tally.settled_count


def _alerts(ledger: Ledger) -> list[Row]:
    query = "SELECT budget_ref, severity, period_start_micros FROM cost_alerts"
    return sorted(ledger.database.read(lambda tx: tx.rows(query)))


@pytest.mark.parametrize("period", [*PERIODS, "rolling"])
def test_a_call_counts_in_every_budget_that_covers_it(ledger: Ledger, period: str) -> None:
    """Each of the call's scopes is charged its cost; others with like names are not."""
    covering = [ledger.create_budget(_budget(*scope, period)) for scope in SCOPES]
    names = [("team", "web"), ("user", "red"), ("tag", "env"), ("session", "main"), ("agent", "x")]
    others = [ledger.create_budget(_budget(*scope, period)) for scope in names]
    made = call(**WHO)
    ledger.book([made])
    cost = plain_sum([made]).cost_nanos
    assert [_used(ledger, one) for one in covering] == [(cost, 1)] * len(SCOPES)
    assert [_used(ledger, one) for one in others] == [(0, 0)] * len(names)


def test_every_way_of_booking_counts(ledger: Ledger) -> None:
    """One call, many calls, a fuller view of a call, and its price found later: all count once."""
    budget = ledger.create_budget(_budget("team", "red"))
    expected = []
    ledger.book_one(call(key="one"))
    expected.append(call())
    ledger.book([call(key="two"), call(key="three"), call(key="three")])
    expected += [call(), call()]
    ledger.book([call(key="one"), call(key="two", output_tokens=150)], on_change="amend")
    expected[1] = call(output_tokens=150)
    ledger.book(
        [call("mystery", key="four"), call("mystery", key="four", output_tokens=500)],
        on_change="amend",
    )
    assert _used(ledger, budget) == (plain_sum(expected).cost_nanos, 4)
    ledger.set_price("mystery", {"input_mtok": "1", "output_mtok": "2"}, starts_at=_LONG_AGO)
    ledger.reprice()
    cost = plain_sum(expected).cost_nanos + 1_000 * 1_000 + 500 * 2_000
    assert _used(ledger, budget) == (cost, 4)
    ledger.set_price("mystery", {"input_mtok": "0", "output_mtok": "0"}, starts_at=_LONG_AGO)
    ledger.reprice(unpriced_only=False)
    assert _used(ledger, budget) == (plain_sum(expected).cost_nanos, 4)


_LONG_AGO = NOON - timedelta(days=300)


def test_a_refused_batch_counts_nothing(ledger: Ledger) -> None:
    """A batch that is refused as a whole must leave the counters alone."""
    budget = ledger.create_budget(_budget("team", "red"))
    ledger.book([call(key="a")])
    before = _used(ledger, budget)
    with pytest.raises(IdempotencyConflict):
        ledger.book([call(key="b"), call(key="a", input_tokens=7)])
    assert _used(ledger, budget) == before


def test_late_calls_count_in_their_own_period(ledger: Ledger) -> None:
    """A call of last month counts in last month's budget, not in this month's."""
    budget = ledger.create_budget(_budget("team", "red"))
    last_month = NOON - timedelta(days=30)
    ledger.book([call(at=last_month, input_tokens=1), call(input_tokens=10)])
    ledger.book([call(at=last_month, input_tokens=100)])
    late = plain_sum([call(input_tokens=1), call(input_tokens=100)]).cost_nanos
    assert _used(ledger, budget, last_month) == (late, 2)
    assert _used(ledger, budget) == (plain_sum([call(input_tokens=10)]).cost_nanos, 1)


def test_a_call_that_a_hold_pays_for_counts_once(database_url: str) -> None:
    """The hold's settlement counts; the same call in the ledger does not count again."""
    with (
        closing(CostTrackingService(database_url, now=lambda: NOON)) as tracker,
        closing(BudgetThrottler(database_url=database_url, now=lambda: NOON)) as throttler,
    ):
        ledger = tracker.ledger
        budget = ledger.create_budget(_budget("team", "red"))
        hold = throttler.hold("0.10", team_id="red")
        hold.settle("0.04")
        usage = {"model": "claude-sonnet-5-5", "input_tokens": 10_000, "team_id": "red"}
        for _ in range(2):
            row = tracker.log_api_usage(**usage, hold_id=hold.id, response_id="r1")
        assert row.total_cost_nanos > 0
        assert _used(ledger, budget) == (40_000_000, 1)
        tracker.log_api_usage(**usage, hold_id=None)
        assert _used(ledger, budget) == (40_000_000 + row.total_cost_nanos, 2)
        assert ledger.verify().rows == 2


@pytest.mark.parametrize("bad", ["", "42", 42, "x1"])
def test_a_hold_is_named_by_its_id(sqlite_url: str, bad: object) -> None:
    """What is no id of a hold must be refused, or a call would silently not count."""
    with closing(CostTrackingService(sqlite_url)) as tracker:
        with pytest.raises(InvalidInput) as refused:
            tracker.log_api_usage(model="claude-sonnet-5-5", input_tokens=1, hold_id=bad)
        assert refused.value.field == "hold_id"


def test_a_budget_begins_with_what_is_booked(ledger: Ledger) -> None:
    """A budget that is made later counts what its period has seen before, in any kind of scope."""
    made = [call(**WHO, at=NOON - timedelta(minutes=n), input_tokens=n) for n in range(1, 60, 7)]
    ledger.book([*made, call(team_id="other", session_id="s2", agent_id="other")])
    expected = (plain_sum(made).cost_nanos, len(made))
    for period in ("day", "rolling", "total"):
        for scope in SCOPES[1:]:
            status = _status(ledger, ledger.create_budget(_budget(*scope, period)))
            assert status.spent_nanos == expected[0], (period, scope)
            assert period == "rolling" or status.tally.settled_count == expected[1]


NAMES = st.sampled_from(["", "a", "b"])
CALLS = st.lists(
    st.tuples(
        st.integers(-3 * 24 * 60, 60),  # minutes from now
        st.sampled_from(["alpha", "beta", "mystery"]),
        st.integers(0, 10**6),
        st.fixed_dictionaries(
            {
                "team_id": NAMES,
                "project_id": NAMES,
                "user_id": NAMES,
                "session_id": NAMES,
                "agent_id": NAMES,
                "tags": st.sampled_from([(), ("a",), ("a", "b")]),
            }
        ),
    ),
    min_size=1,
    max_size=8,
)
BUDGETS = st.lists(
    st.tuples(
        st.sampled_from(["organisation", "team", "project", "user", "session", "agent", "tag"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from([*PERIODS, "rolling"]),
        st.sampled_from(["UTC", "Asia/Kathmandu", "America/New_York"]),
    ),
    max_size=4,
)
STEPS = st.lists(st.tuples(BUDGETS, CALLS, st.booleans()), min_size=1, max_size=4)


def _covered(budget: Budget, made: Call) -> bool:
    names = {
        "organisation": ("default",),
        "team": (made.attribution.team_id,),
        "project": (made.attribution.project_id,),
        "user": (made.attribution.user_id,),
        "session": (made.attribution.session_id,),
        "agent": (made.attribution.agent_id,),
        "tag": made.attribution.tags,
    }
    return budget.entity_id in names[budget.entity_type]


def _expected(budget: Budget, calls: list[Call], moment: int) -> int:
    """Return what counts at a moment, summed call by call."""
    zone, window = load_zone(budget.time_zone), budget.window_seconds
    start, end = period_at(moment, budget.period, zone, window)
    if budget.period == "rolling":
        start -= (window * 1_000_000 // bucket_micros(window)) * bucket_micros(window)
    within = [one for one in calls if start <= one.occurred_at_micros < end]
    return plain_sum([one for one in within if _covered(budget, one)]).cost_nanos


def _compare(ledger: Ledger, steps: list[tuple[list[tuple[str, ...]], list[Row], bool]]) -> None:
    budgets: dict[int, Budget] = {}
    calls: list[Call] = []
    for new_budgets, new_calls, twice in steps:
        for kind, name, period, zone in new_budgets:
            name = "default" if kind == "organisation" else name  # noqa: PLW2901
            new = _budget(kind, name, period)._replace(time_zone=zone)
            made = ledger.create_budget(new)
            budgets[made.id] = made
        batch = [
            call(
                model, tokens, at=NOON + timedelta(minutes=minutes), key=f"{len(calls) + n}", **who
            )
            for n, (minutes, model, tokens, who) in enumerate(new_calls)
        ]
        ledger.book(batch)
        if twice:
            ledger.book([*batch, batch[0]])
        calls += batch
    for budget in budgets.values():
        rolling = budget.period == "rolling"
        moments = [to_micros(NOON)] if rolling else [one.occurred_at_micros for one in calls]
        for moment in moments:
            status = ledger.database.read(status_of, budget, moment)
            assert status.spent_nanos == _expected(budget, calls, moment), (budget, moment)


ANY_TIME = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@settings(ANY_TIME, max_examples=60)
@given(steps=STEPS)
def test_counters_equal_plain_sums(steps: list[Row]) -> None:
    """Whatever is booked in whatever order, counters say what a sum over the calls says."""
    with opened("sqlite://") as ledger:
        _compare(ledger, steps)


@settings(ANY_TIME, max_examples=10)
@given(steps=STEPS)
def test_counters_equal_plain_sums_on_postgresql(shared_database: str, steps: list[Row]) -> None:
    """The same on PostgreSQL."""
    empty(shared_database)
    with opened(shared_database) as ledger:
        _compare(ledger, steps)


@pytest.mark.torture
@settings(ANY_TIME, max_examples=3_000)
@given(steps=STEPS)
def test_counters_equal_plain_sums_at_length(steps: list[Row]) -> None:
    """The same on SQLite, tried for minutes."""
    with opened("sqlite://") as ledger:
        _compare(ledger, steps)


WORKERS = 8
CALLS_EACH = 12
LIMIT_TOKENS = WORKERS * CALLS_EACH - 1
"""All workers together go beyond the limit with the last call."""

ONE_TOKEN = f"{TOKEN_NANOS / 10**9:.9f}"


def _crossed(ledger: Ledger) -> list[str]:
    return sorted(severity for _, severity, _ in _alerts(ledger))


def _spend_in_process(url: str, number: int) -> None:
    """Spend a token at a time: by bookings, or by holds, or without either."""
    throttler = BudgetThrottler(database_url=url, now=lambda: NOON)
    ledger = open_ledger(url)
    with closing(throttler), closing(ledger):
        for _ in range(CALLS_EACH):
            if number % 2:
                ledger.book([call(input_tokens=1, output_tokens=0)])
            elif number % 4:
                throttler.record_usage(ONE_TOKEN, team_id="red")
            else:
                throttler.hold(ONE_TOKEN, team_id="red").settle(ONE_TOKEN)


def test_processes_that_cross_a_threshold_write_one_alert(database_url: str) -> None:
    """Eight processes book, hold and spend: the sum is exact, each threshold has one alert."""
    with opened(database_url) as ledger:
        new = _budget("team", "red", tokens=LIMIT_TOKENS)._replace(mode="soft")
        budget = ledger.create_budget(new)
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as processes:
            list(processes.map(_spend_in_process, [database_url] * WORKERS, range(WORKERS)))
        assert _used(ledger, budget) == (WORKERS * CALLS_EACH * TOKEN_NANOS, WORKERS * CALLS_EACH)
        assert _crossed(ledger) == ["critical", "exceeded", "warning"]


def test_threads_that_cross_thresholds_at_once(ledger: Ledger) -> None:
    """Each call crosses every threshold of every budget: one alert each in each period."""
    periods = ("hour", "day", "month", "total", "rolling")
    for period in periods:
        ledger.create_budget(_budget("team", "red", period, tokens=1))
    start = threading.Barrier(WORKERS)

    def book(number: int) -> None:
        start.wait()
        ledger.book([call(input_tokens=100 + number, session_id=f"s{number}")])

    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(book, range(WORKERS)))
    assert _crossed(ledger) == sorted(["critical", "exceeded", "warning"] * len(periods))
    ledger.book([call()])
    ledger.book([call(at=NOON - timedelta(hours=2))])
    hours = [row for row in _alerts(ledger) if row[0] == 1]
    assert len(hours) == 6
    assert len(_alerts(ledger)) == 3 * (len(periods) + 1)


def test_budgets_that_are_made_while_calls_are_booked(ledger: Ledger) -> None:
    """A booking that does not know of a new budget must be in what its counters begin with."""
    over = threading.Event()
    booked = []

    def book(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            batch = [call(key=f"{number}-{count}-{n}", user_id=f"u{n}") for n in range(3)]
            ledger.book(batch)
            booked.extend(batch)

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(book, number) for number in range(4)]
        made = [
            ledger.create_budget(_budget("user", user, period))
            for user in ("u0", "u1", "u2")
            for period in ("day", "month", "total")
        ]
        over.set()
        for one in running:
            one.result()
    for budget in made:
        own = [one for one in booked if one.attribution.user_id == budget.entity_id]
        assert _used(ledger, budget) == (plain_sum(own).cost_nanos, len(own))


def test_raises_and_pauses_are_on_record(ledger: Ledger) -> None:
    """A raise for now ends with its period, one for good stays; each change has its line."""
    budget = ledger.create_budget(_budget("team", "red", tokens=100), by="ann")
    limit = 100 * TOKEN_NANOS
    assert ledger.raise_budget(budget, 7, permanent=False, by="bob").limit_nanos == limit + 7
    assert ledger.raise_budget(budget, 5, permanent=True, by="bob").limit_nanos == limit + 12
    next_month = NOON + timedelta(days=20)
    assert (
        _status(ledger, ledger.find_budgets("team", "red")[0], next_month).limit_nanos == limit + 5
    )
    assert ledger.pause_budget(budget, by="cy").terms.paused
    assert ledger.pause_budget(budget, by="cy").terms.paused
    assert not ledger.pause_budget(budget, paused=False, by="cy").terms.paused
    changes = ledger.budget_changes()
    assert [(one.action, one.changed_by) for one in changes] == [
        ("set", "ann"),
        ("raise", "bob"),
        ("raise", "bob"),
        ("pause", "cy"),
        ("resume", "cy"),
    ]
    assert [changes[1].before["raised_nanos"], changes[1].after["raised_nanos"]] == [0, 7]
    assert (changes[2].before, changes[2].after) == (
        {"limit_nanos": limit},
        {"limit_nanos": limit + 5},
    )
    assert ledger.budget_changes([]) == []


def test_a_rolling_window_is_raised_until_it_has_passed(ledger: Ledger) -> None:
    """A raise holds for a whole window, not only for the slice in which it was made."""
    budget = ledger.create_budget(_budget("team", "red", "rolling", tokens=100))
    assert ledger.raise_budget(budget, 7, permanent=False).limit_nanos == 100 * TOKEN_NANOS + 7
    soon, late = NOON + timedelta(minutes=30), NOON + timedelta(hours=2)
    assert _status(ledger, budget, soon).limit_nanos == 100 * TOKEN_NANOS + 7
    assert _status(ledger, budget, late).limit_nanos == 100 * TOKEN_NANOS


@pytest.mark.parametrize("amount", [0, -1, 10**17])
def test_raises_that_make_no_sense(ledger: Ledger, amount: int) -> None:
    """A raise by nothing, or beyond what a column holds, is refused and changes nothing."""
    budget = ledger.create_budget(_budget("team", "red", tokens=100))
    for permanent in (True, False):
        with pytest.raises(InvalidInput):
            ledger.raise_budget(budget, amount, permanent=permanent)
    assert _status(ledger, budget).limit_nanos == 100 * TOKEN_NANOS
    assert len(ledger.budget_changes()) == 1


def test_another_time_zone_loses_nothing(database_url: str) -> None:
    """What was booked while a budget had another time zone, or without a booking, counts."""
    with (
        opened(database_url) as ledger,
        closing(BudgetThrottler(database_url=database_url, now=lambda: NOON)) as throttler,
    ):
        new = _budget("team", "red")
        budget = ledger.create_budget(new)
        throttler.record_usage("0.04", priority="high", team_id="red")
        cost = 40_000_000
        for zone in ("Asia/Taipei", "UTC", "Asia/Taipei"):
            ledger.book([call()])
            cost += plain_sum([call()]).cost_nanos
            budget = ledger.create_budget(new._replace(time_zone=zone))
            assert _used(ledger, budget)[0] == cost


def test_a_budget_that_is_set_again_alike_is_left_alone(ledger: Ledger) -> None:
    """Each process that starts says what its budget is: that is no change, and not on record."""
    first = ledger.create_budget(_budget("team", "red"))
    assert ledger.create_budget(_budget("team", "red")) == first
    assert len(ledger.budget_changes()) == 1
