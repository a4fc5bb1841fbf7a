"""Shapley parts, bills and returns: what must hold for every set of measures."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.insights.investment import invest
from tuppence.insights.savings import Measure, Way, Ways, answered, bill, compare
from tuppence.insights.shapley import shapley_parts

MEASURES: tuple[Measure, ...] = ("routing", "caching")
SETS: tuple[frozenset[Measure], ...] = (
    frozenset(),
    frozenset({"routing"}),
    frozenset({"caching"}),
    frozenset(MEASURES),
)
NAMES = ("a", "b", "c", "d")
amounts = st.integers(-(10**15), 10**15)


@st.composite
def games(draw: st.DrawFn) -> tuple[tuple[str, ...], dict[frozenset[str], int]]:
    """Draw measures, and what every set of them saves."""
    names = NAMES[: draw(st.integers(1, 4))]
    sets = [
        frozenset(chosen)
        for size in range(1, len(names) + 1)
        for chosen in itertools.combinations(names, size)
    ]
    return names, {frozenset(): 0, **{one: draw(amounts) for one in sets}}


def _ways(month: int, *costs: int) -> Ways:
    return Ways(month, {one: Way(cost) for one, cost in zip(SETS, costs, strict=True)})


@given(games())
def test_parts_add_up(game: tuple[tuple[str, ...], dict[frozenset[str], int]]) -> None:
    """The parts are whole nano-dollars, and together exactly what all measures save."""
    names, saving = game
    parts = shapley_parts(names, saving.__getitem__)
    assert sum(parts.values()) == saving[frozenset(names)]
    assert list(parts) == list(names)


@given(games())
def test_parts_are_the_mean_over_all_orders(
    game: tuple[tuple[str, ...], dict[frozenset[str], int]],
) -> None:
    """Each part is within a nano-dollar of what the definition gives, order by order."""
    names, saving = game
    parts = shapley_parts(names, saving.__getitem__)
    orders = list(itertools.permutations(names))
    for name in names:
        added = 0
        for order in orders:
            before = frozenset(order[: order.index(name)])
            added += saving[before | {name}] - saving[before]
        assert abs(parts[name] - Fraction(added, len(orders))) < 1


@given(games(), st.sampled_from(NAMES))
def test_a_measure_that_changes_nothing_gets_nothing(
    game: tuple[tuple[str, ...], dict[frozenset[str], int]], idle: str
) -> None:
    """Whatever the others save, and however it is rounded."""
    names, saving = game
    others = tuple(name for name in names if name != idle)
    parts = shapley_parts((*others, idle), lambda applied: saving[applied - {idle}])
    assert parts[idle] == 0
    assert {name: parts[name] for name in others} == shapley_parts(others, saving.__getitem__)


@given(st.lists(amounts, min_size=4, max_size=4))
def test_measures_that_do_the_same_get_the_same(savings: list[int]) -> None:
    """Where a saving depends on the number of measures only, parts differ by the rounding."""
    parts = shapley_parts(NAMES, lambda applied: [0, *savings][len(applied)])
    assert max(parts.values()) - min(parts.values()) <= 1
    assert sorted(parts.values(), reverse=True) == list(parts.values())


def test_the_order_of_names_decides_only_the_rest() -> None:
    """One nano-dollar among three goes to the one named first."""
    one = shapley_parts(("x", "y", "z"), lambda applied: int(len(applied) == 3))
    assert one == {"x": 1, "y": 0, "z": 0}


def test_the_document_s_table_has_the_document_s_shares() -> None:
    """Measures that do not overlap keep what each saves: 56 %, 33 % and 11 % of US$ 85,550."""
    kept, refused = 5_000, 9_200
    before = kept + refused + 48_200 + 28_150
    done = _ways(0, before - refused, before - refused - 48_200, kept + 48_200, kept)
    savings = compare([done, _ways(0, *[refused] * 4)], MEASURES, kept)
    assert [part.saving_nanos for part in savings.parts] == [48_200, 28_150]
    assert (savings.saving_nanos, savings.refused_nanos) == (76_350, 9_200)
    shares = [*(part.share for part in savings.parts), savings.refused_share]
    assert [round(100 * share) for share in shares] == [56, 33, 11]


def test_overlap_is_halved() -> None:
    """$10 that either measure alone would save are $5 each."""
    savings = compare([_ways(0, 100, 40, 40, 40)], MEASURES)
    assert [part.saving_nanos for part in savings.parts] == [30, 30]
    assert [part.share for part in savings.parts] == [Fraction(1, 2)] * 2
    assert savings.change == Fraction(-60, 100)


requests = st.lists(
    st.tuples(st.integers(0, 2), *(st.integers(0, 10**12) for _ in SETS)), max_size=30
)


@given(requests, st.none() | st.integers(0, 10**13))
def test_before_after_and_parts_agree(rows: list[tuple[int, ...]], limit: int | None) -> None:
    """The parts and what is refused are the difference of the bills; no month passes the limit."""
    ways = [_ways(*row) for row in rows]
    savings = compare(ways, MEASURES, limit)
    assert sum(part.saving_nanos for part in savings.parts) == savings.saving_nanos
    assert savings.before.cost_nanos - savings.after.cost_nanos == savings.less_nanos
    assert savings.less_nanos == savings.saving_nanos + savings.refused_nanos
    shares = [*(part.share for part in savings.parts), savings.refused_share]
    assert sum(shares) == (1 if savings.less_nanos else 0)
    assert savings.before.cost_nanos == sum(row[1] for row in rows)
    assert savings.refused == len(rows) - savings.after.requests
    assert savings.after.over_limit_nanos == 0
    assert tuple(part.measure for part in savings.parts) == MEASURES
    if limit is None:
        assert savings.after.cost_nanos == sum(row[4] for row in rows)


@given(requests, st.integers(0, 10**13))
def test_a_limit_saves_nothing(rows: list[tuple[int, ...]], limit: int) -> None:
    """Parts are those of the answered requests alone; the rest is what the refused cost before."""
    ways = [_ways(*row) for row in rows]
    kept = answered(ways, frozenset(MEASURES), limit)
    limited, alone = compare(ways, MEASURES, limit), compare(kept, MEASURES)
    assert limited.saving_nanos == alone.saving_nanos
    assert [part.saving_nanos for part in limited.parts] == [
        part.saving_nanos for part in alone.parts
    ]
    assert limited.refused_nanos == limited.before.cost_nanos - alone.before.cost_nanos
    assert limited.refused == len(ways) - len(kept)


def test_no_measure_is_credited_with_work_that_was_not_done() -> None:
    """With a limit of nothing nothing is saved, however much caching would have."""
    savings = compare([_ways(0, 100, 100, 50, 50)], MEASURES, 0)
    assert [part.saving_nanos for part in savings.parts] == [0, 0]
    assert (savings.saving_nanos, savings.refused_nanos, savings.refused) == (0, 100, 1)
    assert savings.refused_share == 1


def test_a_limit_that_the_other_measures_keep_has_no_part() -> None:
    """Caching alone brings 100 under 60: the limit refuses nothing, and its part is 0."""
    savings = compare([_ways(0, 100, 100, 50, 50)], MEASURES, 60)
    assert savings.before.over_limit_nanos == 40
    assert [part.saving_nanos for part in savings.parts] == [0, 50]
    assert (savings.refused, savings.refused_nanos) == (0, 0)
    assert savings.refused_share == 0


def test_nothing_answered_has_no_shares() -> None:
    """Where everything is refused, nobody can say which share went to which model."""
    way = Way(7, is_strong=True, prompt_tokens=9)
    savings = compare([Ways(0, {frozenset(): way})], (), 0)
    assert savings.before.strong_share == 1
    assert savings.before.read_share == 0
    assert savings.after.strong_share is None
    assert savings.after.read_share is None


def test_a_limit_refuses_what_would_pass_it() -> None:
    """Of 6, 6, 3 and 1 against 10, the second 6 is refused; the next month begins anew."""
    ways = [_ways(1, cost, 0, 0, 0) for cost in (6, 6, 3, 1)] + [_ways(2, 9, 0, 0, 0)]
    kept = answered(ways, frozenset(), 10)
    assert kept == [ways[0], *ways[2:]]
    limited = bill(kept, frozenset(), 10)
    assert (limited.cost_nanos, limited.requests, limited.over_limit_nanos) == (19, 4, 0)
    free = bill(ways, frozenset(), 10)
    assert (free.cost_nanos, free.over_limit_nanos) == (25, 6)


def test_return_on_investment_of_the_document() -> None:
    """NT$ 2,655,000 for NT$ 160,000 and NT$ 5,000 a month: 1,509 %, paid back in under 2 days."""
    told = invest(2_655_000, 30, one_off_nanos=160_000, monthly_nanos=5_000)
    assert told.return_share is not None
    assert round(100 * told.return_share) == 1_509
    assert told.pay_back_days is not None
    assert told.pay_back_days < 2


def test_returns_are_of_the_same_period() -> None:
    """What a week saves is compared with a month's cost after it was scaled to a month."""
    assert invest(7, 7, monthly_nanos=15).return_share == 1
    assert invest(7, 7, monthly_nanos=15).pay_back_days == 0


@pytest.mark.parametrize("saving", [-5, 0, 10])
def test_what_never_pays_back(saving: int) -> None:
    """Without a net saving there is no pay-back time; without costs there is no return."""
    told = invest(saving, 30, one_off_nanos=100, monthly_nanos=10)
    assert told.pay_back_days is None
    assert told.return_share == Fraction(saving - 110, 110)
    assert invest(saving, 30).return_share is None
