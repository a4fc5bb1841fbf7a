"""What the simulated provider bills: golden cases of the documented rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.caching.entries import FIVE_MINUTES, ONE_HOUR, CacheEntries, Marker, Served
from tuppence.caching.prefix_tree import Position

MINIMUM = 512


def _path(count: int, tokens: int = 1_000) -> list[Position]:
    return [Position(tokens * (index + 1)) for index in range(count)]


def test_entry_19_positions_back_is_found_and_20_is_not() -> None:
    """A marker looks at 20 positions, itself the first: back to the 19th before it."""
    path = _path(60)
    cache = CacheEntries(lookback_positions=20)
    cache.serve(path, [Marker(15, FIVE_MINUTES)], 0, MINIMUM)
    assert cache.serve(path, [Marker(34, FIVE_MINUTES)], 1, MINIMUM).read_tokens == 16_000
    cache = CacheEntries(lookback_positions=20)
    cache.serve(path, [Marker(15, FIVE_MINUTES)], 0, MINIMUM)
    missed = cache.serve(path, [Marker(35, FIVE_MINUTES)], 1, MINIMUM)
    assert missed == Served(0, 36_000, 0, 36_000)


def test_each_marker_looks_back_for_itself() -> None:
    """An entry out of the last marker's reach is found by an earlier marker."""
    path = _path(60)
    cache = CacheEntries(lookback_positions=20)
    cache.serve(path, [Marker(5, FIVE_MINUTES)], 0, MINIMUM)
    served = cache.serve(path, [Marker(10, FIVE_MINUTES), Marker(50, FIVE_MINUTES)], 1, MINIMUM)
    assert served == Served(6_000, 45_000, 0, 51_000)


def test_nothing_is_found_where_no_marker_stood() -> None:
    """Entries exist at markers only: a common prefix alone is not cached."""
    path = _path(10)
    cache = CacheEntries(lookback_positions=20)
    cache.serve(path, [Marker(9, FIVE_MINUTES)], 0, MINIMUM)
    assert cache.serve(path[:9], [Marker(8, FIVE_MINUTES)], 1, MINIMUM).read_tokens == 0


def test_mixed_ttls_are_billed_by_a_b_and_c() -> None:
    """Up to A is read, up to B written for an hour, up to C for five minutes."""
    path = _path(10)
    cache = CacheEntries()
    cache.serve(path, [Marker(1, ONE_HOUR)], 0, MINIMUM)
    markers = [Marker(1, ONE_HOUR), Marker(4, ONE_HOUR), Marker(7, FIVE_MINUTES)]
    served = cache.serve(path, markers, 1, MINIMUM)
    assert served == Served(2_000, 3_000, 3_000, 8_000)
    usage = served.usage(10_500)
    assert (usage.input_tokens, usage.cache_read_tokens) == (2_500, 2_000)
    assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (3_000, 3_000)


def test_hour_above_a_five_minute_entry_covers_everything_below() -> None:
    """Sealing: only the new tokens are paid for, and the whole prefix lives for an hour."""
    path = _path(10)
    cache = CacheEntries()
    cache.serve(path, [Marker(7, FIVE_MINUTES)], 0, MINIMUM)
    assert cache.serve(path, [Marker(8, ONE_HOUR)], 100, MINIMUM) == Served(8_000, 0, 1_000, 9_000)
    later = cache.serve(path, [Marker(9, FIVE_MINUTES)], 100 + ONE_HOUR, MINIMUM)
    assert later.read_tokens == 9_000


def test_marker_for_an_hour_at_or_below_a_hit_writes_nothing() -> None:
    """B is at least A: what is read is not written again, whatever TTL is asked for."""
    path = _path(10)
    cache = CacheEntries()
    cache.serve(path, [Marker(7, FIVE_MINUTES)], 0, MINIMUM)
    again = cache.serve(path, [Marker(3, ONE_HOUR), Marker(7, FIVE_MINUTES)], 1, MINIMUM)
    assert again == Served(8_000, 0, 0, 8_000)


@pytest.mark.parametrize(("ttl", "seconds"), [(FIVE_MINUTES, 300), (ONE_HOUR, 3600)])
def test_ttl_counts_from_the_start_and_is_renewed_by_reading(ttl: int, seconds: int) -> None:
    """An entry lives for its TTL from the start of the request that wrote or read it last."""
    path = _path(5)
    cache = CacheEntries()
    markers = [Marker(4, ttl)]
    cache.serve(path, markers, 0, MINIMUM)
    assert cache.serve(path, markers, seconds, MINIMUM).read_tokens == 5_000
    assert cache.serve(path, markers, 2 * seconds, MINIMUM).read_tokens == 5_000
    assert cache.serve(path, markers, 3 * seconds + 0.001, MINIMUM).read_tokens == 0


def test_prefix_below_the_minimum_is_not_cached() -> None:
    """A marker on too short a prefix is accepted and does nothing."""
    path = _path(3, tokens=200)
    cache = CacheEntries()
    assert cache.serve(path, [Marker(1, FIVE_MINUTES)], 0, MINIMUM) == Served(0, 0, 0, 0)
    assert cache.serve(path, [Marker(2, FIVE_MINUTES)], 1, MINIMUM) == Served(0, 600, 0, 600)


def test_writes_that_nobody_reads_are_wasted() -> None:
    """Wasted are tokens that expired unread; what lies below a read entry was of use."""
    path, other = _path(5), _path(5)
    cache = CacheEntries()
    cache.serve(path, [Marker(1, FIVE_MINUTES), Marker(4, FIVE_MINUTES)], 0, MINIMUM)
    cache.serve(other, [Marker(4, FIVE_MINUTES)], 0, MINIMUM)
    cache.serve(path, [Marker(4, FIVE_MINUTES)], 1, MINIMUM)
    cache.end()
    assert cache.wasted_tokens == 5_000


@given(
    requests=st.lists(
        st.tuples(
            st.integers(1, 40),
            st.floats(0, 4_000),
            st.lists(st.tuples(st.integers(0, 39), st.booleans()), max_size=4),
        ),
        max_size=12,
    )
)
def test_tokens_are_counted_once_and_only_what_was_written_is_read(
    requests: list[tuple[int, float, list[tuple[int, bool]]]],
) -> None:
    """The classes never overlap, and nothing is read beyond what some request wrote."""
    path = _path(40)
    cache = CacheEntries(lookback_positions=20)
    written_up_to = 0
    for length, at, wanted in sorted(requests, key=lambda one: one[1]):
        places = {min(place, length - 1): hour for place, hour in wanted}
        hours = sorted(place for place, hour in places.items() if hour)
        markers = [
            Marker(place, ONE_HOUR if hours and place <= hours[-1] else FIVE_MINUTES)
            for place in sorted(places)
        ]
        served = cache.serve(path[:length], markers, at, MINIMUM)
        parts = served.read_tokens + served.written_5m_tokens + served.written_1h_tokens
        assert parts == served.covered_tokens <= path[length - 1].end_tokens
        assert served.read_tokens <= written_up_to
        written_up_to = max(written_up_to, served.covered_tokens)
