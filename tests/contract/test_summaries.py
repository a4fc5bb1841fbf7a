"""Reports: every grouping over every span says what plain arithmetic over the calls says."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.ledgers import NOON, call, empty, open_and_verify, opened, plain_sum
from tuppence.core.attribution import Attribution
from tuppence.core.periods import MICROS_PER_DAY, MICROS_PER_HOUR, Span, from_micros, to_micros
from tuppence.core.usage import MeteredPart, Usage
from tuppence.cost_tracking.booking import Call
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.summary import (
    DIMENSIONS,
    GROUPINGS,
    PERIODS,
    UNATTRIBUTED,
    SummaryQuery,
)
from tuppence.errors import UnknownGrouping

Sums = dict[str, Measures]

FIRST_DAY = to_micros(datetime(2026, 10, 30, tzinfo=UTC))
FAR_APART = [
    to_micros(datetime(year, 2, 28, 23, 59, 59, tzinfo=UTC)) for year in (2016, 2024, 2033)
]
INJECTION = "'; DROP TABLE teams; --"
ZONES = (
    "UTC",
    "Asia/Taipei",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
)

near = st.integers(FIRST_DAY, FIRST_DAY + 4 * MICROS_PER_DAY)
edges = st.builds(
    lambda hour, off: FIRST_DAY + hour * MICROS_PER_HOUR + off,
    st.integers(0, 96),
    st.sampled_from([-1, 0, 1]),
)
moments = st.one_of(near, edges, st.sampled_from(FAR_APART))
small = st.integers(0, 50)
counts = st.one_of(small, st.integers(0, 1_000_000_000))
searches = st.sampled_from([(), (), (("web_searches", 2),)])
usages = st.builds(Usage, counts, small, small, small, counts, counts, st.just(0), searches)
parts = st.builds(
    MeteredPart, st.sampled_from(["alpha", "beta", "mystery", "other mystery"]), usages
)
tags = st.sampled_from([(), ("x",), ("env=test", "x")])
attributions = st.builds(
    Attribution,
    st.sampled_from(["", "red", "blue", INJECTION]),
    st.sampled_from(["", "p", "q"]),
    st.sampled_from(["", "ann", "王小明"]),
    st.sampled_from(["", "review"]),
    st.sampled_from(["", "simple"]),
    tags,
    st.sampled_from(["", "s1", "s2"]),
    st.sampled_from(["", "agent"]),
)
calls_made = st.builds(
    Call,
    moments,
    attributions,
    st.just(None),
    st.lists(parts, min_size=1, max_size=2).map(tuple),
    st.none(),
    st.booleans(),
)
batches = st.lists(st.lists(calls_made, max_size=8), max_size=4)
spans = st.one_of(
    st.just(Span()),
    st.tuples(moments, moments).map(lambda pair: Span(*sorted(pair))),
    moments.map(lambda start: Span(start, None)),
    moments.map(lambda end: Span(None, end)),
)


def _label(made: Call, period: str, zone: ZoneInfo) -> str:
    local = from_micros(made.occurred_at_micros).astimezone(zone)
    pattern = {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}[period]
    return local.strftime(pattern)


def _provider(model: str) -> str:
    return {"alpha": "acme", "beta": "bolt"}.get(model, "unknown")


NAMES: dict[str, Callable[[Call, MeteredPart], Sequence[str]]] = {
    "team": lambda made, _: [made.attribution.team_id],
    "project": lambda made, _: [made.attribution.project_id],
    "user": lambda made, _: [made.attribution.user_id],
    "task_type": lambda made, _: [made.attribution.task_type],
    "task_complexity": lambda made, _: [made.attribution.task_complexity],
    "tag": lambda made, _: made.attribution.tags or [""],
    "session": lambda made, _: [made.attribution.session_id],
    "agent": lambda made, _: [made.attribution.agent_id],
    "model": lambda _, part: [part.model],
    "provider": lambda _, part: [_provider(part.model)],
}


def _single_parts(calls: Sequence[Call]) -> Iterator[tuple[Call, MeteredPart, Measures]]:
    for made in calls:
        for number, part in enumerate(made.parts):
            one = Call(made.occurred_at_micros, made.attribution, None, (part,))
            measures = plain_sum([one])
            unfinished = int(number == 0 and not made.output_complete)
            yield (
                made,
                part,
                measures._replace(request_count=int(number == 0), incomplete_count=unfinished),
            )


def _plainly(calls: Sequence[Call], grouping: str, span: Span, zone: ZoneInfo) -> Sums:
    """Return the sums of a report, worked out without the ledger's code."""
    sums: Sums = {}
    for made, part, measures in _single_parts(calls):
        after = span.start_micros is None or made.occurred_at_micros >= span.start_micros
        if not (after and (span.end_micros is None or made.occurred_at_micros < span.end_micros)):
            continue
        if grouping in PERIODS:
            names: Sequence[str] = [_label(made, grouping, zone)]
        else:
            names = [name or UNATTRIBUTED for name in NAMES[grouping](made, part)]
        for name in names:
            sums[name] = sums.get(name, Measures()).plus(measures)
    return sums


def _reported(ledger: Ledger, grouping: str, span: Span, zone: ZoneInfo) -> Sums:
    rows, _ = ledger.summary(SummaryQuery((grouping,), span, zone))
    names = [row.keys[0] for row in rows]
    assert len(names) == len(set(names))
    return {row.keys[0]: row.measures for row in rows}


def _check_everything(ledger: Ledger, calls: Sequence[Call], span: Span, zone: ZoneInfo) -> None:
    assert ledger.verify().cost_nanos == plain_sum(calls).cost_nanos
    within = _plainly(calls, "team", span, zone)
    total = plain_sum([])
    for measures in within.values():
        total = total.plus(measures)
    for grouping in GROUPINGS:
        assert _reported(ledger, grouping, span, zone) == _plainly(calls, grouping, span, zone)
        assert ledger.summary(SummaryQuery((grouping,), span, zone))[1] == total


@contextmanager
def _booked(url: str, batches: Sequence[Sequence[Call]]) -> Iterator[Ledger]:
    with opened(url) as ledger:
        for batch in batches:
            ledger.book(batch)
        yield ledger


def _flat(batches: Sequence[Sequence[Call]]) -> list[Call]:
    return [made for batch in batches for made in batch]


def test_every_grouping_is_compared() -> None:
    """A grouping that is added must be added to the comparison too."""
    assert NAMES.keys() == DIMENSIONS.keys()


@given(batches, spans, st.sampled_from(ZONES))
@settings(max_examples=40, deadline=None)
def test_reports_on_sqlite(made: list[list[Call]], span: Span, zone: str) -> None:
    """Any calls, booked in any batches, are reported over any span as plain arithmetic says."""
    with _booked("sqlite://", made) as ledger:
        _check_everything(ledger, _flat(made), span, ZoneInfo(zone))


@given(batches, spans, st.sampled_from(ZONES))
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_reports_on_postgresql(
    postgresql_url: str, made: list[list[Call]], span: Span, zone: str
) -> None:
    """The same holds on PostgreSQL."""
    open_and_verify(postgresql_url)  # makes the schema
    empty(postgresql_url)
    with _booked(postgresql_url, made) as ledger:
        _check_everything(ledger, _flat(made), span, ZoneInfo(zone))


@pytest.mark.torture
@given(batches, spans, st.sampled_from(ZONES))
@settings(max_examples=600, deadline=None)
def test_reports_on_sqlite_at_length(made: list[list[Call]], span: Span, zone: str) -> None:
    """The same as above, looked at for minutes."""
    with _booked("sqlite://", made) as ledger:
        _check_everything(ledger, _flat(made), span, ZoneInfo(zone))


@given(st.lists(calls_made, max_size=20), st.randoms(use_true_random=False), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_order_and_size_of_batches_do_not_matter(
    made: list[Call], chance: random.Random, size: int
) -> None:
    """The same calls in another order and other batches must give the same sums."""
    shuffled = made.copy()
    chance.shuffle(shuffled)
    batches = [shuffled[n : n + size] for n in range(0, len(made), size)]
    with _booked("sqlite://", [made]) as together, _booked("sqlite://", batches) as split:
        for grouping in GROUPINGS:
            query = SummaryQuery((grouping,))
            assert together.summary(query) == split.summary(query)
        assert together.verify() == split.verify()


def _some_calls(count: int) -> list[Call]:
    """Return calls of many kinds, the same at each run."""
    chance = random.Random(20261123)
    return [
        Call(
            FIRST_DAY + chance.randrange(40 * MICROS_PER_DAY),
            Attribution(
                chance.choice(["", "red", "blue", INJECTION]),
                chance.choice(["", "p", "q"]),
                chance.choice(["ann", "bob"]),
                tags=chance.choice([(), ("x",), ("x", "y")]),
                session_id=chance.choice(["", "s"]),
            ),
            None,
            (
                MeteredPart(
                    chance.choice(["alpha", "beta", "mystery"]),
                    Usage(chance.randrange(10**6), output_tokens=chance.randrange(10**5)),
                ),
            ),
        )
        for _ in range(count)
    ]


def test_both_databases_answer_the_same(sqlite_url: str, postgresql_url: str) -> None:
    """SQLite and PostgreSQL must give identical reports, rows in identical order."""
    made = _some_calls(400)
    batches = [made[:150], made[150:]]
    span = Span(FIRST_DAY + 12_345_678_901, FIRST_DAY + 33 * MICROS_PER_DAY + 987_654_321)
    groupings = [(), *((name,) for name in GROUPINGS), ("team", "model"), ("day", "user")]
    with _booked(sqlite_url, batches) as ours, _booked(postgresql_url, batches) as theirs:
        for zone in map(ZoneInfo, ZONES):
            for grouping in groupings:
                query = SummaryQuery(grouping, span, zone)
                assert ours.summary(query) == theirs.summary(query)


DST_DAYS = {
    "Asia/Taipei": (2026, 11, 23),
    "America/New_York": (2026, 11, 1),
    "Asia/Kolkata": (2026, 11, 23),
    "Asia/Kathmandu": (2026, 11, 23),
    "Australia/Lord_Howe": (2026, 10, 4),
    "America/Santiago": (2026, 9, 6),
    "Africa/Cairo": (2026, 4, 24),
}
"""By time zone a day on which its clocks are moved, where they are; two of them at midnight."""


@pytest.mark.parametrize("period", sorted(PERIODS))
@pytest.mark.parametrize("zone_name", DST_DAYS)
def test_periods_in_time_zones(zone_name: str, period: str) -> None:
    """Calls around midnights and changes of the clock fall into the day that a wall clock shows."""
    noon = datetime(*DST_DAYS[zone_name], 12, tzinfo=UTC)
    made = [
        call(at=noon + timedelta(minutes=15 * number) + off, input_tokens=number + 400)
        for number in range(-4 * 60, 4 * 60)
        for off in (timedelta(0), timedelta(microseconds=-1))
    ]
    zone = ZoneInfo(zone_name)
    part = Span.between(noon - timedelta(hours=31), noon + timedelta(minutes=7))
    with _booked("sqlite://", [made]) as ledger:
        for span in (Span(), part):
            assert _reported(ledger, period, span, zone) == _plainly(made, period, span, zone)


HARD_NAMES = (INJECTION, 'a"b', "a'b", "%", "_", "研發 🪙", "x) OR (1=1", "NULL", "?", "red")


@pytest.fixture
def teams(ledger: Ledger) -> Ledger:
    """Return a ledger with one call per team, each with a name that tries to break out."""
    ledger.book([call(team_id=name, input_tokens=n + 1) for n, name in enumerate(HARD_NAMES)])
    return ledger


def test_filters_take_names_literally(teams: Ledger) -> None:
    """A filter must match the name itself, whatever characters it is made of."""
    for number, name in enumerate(HARD_NAMES):
        rows, total = teams.summary(SummaryQuery(("team",), only=(("team", (name,)),)))
        assert [row.keys for row in rows] == [(name,)]
        assert total.input_tokens == number + 1
    assert teams.verify().rows == len(HARD_NAMES)


def test_no_allowed_team_is_no_row(teams: Ledger) -> None:
    """An empty list of allowed names must give nothing, never everything."""
    for grouping in ((), ("team",), ("session",), ("day",)):
        assert teams.summary(SummaryQuery(grouping, only=(("team", ()),))) == ([], Measures())


def test_unknown_names_match_nothing(teams: Ledger) -> None:
    """A filter for a name that was never booked, or for none, must match no call."""
    for name in ("nobody", "", UNATTRIBUTED):
        assert teams.summary(SummaryQuery(("team",), only=(("team", (name,)),)))[0] == []


@pytest.mark.parametrize("kind", ["team", "project", "user", "model"])
def test_filters_work_with_every_grouping(ledger: Ledger, kind: str) -> None:
    """Each filter must hold in each report, whichever table answers it."""
    made = _some_calls(60)
    ledger.book(made)
    wanted = {"team": "red", "project": "p", "user": "ann", "model": "alpha"}[kind]
    kept = [one for one in made if NAMES[kind](one, one.parts[0]) == [wanted]]
    span = Span(FIRST_DAY + MICROS_PER_DAY // 3, FIRST_DAY + 30 * MICROS_PER_DAY + 7)
    zone = ZoneInfo("Asia/Taipei")
    for grouping in GROUPINGS:
        query = SummaryQuery((grouping,), span, zone, ((kind, (wanted, "none")),))
        reported = {row.keys[0]: row.measures for row in ledger.summary(query)[0]}
        assert reported == _plainly(kept, grouping, span, zone)


def test_several_filters_must_all_hold(ledger: Ledger) -> None:
    """Filters of two kinds must both hold; names of one kind are alternatives."""
    made = _some_calls(80)
    ledger.book(made)
    only = (("team", ("red", "blue")), ("model", ("beta",)))
    kept = [
        one
        for one in made
        if one.attribution.team_id in {"red", "blue"} and one.parts[0].model == "beta"
    ]
    assert ledger.summary(SummaryQuery((), only=only))[1] == plain_sum(kept)


def test_a_report_over_nothing(ledger: Ledger) -> None:
    """An empty ledger and an empty span must give no rows and sums of zero."""
    assert ledger.summary(SummaryQuery(("team",))) == ([], Measures())
    ledger.book([call()])
    for at in (NOON, NOON.replace(hour=0)):
        assert ledger.summary(SummaryQuery((), Span.between(at, at))) == ([], Measures())


def test_spans_are_half_open(ledger: Ledger) -> None:
    """A call at the start of a span belongs to it, one at its end to the next."""
    later = NOON.replace(hour=13)
    ledger.book([call(at=NOON), call(at=later)])
    for start, end in ((None, NOON), (NOON, later), (later, None)):
        _, total = ledger.summary(SummaryQuery((), Span.between(start, end)))
        assert total.request_count == int(start is not None)


def test_unknown_grouping(ledger: Ledger) -> None:
    """A grouping that there is not must be refused with the list of those that there are."""
    for name in ("", "teams", "Team", "team; --", "id"):
        with pytest.raises(UnknownGrouping) as refused:
            ledger.summary(SummaryQuery((name,)))
        assert "task_complexity" in refused.value.remedy
