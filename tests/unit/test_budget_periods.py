"""Periods of budgets tile time: no gap, no overlap, in zones whose clocks do the oddest things."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tuppence.core.periods import MICROS_PER_DAY, PERIODS, Period, period_at, to_micros

ZONES = (
    "Asia/Taipei",
    "America/New_York",
    "Europe/London",
    "Australia/Lord_Howe",  # moves its clocks by half an hour
    "Pacific/Apia",  # left out 2011-12-30
    "America/St_Johns",  # moved its clocks at 0:01 until 2011
    "Africa/Cairo",  # moves its clocks at midnight
    "UTC",
)
MILLISECOND = 1_000
CALENDAR = ("day", "week", "month")
LONGEST_DAYS = {"day": 2, "week": 8, "month": 32}

zones = st.sampled_from(ZONES).map(ZoneInfo)
kinds = st.sampled_from(PERIODS)
windows = st.sampled_from([1, 59, 60, 61, 3_600, 86_400, 2_592_000])
anytime = st.integers(to_micros(datetime(1995, 1, 1)), to_micros(datetime(2060, 1, 1)))


def _near_a_midnight(day: datetime, zone: ZoneInfo, offset: int) -> int:
    return to_micros(datetime(day.year, day.month, day.day, tzinfo=zone)) + offset


midnights = st.builds(
    _near_a_midnight,
    st.datetimes(datetime(1995, 1, 1), datetime(2059, 12, 31)),
    zones,
    st.sampled_from([-MILLISECOND, -1, 0, 1, MILLISECOND, 60_000_000, 3_600_000_000]),
)
moments = st.one_of(anytime, midnights)


def _of(micros: int, kind: str, zone: ZoneInfo, window: int = 60) -> Period:
    return period_at(micros, kind, zone, window if kind == "rolling" else 0)


def _check_tiles(micros: int, kind: str, zone: ZoneInfo, window: int) -> None:
    period = _of(micros, kind, zone, window)
    start, end = period
    assert start <= micros < end
    assert _of(start, kind, zone, window) == _of(end - 1, kind, zone, window) == period
    if kind != "total":
        assert _of(start - 1, kind, zone, window).end_micros == start
        assert _of(end, kind, zone, window).start_micros == end
    if kind in CALENDAR:
        assert end - start <= LONGEST_DAYS[kind] * MICROS_PER_DAY


@settings(max_examples=1_500, deadline=None)
@given(moments, kinds, zones, windows)
@example(to_micros(datetime(2011, 12, 30, 10, tzinfo=UTC)), "day", ZoneInfo("Pacific/Apia"), 60)
@example(to_micros(datetime(2011, 12, 30, 10, tzinfo=UTC)), "week", ZoneInfo("Pacific/Apia"), 60)
@example(
    to_micros(datetime(2010, 11, 7, 2, 31, tzinfo=UTC)), "day", ZoneInfo("America/St_Johns"), 0
)
def test_periods_tile_time(micros: int, kind: str, zone: ZoneInfo, window: int) -> None:
    """Each moment is in one period, its neighbours begin and end where it ends and begins."""
    _check_tiles(micros, kind, zone, window)


@pytest.mark.torture
@settings(max_examples=100_000, deadline=None)
@given(moments, kinds, zones, windows)
def test_periods_tile_time_at_length(micros: int, kind: str, zone: ZoneInfo, window: int) -> None:
    """The same for 100,000 moments."""
    _check_tiles(micros, kind, zone, window)


@pytest.mark.parametrize("kind", CALENDAR)
@pytest.mark.parametrize("name", ZONES)
def test_periods_follow_each_other_for_decades(kind: str, name: str) -> None:
    """Walking from period to period leaves nothing out and meets every day but Apia's lost one."""
    zone = ZoneInfo(name)
    at, until = to_micros(datetime(2009, 12, 31)), to_micros(datetime(2029, 1, 1))
    starts = []
    while at < until:
        period = _of(at, kind, zone)
        assert period.start_micros <= at < period.end_micros
        starts.append(datetime.fromtimestamp(period.start_micros / 1e6, zone).date())
        at = period.end_micros
    assert starts == sorted(set(starts))
    if kind == "day":
        days = (starts[-1] - starts[0]).days + 1
        assert len(starts) == days - (name == "Pacific/Apia")
    if kind == "month":
        assert {day.day for day in starts} == {1}
    if kind == "week" and name != "Pacific/Apia":
        assert {day.weekday() for day in starts} == {0}


@pytest.mark.parametrize("name", ["Asia/Taipei", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize(
    "boundary",
    [
        datetime(2028, 2, 29),
        datetime(2028, 3, 1),
        datetime(2026, 3, 1),
        datetime(2027, 1, 1),
        datetime(2026, 11, 1),  # New York's clocks go back on this day
        datetime(2026, 10, 4),  # Lord Howe's clocks go forward on this day
    ],
)
def test_a_millisecond_decides_on_the_period(name: str, boundary: datetime) -> None:
    """One millisecond before a local midnight it is still the old day, and at it the new one."""
    zone = ZoneInfo(name)
    midnight = to_micros(boundary.replace(tzinfo=zone))
    for kind in ("day", "month") if boundary.day == 1 else ("day",):
        before, after = _of(midnight - MILLISECOND, kind, zone), _of(midnight, kind, zone)
        assert before.end_micros == after.start_micros == midnight
        assert _of(midnight + MILLISECOND, kind, zone) == after
    if boundary.day == 29:
        assert _of(midnight - 1, "month", zone) == _of(midnight, "month", zone)


@settings(deadline=None)
@given(anytime, windows)
def test_a_window_never_looks_back_too_little(micros: int, window: int) -> None:
    """The slices of a rolling window are short against it, and all of one length."""
    start, end = period_at(micros, "rolling", ZoneInfo("UTC"), window)
    assert end - start == window * 1_000_000 // 60
    assert start % (end - start) == 0
