"""The rule by which calls are let through, against plain statements of what it must do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuppence.core.admission import (
    CRITICAL,
    NO_SHARES,
    Fit,
    Tally,
    Terms,
    amount_that_must_fit,
    amount_to_hold,
    crossed,
    fit,
    limit_of,
    room_for,
    state_of,
)

amounts = st.integers(0, 10_000)
priorities = st.integers(0, 3)
used = st.lists(amounts, min_size=4, max_size=4)
shares = st.sampled_from([NO_SHARES, (0.0, 0.0, 0.25, 0.25), (0.1, 0.2, 0.3, 0.4), (0, 0, 1.0, 0)])


@st.composite
def _standings(draw: st.DrawFn) -> tuple[Terms, Tally]:
    spent = draw(used)
    held = draw(st.integers(0, sum(spent)))
    terms = Terms(draw(st.integers(0, 40_000)), reserved_shares=draw(shares))
    return terms, Tally(spent, held_nanos=held, raised_nanos=draw(amounts))


standings = _standings()


@given(standings, amounts, priorities)
def test_what_fits_leaves_the_limit_whole(
    standing: tuple[Terms, Tally], amount: int, priority: int
) -> None:
    """A call that is let through cannot take a budget beyond the limit that holds for it."""
    terms, tally = standing
    if fit(terms, tally, amount, priority) is Fit.FITS:
        assert tally.total_nanos + amount <= limit_of(terms, tally, priority)


@given(standings, amounts, priorities)
def test_a_call_waits_only_for_what_others_hold(
    standing: tuple[Terms, Tally], amount: int, priority: int
) -> None:
    """It waits where it would fit if all in flight cost nothing, and is refused where not."""
    terms, tally = standing
    verdict = fit(terms, tally, amount, priority)
    room = room_for(terms, tally, priority)
    assert (verdict is Fit.FITS) == (amount <= room)
    assert (verdict is Fit.REFUSED) == (amount > room + tally.held_nanos)


@given(standings, st.integers(0, 2))
def test_what_is_reserved_is_not_for_lower_priorities(
    standing: tuple[Terms, Tally], priority: int
) -> None:
    """A higher priority finds its reserve, whatever the lower ones took of their room since."""
    terms, tally = standing
    room = room_for(terms, tally, priority)
    if room < 0:
        return
    tally.used_nanos[priority] += room
    limit = limit_of(terms, tally)
    for higher in range(priority + 1, 4):
        left = int(limit * terms.reserved_shares[higher]) - tally.used_nanos[higher]
        assert room_for(terms, tally, higher) >= left


@given(standings, priorities, priorities)
def test_higher_priorities_never_have_less_room(
    standing: tuple[Terms, Tally], one: int, other: int
) -> None:
    """Whoever matters more may take all that one who matters less may, what is reserved too."""
    lower, higher = sorted((one, other))
    terms, tally = standing
    assert room_for(terms, tally, lower) <= room_for(terms, tally, higher)


@given(standings, amounts, priorities)
def test_what_is_given_back_is_free_again(
    standing: tuple[Terms, Tally], amount: int, priority: int
) -> None:
    """Taking and returning leaves exactly the room that there was, for everyone."""
    terms, tally = standing
    before = [room_for(terms, tally, one) for one in range(4)]
    tally.used_nanos[priority] += amount
    tally.used_nanos[priority] -= amount
    assert [room_for(terms, tally, one) for one in range(4)] == before


def test_critical_calls_have_their_ceiling() -> None:
    """Beyond the limit only critical calls go on, and only up to their own ceiling."""
    terms, tally = Terms(1_000, critical_ceiling=0.1), Tally([1_000, 0, 0, 0])
    assert [fit(terms, tally, 1, priority) for priority in range(4)] == [Fit.REFUSED] * 3 + [
        Fit.FITS
    ]
    assert fit(terms, tally, 100, CRITICAL) is Fit.FITS
    assert fit(terms, tally, 101, CRITICAL) is Fit.REFUSED


def test_a_paused_budget_fits_nothing() -> None:
    """Not even a call that costs nothing goes through a paused budget."""
    assert fit(Terms(1_000, paused=True), Tally(), 0, CRITICAL) is Fit.REFUSED


@given(amounts, amounts, amounts, amounts, st.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_expected_never_risks_more_than_its_overdraft(
    limit: int, bound: int, expected: int, certain: int, overdraft: float
) -> None:
    """What is held goes beyond what fits by the overdraft at most; other modes hold the bound."""
    terms = Terms(limit, "expected", overdraft_share=overdraft)
    held = amount_to_hold(terms, bound, expected)
    must_fit = amount_that_must_fit(terms, bound, expected, certain)
    assert held == min(bound, expected)
    assert max(held - int(limit * overdraft), min(certain, held)) <= must_fit <= held
    strict = Terms(limit)
    assert amount_to_hold(strict, bound, expected) == bound
    assert amount_that_must_fit(strict, bound, expected, certain) == bound


def test_states_begin_exactly_at_their_thresholds() -> None:
    """80% is a warning, 95% critical, 100% still critical, one nano-dollar more exceeded."""
    terms, limit = Terms(1_000_000), 1_000_000
    expected = {
        0: "normal",
        799_999: "normal",
        800_000: "warning",
        949_999: "warning",
        950_000: "critical",
        1_000_000: "critical",
        1_000_001: "exceeded",
    }
    assert {used: state_of(terms, used, limit) for used in expected} == expected


@given(amounts, amounts)
def test_each_threshold_is_crossed_once_on_the_way_up(one: int, other: int) -> None:
    """However spending is cut in two, the same thresholds are crossed, each once."""
    terms, limit, end = Terms(10_000), 10_000, 12_000
    first, second = sorted((one, other))
    ways = [(0, first), (first, second), (second, end)]
    met = [state for before, after in ways for state in crossed(terms, before, after, limit)]
    assert met == ["warning", "critical", "exceeded"]
