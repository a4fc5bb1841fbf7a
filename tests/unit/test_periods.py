"""Periods: spans are tiled without gap or overlap, days are those of a wall clock."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tuppence.core.periods import (
    MICROS_PER_DAY,
    MICROS_PER_HOUR,
    Piece,
    Span,
    cover,
    day_of,
    from_micros,
    has_whole_hour_offsets,
    load_zone,
    local_midnight,
    parse_moment,
    period_at,
    period_label,
    to_micros,
)
from tuppence.errors import InvalidPeriod

NAMES = (
    "UTC",
    "Asia/Taipei",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Santiago",  # moves its clocks at midnight
    "America/Havana",  # has one midnight twice
    "Pacific/Apia",  # left out a whole day in 2011
)
STEPS = {"raw": 1, "hour": MICROS_PER_HOUR, "day": MICROS_PER_DAY}
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

zones = st.sampled_from(NAMES).map(ZoneInfo)
moments = st.datetimes(datetime(2015, 1, 2), datetime(2037, 12, 31), timezones=st.just(UTC))
micros = st.one_of(
    st.integers(0, 5 * MICROS_PER_DAY),
    st.integers(0, 5 * 24).map(lambda hour: hour * MICROS_PER_HOUR),
    moments.map(to_micros),
)
bounds = st.one_of(st.none(), micros)


def _span(start: int | None, end: int | None) -> Span:
    if start is not None and end is not None:
        return Span(min(start, end), max(start, end))
    return Span(start, end)


def _is_whole(piece: Piece) -> bool:
    """Tell whether a piece begins and ends where rows of its kind do."""
    step = STEPS[piece.kind]
    return all(bound is None or bound % step == 0 for bound in piece.span)


@given(start=bounds, end=bounds, by_hour=st.booleans())
@example(start=0, end=MICROS_PER_DAY, by_hour=False)
@example(start=1, end=MICROS_PER_DAY + 1, by_hour=False)
@example(start=MICROS_PER_HOUR - 1, end=MICROS_PER_HOUR + 1, by_hour=True)
def test_pieces_tile_the_span(start: int | None, end: int | None, *, by_hour: bool) -> None:
    """Each moment of a span is in exactly one piece, and each piece is made of whole rows."""
    span = _span(start, end)
    pieces = cover(span, by_hour=by_hour)
    assert all(map(_is_whole, pieces))
    if span.start_micros is not None and span.start_micros == span.end_micros:
        assert pieces == []
        return
    assert pieces[0].span.start_micros == span.start_micros
    assert pieces[-1].span.end_micros == span.end_micros
    for before, after in pairwise(pieces):
        assert before.span.end_micros == after.span.start_micros is not None
    assert all(piece.span.start_micros != piece.span.end_micros for piece in pieces[1:])


@given(bounds, bounds)
def test_raw_rows_are_read_for_less_than_two_hours(start: int | None, end: int | None) -> None:
    """However long a span is, single calls are read only for the hours that it cuts."""
    lengths = [
        (piece.span.end_micros or 0) - (piece.span.start_micros or 0)
        for piece in cover(_span(start, end))
        if piece.kind == "raw"
    ]
    assert len(lengths) <= 2
    assert sum(lengths) < 2 * MICROS_PER_HOUR


@given(bounds, bounds)
def test_hours_leave_out_the_daily_rows(start: int | None, end: int | None) -> None:
    """Days of another time zone cannot be put together from days of UTC."""
    assert all(piece.kind != "day" for piece in cover(_span(start, end), by_hour=True))


@given(moments)
def test_micros_keep_a_moment_exactly(moment: datetime) -> None:
    """A moment must come back as it was put in, to the microsecond."""
    assert from_micros(to_micros(moment)) == moment
    assert to_micros(moment.replace(tzinfo=None)) == to_micros(moment)
    assert to_micros(moment.astimezone(ZoneInfo("Asia/Kathmandu"))) == to_micros(moment)


@given(moments, zones)
def test_days_and_weeks_are_those_of_a_wall_clock(moment: datetime, zone: ZoneInfo) -> None:
    """Labels must be what a clock and a calendar on the wall show."""
    local = moment.astimezone(zone)
    at = to_micros(moment)
    assert day_of(at, zone) == local.date()
    assert period_label(at, "day", zone) == local.strftime("%Y-%m-%d")
    assert period_label(at, "week", zone) == local.strftime("%G-W%V")
    assert period_label(at, "month", zone) == local.strftime("%Y-%m")


@given(moments, zones)
def test_a_month_holds_its_moments_and_the_next_one_follows(
    moment: datetime, zone: ZoneInfo
) -> None:
    """Months tile time: each moment is in one, and each begins where the last one ends."""
    start_micros, end_micros = period_at(to_micros(moment), "month", zone)
    assert start_micros <= to_micros(moment) < end_micros
    assert period_at(end_micros, "month", zone).start_micros == end_micros
    assert period_at(start_micros - 1, "month", zone).end_micros == start_micros
    start = from_micros(start_micros)
    assert start.astimezone(zone).date().day == 1
    assert (start - timedelta(microseconds=1)).astimezone(zone).month != start.astimezone(
        zone
    ).month


@given(st.dates(date(2015, 1, 2), date(2037, 12, 30)), zones)
def test_a_local_day_begins_at_its_first_moment(day: date, zone: ZoneInfo) -> None:
    """Nothing of a day may come before its midnight, even where clocks are moved at midnight."""
    midnight = local_midnight(day, zone)
    assert midnight.astimezone(zone).date() == day
    assert (midnight - timedelta(microseconds=1)).astimezone(zone).date() < day


def test_naive_moments_are_utc() -> None:
    """A month asked for with a naive moment must be the month of UTC."""
    naive = to_micros(NOON.replace(tzinfo=None))
    assert naive == to_micros(NOON)
    start, _ = period_at(naive, "month", ZoneInfo("UTC"))
    assert from_micros(start) == datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "whole"),
    [
        ("UTC", True),
        ("Asia/Taipei", True),
        ("America/New_York", True),
        ("Asia/Kolkata", False),
        ("Asia/Kathmandu", False),
        ("Australia/Lord_Howe", False),
    ],
)
def test_zones_that_hourly_rows_can_answer(zone: str, *, whole: bool) -> None:
    """Only a zone whose midnights are whole hours of UTC may be answered from hourly rows."""
    year = timedelta(days=365)
    assert has_whole_hour_offsets(ZoneInfo(zone), NOON - year, NOON) is whole


def test_one_odd_midnight_is_enough() -> None:
    """A zone that had half an hour within the span must not be answered from hourly rows."""
    change = datetime(2015, 10, 3, 15, tzinfo=UTC)  # Norfolk Island went from 11:30 to 11:00
    zone = ZoneInfo("Pacific/Norfolk")
    assert not has_whole_hour_offsets(zone, change - timedelta(days=30), change)
    assert has_whole_hour_offsets(zone, change + timedelta(days=9), change + timedelta(days=90))


def test_reversed_span() -> None:
    """A span that ends before it starts must be refused, naming both ends; an empty one is fine."""
    with pytest.raises(InvalidPeriod) as refused:
        Span.between(NOON, NOON - timedelta(seconds=1))
    assert refused.value.field == "start"
    assert "2026-11-23T11:59:59" in str(refused.value)
    assert cover(Span.between(NOON, NOON)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23", datetime(2026, 11, 22, 16, tzinfo=UTC)),
        ("2026-11-23T10:00", datetime(2026, 11, 23, 2, tzinfo=UTC)),
        ("2026-11-23T10:00Z", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("2026-11-23T10:00:00.5+05:45", datetime(2026, 11, 23, 4, 15, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_moments_that_can_be_read(text: str, expected: datetime) -> None:
    """A date without an offset is meant in the given time zone, one with an offset in its own."""
    assert parse_moment(text, field="since", zone=ZoneInfo("Asia/Taipei")) == expected


@pytest.mark.parametrize("text", ["", "today", "2026-13-01", "23.11.2026", "2026-11-23T25:00", 5])
def test_moments_that_cannot_be_read(text: str) -> None:
    """Anything else must be refused with the field, the value and how to write it."""
    with pytest.raises(InvalidPeriod) as refused:
        parse_moment(text, field="since")
    assert (refused.value.field, refused.value.value) == ("since", text)
    assert "2026-11-23" in refused.value.remedy


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "a\x00b"]
)
def test_zones_that_there_are_not(name: str) -> None:
    """A time zone that does not exist, or is a path, must be refused by name."""
    with pytest.raises(InvalidPeriod) as refused:
        load_zone(name)
    assert (refused.value.field, refused.value.value) == ("tz", name)
