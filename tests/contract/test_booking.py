"""Booking: each call once, whoever repeats it; all of a batch or nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from msgspec.structs import replace

from tests.contract.ledgers import (
    NOON,
    RATES,
    call,
    contents,
    open_ledger,
    plain_sum,
    rows_of_log,
)
from tuppence.core.attribution import Attribution
from tuppence.core.periods import Span
from tuppence.core.usage import MeteredPart, Terms, Usage
from tuppence.cost_tracking.booking import (
    LOG_COLUMNS,
    Call,
    book_calls,
    key_of_caller,
    key_of_response,
)
from tuppence.cost_tracking.budgets import NewBudget
from tuppence.cost_tracking.charges import Charges
from tuppence.cost_tracking.dictionary import Dictionary
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.summary import SummaryQuery
from tuppence.errors import IdempotencyConflict, InvalidInput, TuppenceError
from tuppence.storage.database import Transaction

THREADS = 16
INJECTION = "'; DROP TABLE teams; --"
KEYS = 130

KEYED: dict[str, Callable[[str], bytes]] = {
    "caller": key_of_caller,
    "response": lambda text: key_of_response("acme", text),
}


def _keyed(kind: str, key: str, **values: Any) -> Call:
    return replace(call(**values), idempotency_key=KEYED[kind](key))


def _two_parts(key: str, first_output: int = 10, second_output: int = 20) -> Call:
    parts = (
        MeteredPart("alpha", Usage(input_tokens=100, output_tokens=first_output)),
        MeteredPart("beta", Usage(input_tokens=50, output_tokens=second_output)),
    )
    return replace(call(key=key), parts=parts)


@pytest.mark.parametrize("kind", KEYED)
def test_same_key_and_payload_is_booked_once(ledger: Ledger, kind: str) -> None:
    """A repeated call must leave every table as it was and be counted as a duplicate."""
    once = ledger.book([_keyed(kind, "a")])
    before = contents(ledger)
    twice = ledger.book([_keyed(kind, "a")])
    assert (once.calls, once.duplicates, twice.calls, twice.duplicates) == (1, 0, 0, 1)
    assert contents(ledger) == before


def test_the_two_kinds_of_key_never_meet(ledger: Ledger) -> None:
    """A caller's own key and a provider's response id of the same text are different calls."""
    ledger.book([_keyed("caller", "a"), _keyed("response", "a")])
    ledger.book([replace(call(), idempotency_key=key_of_response("bolt", "a"))])
    assert ledger.verify().rows == 3


def test_a_repeated_call_may_come_later(ledger: Ledger) -> None:
    """The time of a call is not part of its payload: a retry is made later than the call."""
    ledger.book([call(key="a")])
    assert ledger.book([call(key="a", at=NOON.replace(hour=13))]).duplicates == 1


OTHER_PAYLOADS = {
    "tokens": call(key="a", input_tokens=1_001),
    "cache": call(key="a", counts={"cache_read_tokens": 1}),
    "units": call(key="a", counts={"other_units": (("web_searches", 1),)}),
    "model": call(key="a", model="beta"),
    "team": call(key="a", team_id="blue"),
    "tags": call(key="a", tags=("x",)),
    "terms": replace(
        call(key="a"),
        parts=(MeteredPart("alpha", Usage(1_000, output_tokens=100), Terms("batch")),),
    ),
    "parts": _two_parts("a"),
}


@pytest.mark.parametrize("other", OTHER_PAYLOADS.values(), ids=OTHER_PAYLOADS)
def test_same_key_with_another_payload_is_refused(ledger: Ledger, other: Call) -> None:
    """A key used for another call must be refused, and no table may change for the whole batch."""
    ledger.book([call(key="a")])
    before = contents(ledger)
    with pytest.raises(IdempotencyConflict) as refused:
        ledger.book([call(key="new", team_id="new team", model="new"), other, call()])
    assert refused.value.field == "idempotency_key"
    assert contents(ledger) == before
    assert ledger.book([call(key="new", team_id="new team", model="new")]).calls == 1
    ledger.verify()


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
def test_a_call_with_fewer_parts_is_another_payload(ledger: Ledger, *, together: bool) -> None:
    """A key whose call lacks a part of the booked one was used for another call."""
    whole = _two_parts("a")
    part = replace(whole, parts=whole.parts[:1])
    if not together:
        ledger.book([whole])
    with pytest.raises(IdempotencyConflict):
        ledger.book([whole, part] if together else [part])


def test_repeats_within_one_batch(ledger: Ledger) -> None:
    """A batch that holds a call three times must book it once."""
    booked = ledger.book([call(key="a"), call(key="b"), call(key="a"), call(key="a")])
    assert (booked.calls, booked.duplicates) == (2, 2)
    assert ledger.verify().rows == 2


def test_conflict_within_one_batch(ledger: Ledger) -> None:
    """A batch that contradicts itself must be refused as a whole."""
    before = contents(ledger)
    with pytest.raises(IdempotencyConflict):
        ledger.book([call(key="a"), call(key="b"), call(key="a", input_tokens=7)])
    assert contents(ledger) == before


def test_a_batch_of_old_and_new_calls(ledger: Ledger) -> None:
    """Of a batch that overlaps an earlier one, exactly the new calls are added."""
    first = [call(key=str(number), input_tokens=number) for number in range(10)]
    second = [call(key=str(number), input_tokens=number) for number in range(5, 20)]
    ledger.book(first)
    booked = ledger.book(second)
    assert (booked.calls, booked.duplicates) == (10, 5)
    assert booked.measures == plain_sum(second[5:])
    assert ledger.verify().cost_nanos == plain_sum(first + second[5:]).cost_nanos


def test_calls_without_key_are_all_booked(ledger: Ledger) -> None:
    """Two calls that look the same are two calls, unless a key says otherwise."""
    ledger.book([call(), call()])
    ledger.book([call()])
    assert ledger.verify().rows == 3


def test_book_one_returns_the_row_that_is_there(ledger: Ledger) -> None:
    """Booking one call again must return the rows of the first time, all parts in order."""
    made = _two_parts("a")
    first, new = ledger.book_one(made)
    again, new_again = ledger.book_one(made)
    assert (new, new_again) == (True, False)
    assert first == again
    assert [row[:2] for row in first] == [("acme", "alpha"), ("bolt", "beta")]
    assert [row[2:] for row in first] == rows_of_log(ledger)


def test_book_one_without_key_returns_its_own_row(ledger: Ledger) -> None:
    """The row that is returned must be the call's own, not that of a name made for it."""
    ledger.book([call() for _ in range(3)])
    (row,), _ = ledger.book_one(call(team_id="new", session_id="s", tags=("t",)))
    assert row[2:] == rows_of_log(ledger)[-1]


def test_empty_batch(ledger: Ledger) -> None:
    """Nothing booked is nothing changed."""
    assert ledger.book([]).calls == 0
    assert ledger.verify().rows == 0


def _batch(number: int) -> list[Call]:
    """Return the same calls in an order of the thread's own, with names that are new to all."""
    calls = [call(key=f"k{n}", input_tokens=n, user_id=f"u{n % 7}") for n in range(KEYS)]
    return calls[number:] + calls[:number]


def test_threads_that_book_the_same_keys(ledger: Ledger) -> None:
    """Whatever the threads do at once, each key is booked once and found by all others."""
    start = threading.Barrier(THREADS)

    def book(number: int) -> tuple[int, int]:
        start.wait()
        booked = ledger.book(_batch(number))
        return booked.calls, booked.duplicates

    with ThreadPoolExecutor(THREADS) as threads:
        results = list(threads.map(book, range(THREADS)))
    assert sum(new for new, _ in results) == KEYS
    assert sum(found for _, found in results) == KEYS * (THREADS - 1)
    assert (KEYS, plain_sum(_batch(0)).cost_nanos) == _rows_and_cost(ledger)


def test_threads_that_book_one_call_each(ledger: Ledger) -> None:
    """Single calls with names that all threads make at once must all be booked, none twice."""
    start = threading.Barrier(THREADS)

    def book(number: int) -> bool:
        start.wait()
        return ledger.book_one(call(key=f"k{number % 4}", team_id="one", tags=("t", "u")))[1]

    with ThreadPoolExecutor(THREADS) as threads:
        new = list(threads.map(book, range(THREADS)))
    assert (sum(new), ledger.verify().rows) == (4, 4)


def _book_in_process(url: str, number: int) -> int:
    ledger = open_ledger(url)
    try:
        return ledger.book(_batch(number)).calls
    finally:
        ledger.close()


def test_processes_that_book_the_same_keys(database_url: str) -> None:
    """Processes that start on a new database and book the same calls must book each once."""
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as processes:
        booked = list(processes.map(_book_in_process, [database_url] * 4, range(4)))
    ledger = open_ledger(database_url)
    assert (sum(booked), *_rows_and_cost(ledger)) == (
        KEYS,
        KEYS,
        plain_sum(_batch(0)).cost_nanos,
    )
    ledger.close()


def _rows_and_cost(ledger: Ledger) -> tuple[int, int]:
    verified = ledger.verify()
    return verified.rows, verified.cost_nanos


class _Crash(Exception):
    pass


def test_crash_in_a_transaction_leaves_nothing(ledger: Ledger) -> None:
    """An operation that fails after its inserts must leave no row, name, id or count behind."""
    ledger.create_budget(NewBudget("team", "new", 10**9))
    ledger.book([call()])
    before = contents(ledger)
    news = [call(key="a", team_id="new", session_id="s", tags=("t",), model="beta")]

    def book_and_crash(
        tx: Transaction, dictionary: Dictionary, book: Any, charges: Charges
    ) -> None:
        book_calls(tx, dictionary, book, charges, news)
        charges.carry_out(tx, dictionary)
        raise _Crash

    with pytest.raises(_Crash):
        ledger._write(book_and_crash)
    assert contents(ledger) == before
    assert ledger.book(news).calls == 1
    assert ledger.verify().cost_nanos == plain_sum([call(), *news]).cost_nanos
    rows, _ = ledger.summary(SummaryQuery(("team",), Span()))
    assert {"red", "new"} == {row.keys[0] for row in rows}


def test_names_of_a_refused_batch_get_new_ids(ledger: Ledger) -> None:
    """Ids found by a batch that was undone must not be used by the next one."""
    ledger.book([call(key="a")])
    for name in ("x", "y"):
        with pytest.raises(IdempotencyConflict):
            ledger.book([call(team_id=name), call(key="a", input_tokens=2)])
    ledger.book([call(team_id="y"), call(team_id="x", input_tokens=3)])
    rows, _ = ledger.summary(SummaryQuery(("team",), Span()))
    inputs = {row.keys[0]: row.measures.input_tokens for row in rows}
    assert inputs == {"red": 1_000, "y": 1_000, "x": 3}


def test_full_disk_leaves_a_ledger_that_works(sqlite_url: str) -> None:
    """A batch that the disk has no room for must leave nothing, and the next one goes through."""
    ledger = open_ledger(sqlite_url)
    ledger.book([call()])
    before = contents(ledger)
    pages = ledger.database.run(lambda tx: tx.rows("PRAGMA page_count")[0][0])
    ledger.database.run(lambda tx: tx.rows(f"PRAGMA max_page_count = {pages + 3}"))
    with pytest.raises(TuppenceError, match="full"):
        ledger.book([call(session_id=f"s{number}") for number in range(2_000)])
    assert contents(ledger) == before
    ledger.database.run(lambda tx: tx.rows("PRAGMA max_page_count = 1000000"))
    assert ledger.book([call(session_id="s")]).calls == 1
    assert ledger.verify().rows == 2
    ledger.close()


@pytest.mark.parametrize("copies", [1, 20])
def test_nulls_and_unicode_in_every_text(ledger: Ledger, copies: int) -> None:
    """Texts that need quoting must come back as they were, and missing ones as NULL.

    Large batches go another way to PostgreSQL than small ones.
    """
    hard = ('"', "\\", "{}", "NULL", "\\N", "a,b", "%s ?", "日本語 🪙", "\t\r\n", INJECTION)
    calls = [
        Call(
            call().occurred_at_micros,
            Attribution(text, text, text, text, text, (text,), text, text),
            None,
            (MeteredPart("alpha", Usage(1, other_units=((text, 1), ("web_searches", 2)))),),
            key_of_caller(f"{text} {copy}") if copy else None,
        )
        for text in hard
        for copy in range(copies)
    ]
    assert ledger.book([*calls, call()]).calls == len(calls) + 1
    for dimension in ("team", "project", "user", "task_type", "tag", "session", "agent"):
        rows, _ = ledger.summary(SummaryQuery((dimension,), Span(), None, (("team", hard),)))
        assert {row.keys[0] for row in rows} == set(hard)
    place = LOG_COLUMNS.index("other_units")
    units = {row[place] for row in rows_of_log(ledger)}
    assert units == {None, *(f"{text}=1;web_searches=2" for text in hard)}
    assert {row[place + 2] for row in rows_of_log(ledger)} == {
        None,
        *(one.idempotency_key for one in calls),
    }


UNUSABLE = {
    "before 1970": replace(call(), occurred_at_micros=-1),
    "model too long": call(model="m" * 256),
    "model with NUL": call(model="m\x00"),
    "empty model": call(model=""),
    "provider too long": call(provider="p" * 65),
    "surrogate in a name": call(team_id="\ud800"),
    "surrogate in the model": call(model="\ud800"),
    "unit with separator": call(counts={"other_units": (("a;b", 1),)}),
    "unit with equals sign": call(counts={"other_units": (("a=b", 1),)}),
    "unit without name": call(counts={"other_units": (("", 1),)}),
    "terms with separator": replace(
        call(), parts=(MeteredPart("alpha", Usage(1), Terms(service_tier="a;b")),)
    ),
}


@pytest.mark.parametrize("bad", UNUSABLE.values(), ids=UNUSABLE)
def test_calls_that_the_ledger_could_not_give_back_are_refused(bad: Call) -> None:
    """What one of the databases cannot hold, or no report could read, is refused in words."""
    with pytest.raises(InvalidInput) as refused:
        bad.check()
    assert len(str(refused.value).splitlines()) == 1


def test_rates_of_the_test_book_are_those_of_the_ledger(ledger: Ledger) -> None:
    """The plain arithmetic that the tests compare with must price each class of tokens."""
    counts = {
        "cache_write_5m_tokens": 11,
        "cache_write_1h_tokens": 13,
        "cache_write_other_tokens": 17,
        "cache_read_tokens": 19,
        "reasoning_tokens": 3,
    }
    calls = [call(model=model, counts=counts) for model in (*RATES, "mystery")]
    assert ledger.book(calls).measures == plain_sum(calls)
