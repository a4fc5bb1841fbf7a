"""A ledger against a model of thirty lines: whatever is done in whatever order, the sums agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.contract.ledgers import NOON, RATES, call, open_ledger
from tuppence.cost_tracking.booking import Call
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.summary import UNATTRIBUTED, SummaryQuery
from tuppence.errors import IdempotencyConflict

Rates = tuple[Fraction, Fraction]
"""Nano-dollars per input token and per output token."""

MODELS = ("alpha", "mystery")
TEAMS = ("", "red", "blue")


@dataclass
class Standing:
    """A call as the model has it."""

    team: str
    model: str
    day: int
    input_tokens: int
    output_tokens: int
    complete: bool
    rates: Rates | None
    """What it is priced at, None for nothing yet."""

    @property
    def cost_nanos(self) -> int:
        """What it costs, each item rounded once."""
        if self.rates is None:
            return 0
        return round(self.input_tokens * self.rates[0]) + round(self.output_tokens * self.rates[1])

    def call(self, key: str) -> Call:
        """Return the call as the ledger books it."""
        return call(
            self.model,
            self.input_tokens,
            self.output_tokens,
            key=key,
            at=NOON + timedelta(days=self.day),
            complete=self.complete,
            team_id=self.team,
        )


class LedgerMachine(RuleBasedStateMachine):
    """Does to a ledger what users do, and keeps its own account of it."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.ledger: Ledger | None = None
        self.calls: dict[str, Standing] = {}
        listed = RATES["alpha"][1]
        self.prices: dict[str, Rates | None] = {
            "alpha": (listed["input_tokens"], listed["output_tokens"]),
            "mystery": None,
        }

    @initialize()
    def open(self) -> None:
        """Begin with an empty ledger."""
        self.ledger = open_ledger(self.url)

    def teardown(self) -> None:
        """Close the ledger."""
        if self.ledger is not None:
            self.ledger.close()

    @rule(
        teams=st.lists(st.sampled_from(TEAMS), min_size=1, max_size=4),
        model=st.sampled_from(MODELS),
        day=st.integers(-2, 2),
        tokens=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
        complete=st.booleans(),
    )
    def book(
        self, teams: list[str], model: str, day: int, tokens: tuple[int, int], *, complete: bool
    ) -> None:
        """Book a batch of new calls."""
        new = {
            f"call {len(self.calls) + n}": Standing(
                team, model, day, *tokens, complete, self.prices[model]
            )
            for n, team in enumerate(teams)
        }
        booked = self.ledger.book([standing.call(key) for key, standing in new.items()])
        assert booked.calls == len(new)
        self.calls |= new

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def book_again(self, data: st.DataObject) -> None:
        """Book known calls again: nothing happens. What has been corrected is compared by amend."""
        key, standing = self._some(data)
        booked = self.ledger.book([standing.call(key)] * 2, on_change="amend")
        assert (booked.calls, booked.duplicates, booked.amended) == (0, 2, 0)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), team=st.sampled_from(TEAMS))
    def book_conflicting(self, data: st.DataObject, team: str) -> None:
        """Use a known key for another call: it is refused, with all of its batch."""
        key, standing = self._some(data)
        other = Standing(team, "other", 0, standing.input_tokens + 1, 1, complete=True, rates=None)
        with pytest.raises(IdempotencyConflict):
            self.ledger.book([other.call("never booked"), other.call(key)])

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), more=st.sampled_from([-5, 0, 0, 7, 10**6]), complete=st.booleans())
    def amend(self, data: st.DataObject, more: int, *, complete: bool) -> None:
        """See a call again: more output counts, and the end of it; less does not."""
        key, standing = self._some(data)
        output_tokens = max(0, standing.output_tokens + more)
        price = self.prices[standing.model]
        view = Standing(
            standing.team,
            standing.model,
            standing.day,
            standing.input_tokens,
            output_tokens,
            complete,
            price,
        )
        grown = output_tokens > standing.output_tokens
        ended = output_tokens == standing.output_tokens and complete and not standing.complete
        booked = self.ledger.book([view.call(key)], on_change="amend")
        assert booked.amended == int(grown or ended)
        if grown or ended:
            self.calls[key] = view

    @rule(model=st.sampled_from(MODELS), dollars=st.integers(0, 50))
    def set_price(self, model: str, dollars: int) -> None:
        """Agree on a price per million tokens, from long ago on."""
        prices = {"input_mtok": str(dollars), "output_mtok": str(2 * dollars)}
        self.ledger.set_price(model, prices, starts_at=NOON - timedelta(days=100))
        self.prices[model] = (Fraction(1000 * dollars), Fraction(2000 * dollars))

    @rule(unpriced_only=st.booleans())
    def reprice(self, *, unpriced_only: bool) -> None:
        """Book the differences to the prices of today."""
        before = sum(standing.cost_nanos for standing in self.calls.values())
        for standing in self.calls.values():
            if standing.rates is None or not unpriced_only:
                standing.rates = self.prices[standing.model]
        after = sum(standing.cost_nanos for standing in self.calls.values())
        repriced = self.ledger.reprice(unpriced_only=unpriced_only)
        unpriced = sum(standing.rates is None for standing in self.calls.values())
        assert (repriced.difference_nanos, repriced.still_unpriced) == (after - before, unpriced)

    @rule()
    def reopen(self) -> None:
        """Close the ledger and open it again, as another process would."""
        self.ledger.close()
        self.ledger = open_ledger(self.url)

    @invariant()
    def sums_agree(self) -> None:
        """The ledger's reports and roll-ups say what the model says."""
        if self.ledger is None:
            return
        assert self.ledger.verify().cost_nanos == sum(c.cost_nanos for c in self.calls.values())
        for grouping, names in (("team", "team"), ("model", "model")):
            rows, _ = self.ledger.summary(SummaryQuery((grouping,)))
            reported = {
                row.keys[0]: (
                    row.measures.request_count,
                    row.measures.unpriced_count,
                    row.measures.incomplete_count,
                    row.measures.output_tokens,
                    row.measures.cost_nanos,
                )
                for row in rows
            }
            assert reported == self._expected(names)

    def _expected(self, names: str) -> dict[str, tuple[int, ...]]:
        sums: dict[str, tuple[int, ...]] = {}
        for standing in self.calls.values():
            own = (
                1,
                int(standing.rates is None),
                int(not standing.complete),
                standing.output_tokens,
                standing.cost_nanos,
            )
            name = getattr(standing, names) or UNATTRIBUTED
            sums[name] = tuple(map(sum, zip(sums.get(name, (0,) * 5), own, strict=True)))
        return sums

    def _some(self, data: st.DataObject) -> tuple[str, Standing]:
        key = data.draw(st.sampled_from(sorted(self.calls)))
        return key, self.calls[key]


def _run(make_url: Callable[[], str], examples: int, steps: int) -> None:
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__()
            self.url = make_url()

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    )


def test_sqlite_ledger_behaves_as_the_model(new_sqlite_url: Callable[[], str]) -> None:
    """On SQLite no sequence of bookings and corrections may lead to other sums."""
    _run(new_sqlite_url, examples=60, steps=20)


def test_postgresql_ledger_behaves_as_the_model(emptied_postgresql_url: Callable[[], str]) -> None:
    """The same on PostgreSQL."""
    _run(emptied_postgresql_url, examples=8, steps=15)


@pytest.mark.torture
def test_sqlite_ledger_behaves_as_the_model_at_length(new_sqlite_url: Callable[[], str]) -> None:
    """The same on SQLite, tried for minutes."""
    _run(new_sqlite_url, examples=300, steps=50)


@pytest.mark.torture
def test_postgresql_ledger_behaves_as_the_model_at_length(
    emptied_postgresql_url: Callable[[], str],
) -> None:
    """The same on PostgreSQL, tried for minutes."""
    _run(emptied_postgresql_url, examples=60, steps=50)
