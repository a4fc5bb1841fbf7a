"""Corrections: what is learned later is a row of its own, and the first row is never touched."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from tests.contract.ledgers import (
    NOON,
    UNPRICED,
    call,
    open_ledger,
    plain_measures,
    plain_sum,
    rows_of_log,
)
from tuppence.core.periods import Span
from tuppence.core.usage import MeteredPart, Usage
from tuppence.cost_tracking.booking import Call
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.summary import GROUPINGS, SummaryQuery
from tuppence.cost_tracking.verification import rebuild

MOMENTS = [datetime(2026, month, 5, hour, tzinfo=UTC) for month in (1, 11) for hour in (0, 23)]
ONE_DOLLAR_AND_TWO = {"input_mtok": "1", "output_mtok": "2"}
THREADS = 8


def _total(ledger: Ledger) -> Measures:
    """Return the sums of all calls, having proved that every report and roll-up agrees on them."""
    _, total = ledger.summary(SummaryQuery())
    for grouping in GROUPINGS:
        _, same = ledger.summary(SummaryQuery((grouping,)))
        assert same == total
    assert ledger.verify().cost_nanos == total.cost_nanos
    return total


def _parts(*outputs: int, searches: int = 0) -> Call:
    """Return a call of one part per output, all of model alpha."""
    units = (("web_searches", searches),) if searches else ()
    parts = tuple(
        MeteredPart("alpha", Usage(10, output_tokens=n, other_units=units)) for n in outputs
    )
    return replace(call(key="a"), parts=parts)


def test_the_end_of_an_answer_is_booked_as_the_difference(ledger: Ledger) -> None:
    """An answer seen again with more output must add exactly what is new, at the call's time."""
    first = call(key="a", output_tokens=5, complete=False)
    whole = call(key="a", output_tokens=700, at=NOON.replace(hour=14))
    ledger.book([first])
    assert _total(ledger).incomplete_count == 1
    booked = ledger.book([whole], on_change="amend")
    assert (booked.calls, booked.duplicates, booked.amended) == (0, 0, 1)
    assert _total(ledger) == plain_measures(whole)
    rows = rows_of_log(ledger)
    assert [row[1] for row in rows] == [first.occurred_at_micros] * 2


@pytest.mark.parametrize("older", [call(key="a", output_tokens=5, complete=False)])
def test_an_older_view_changes_nothing(ledger: Ledger, older: Call) -> None:
    """Whatever order logs are read in, the fullest view of an answer counts."""
    whole = call(key="a", output_tokens=700)
    ledger.book([whole])
    before = rows_of_log(ledger)
    booked = ledger.book([older], on_change="amend")
    assert (booked.calls, booked.duplicates, booked.amended) == (0, 1, 0)
    assert rows_of_log(ledger) == before
    assert _total(ledger) == plain_measures(whole)


def test_an_end_without_more_output_takes_the_mark_away(ledger: Ledger) -> None:
    """Seeing that an answer was complete after all must end its mark; nothing else changes."""
    first = call(key="a", complete=False)
    ledger.book([first])
    assert ledger.book([call(key="a")], on_change="amend").amended == 1
    assert _total(ledger) == plain_measures(first)._replace(incomplete_count=0)


def test_amending_twice_is_amending_once(ledger: Ledger) -> None:
    """The same larger view, imported again, must add nothing."""
    whole = call(key="a", output_tokens=700)
    ledger.book([call(key="a", output_tokens=5)])
    for _ in range(3):
        ledger.book([whole], on_change="amend")
    assert len(rows_of_log(ledger)) == 2
    assert _total(ledger) == plain_measures(whole)


def test_growing_views_in_one_batch(ledger: Ledger) -> None:
    """Several views of one answer in one batch must add up to the largest of them."""
    views = [call(key="a", output_tokens=n) for n in (5, 90, 40, 700, 700)]
    booked = ledger.book(views, on_change="amend")
    assert (booked.calls, booked.duplicates, booked.amended) == (1, 3, 1)
    assert _total(ledger) == plain_measures(call(key="a", output_tokens=700))


def test_an_answer_of_several_parts_is_one_call(ledger: Ledger) -> None:
    """An answer whose parts have all grown is one amended call, and no duplicate."""
    ledger.book([_parts(1, 2, 3)])
    booked = ledger.book([_parts(10, 20, 30)], on_change="amend")
    assert (booked.calls, booked.duplicates, booked.amended) == (0, 0, 1)
    assert _total(ledger) == plain_measures(_parts(10, 20, 30))


def test_a_part_that_was_not_seen_before_is_booked(ledger: Ledger) -> None:
    """An answer seen again with one more part must be booked with that part."""
    ledger.book([_parts(1)])
    for _ in range(2):
        ledger.book([_parts(1, 20)], on_change="amend")
        assert _total(ledger) == plain_measures(_parts(1, 20))
    ledger.book([_parts(1)], on_change="amend")
    assert _total(ledger) == plain_measures(_parts(1, 20))


def test_other_units_grow_too(ledger: Ledger) -> None:
    """Searches that were made after the first view must be booked, and kept by a repricing."""
    ledger.book([_parts(1, searches=1)])
    ledger.book([_parts(1, searches=3)], on_change="amend")
    assert _total(ledger) == plain_measures(_parts(1, searches=3))
    ledger.book([_parts(50, searches=4)], on_change="amend")
    assert ledger.reprice(unpriced_only=False).changed == 0
    assert _total(ledger) == plain_measures(_parts(50, searches=4))


def test_threads_that_amend_the_same_answers(ledger: Ledger) -> None:
    """Importers that see the same end of an answer at once must book its difference once."""
    keys = [f"k{number}" for number in range(5)]
    ledger.book([call(key=key, output_tokens=5) for key in keys])
    whole = [call(key=key, output_tokens=700) for key in keys]
    start = threading.Barrier(THREADS)

    def amend(number: int) -> int:
        start.wait()
        views = whole[number % 5 :] + whole[: number % 5]
        return ledger.book([*views, call(key=f"new {number}")], on_change="amend").amended

    with ThreadPoolExecutor(THREADS) as threads:
        amended = list(threads.map(amend, range(THREADS)))
    assert sum(amended) == len(keys)
    assert _total(ledger) == plain_sum(whole + [call()] * THREADS)


def test_repricing_books_differences_at_the_time_of_the_calls(ledger: Ledger) -> None:
    """Calls without a price must get it later, in the day in which they were made."""
    calls = [call(model=UNPRICED, key=str(at), at=at, output_tokens=100) for at in MOMENTS]
    ledger.book([*calls, call()])
    assert _total(ledger).unpriced_count == len(MOMENTS)
    ledger.set_price(UNPRICED, ONE_DOLLAR_AND_TWO, starts_at=MOMENTS[0])
    repriced = ledger.reprice()
    difference = len(MOMENTS) * (1_000 * 1_000 + 100 * 2_000)
    assert repriced == (len(MOMENTS), len(MOMENTS), 0, difference)
    total = _total(ledger)
    assert total.unpriced_count == 0
    assert total.cost_nanos == plain_measures(call()).cost_nanos + difference
    assert total.request_count == len(MOMENTS) + 1
    days, _ = ledger.summary(SummaryQuery(("day",), only=(("model", (UNPRICED,)),)))
    assert [row.measures.cost_nanos for row in days] == [difference // 2] * 2


def test_repricing_again_changes_nothing(ledger: Ledger) -> None:
    """A second repricing by the same prices must book no difference."""
    ledger.book([call(model=UNPRICED), call()])
    ledger.set_price(UNPRICED, ONE_DOLLAR_AND_TWO, starts_at=MOMENTS[0])
    ledger.reprice()
    before = rows_of_log(ledger)
    for unpriced_only in (True, False):
        repriced = ledger.reprice(unpriced_only=unpriced_only)
        assert (repriced.changed, repriced.difference_nanos) == (0, 0)
    assert rows_of_log(ledger) == before


def test_calls_that_stay_unpriced_are_counted(ledger: Ledger) -> None:
    """A repricing must say for how many calls there is still no price."""
    ledger.book([call(model=UNPRICED), call(model="other mystery"), call()])
    ledger.set_price(UNPRICED, ONE_DOLLAR_AND_TWO, starts_at=MOMENTS[0])
    repriced = ledger.reprice()
    assert (repriced.looked_at, repriced.changed, repriced.still_unpriced) == (2, 1, 1)
    assert _total(ledger).unpriced_count == 1


def test_backdated_contract_reprices_priced_calls(ledger: Ledger) -> None:
    """A contract agreed on later must be applied from its own date on, up or down."""
    ledger.book([call(key=str(at), at=at) for at in MOMENTS])
    listed = plain_measures(call()).cost_nanos
    ledger.set_price("alpha", ONE_DOLLAR_AND_TWO, starts_at=datetime(2026, 6, 1, tzinfo=UTC))
    assert ledger.reprice().looked_at == 0
    repriced = ledger.reprice(unpriced_only=False)
    contract = 1_000 * 1_000 + 100 * 2_000
    assert (repriced.looked_at, repriced.changed) == (4, 2)
    assert repriced.difference_nanos == 2 * (contract - listed)
    assert _total(ledger).cost_nanos == 2 * listed + 2 * contract


def test_repricing_of_a_span(ledger: Ledger) -> None:
    """Only calls in the half-open span may be looked at."""
    ledger.book([call(model=UNPRICED, at=at) for at in MOMENTS])
    ledger.set_price(UNPRICED, ONE_DOLLAR_AND_TWO, starts_at=MOMENTS[0])
    assert ledger.reprice(span=Span.between(MOMENTS[1], MOMENTS[3])).changed == 2
    assert _total(ledger).unpriced_count == 2


def test_amended_calls_are_repriced_as_a_whole(ledger: Ledger) -> None:
    """A call that was unpriced and grew must be priced with all that it used."""
    ledger.book([call(model=UNPRICED, key="a", output_tokens=5, complete=False)])
    ledger.book([call(model=UNPRICED, key="a", output_tokens=700)], on_change="amend")
    ledger.set_price(UNPRICED, ONE_DOLLAR_AND_TWO, starts_at=MOMENTS[0])
    ledger.reprice()
    total = _total(ledger)
    assert total[:3] == (1, 0, 0)
    assert total.cost_nanos == 1_000 * 1_000 + 700 * 2_000


def test_a_repriced_call_may_still_grow(ledger: Ledger) -> None:
    """The end of an answer that was priced in between must leave the whole at the new price."""
    ledger.book([call(model=UNPRICED, key="a", output_tokens=5, complete=False)])
    ledger.set_price(UNPRICED, ONE_DOLLAR_AND_TWO, starts_at=MOMENTS[0])
    ledger.reprice()
    ledger.book([call(model=UNPRICED, key="a", output_tokens=700)], on_change="amend")
    assert _total(ledger).cost_nanos == 1_000 * 1_000 + 700 * 2_000
    assert ledger.reprice(unpriced_only=False).changed == 0


def test_corrections_never_touch_existing_rows(ledger: Ledger) -> None:
    """Whatever is corrected, the rows that were there must stay as they were, to the last bit."""
    ledger.book([call(key="a", output_tokens=5, complete=False), call(model=UNPRICED, key="b")])
    written = rows_of_log(ledger)
    ledger.book([call(key="a", output_tokens=700)], on_change="amend")
    assert rows_of_log(ledger)[: len(written)] == written
    written = rows_of_log(ledger)
    ledger.set_price(UNPRICED, ONE_DOLLAR_AND_TWO, starts_at=MOMENTS[0])
    ledger.set_price("alpha", ONE_DOLLAR_AND_TWO, starts_at=MOMENTS[0])
    ledger.reprice(unpriced_only=False)
    after = rows_of_log(ledger)
    assert after[: len(written)] == written
    assert len(after) == len(written) + 2


def test_a_large_repricing_goes_in_batches(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls beyond the size of one batch must be repriced too, each once."""
    monkeypatch.setattr("tuppence.cost_tracking.amendments.BATCH_ROWS", 7)
    ledger.book([call(model=UNPRICED, user_id=str(number % 3)) for number in range(40)])
    ledger.set_price(UNPRICED, ONE_DOLLAR_AND_TWO, starts_at=MOMENTS[0])
    assert ledger.reprice().changed == 40
    assert _total(ledger).cost_nanos == 40 * (1_000 * 1_000 + 100 * 2_000)


def test_contracts_of_another_process_are_seen(database_url: str) -> None:
    """A price that somebody else sets must hold for the next call of a ledger that is open."""
    mine, other = open_ledger(database_url), open_ledger(database_url)
    mine.book([call()])
    other.set_price("alpha", ONE_DOLLAR_AND_TWO, starts_at=MOMENTS[0])
    booked = mine.book([call()])
    assert booked.measures.cost_nanos == 1_000 * 1_000 + 100 * 2_000
    mine.close()
    other.close()


def test_rebuilding_while_calls_are_booked(database_url: str) -> None:
    """Roll-ups worked out anew must hold the calls that others book in the meantime."""
    ledger, other = open_ledger(database_url), open_ledger(database_url)
    ledger.book([call(user_id=str(number)) for number in range(50)])

    rebuilt = threading.Event()

    def book(number: int) -> int:
        booked = 0
        while not rebuilt.is_set():
            booked += ledger.book([call(user_id=f"{number} {booked}")]).calls
        return booked

    with ThreadPoolExecutor(4) as threads:
        booking = [threads.submit(book, number) for number in range(4)]
        try:
            for _ in range(10):
                other.database.run(rebuild)
        finally:
            rebuilt.set()
    assert ledger.verify().rows == 50 + sum(work.result() for work in booking)
    ledger.close()
    other.close()
