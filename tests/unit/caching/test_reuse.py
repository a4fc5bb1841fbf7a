"""Rates of reuse: what is learned is what happened, at every moment."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.caching.placement import RequestTraits, prior_of, record_use, segments_of
from tuppence.caching.prefix_tree import Position, PrefixTree
from tuppence.caching.reuse import Prior, ReuseRate, ReuseStatistics, Segment

PRIOR = Prior(0.3, 0.1, 1_000)
TRAITS = RequestTraits()


def _statistics() -> ReuseStatistics:
    return ReuseStatistics(lambda _: PRIOR)


def test_belief_holds_before_anything_was_seen() -> None:
    """Without experience the probabilities are those of the prior."""
    soon, later = ReuseRate(PRIOR).soon_and_later(0)
    assert soon == pytest.approx(0.3)
    assert later == pytest.approx(0.7 * 0.1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_rate_becomes_what_is_seen(share: float) -> None:
    """After many prompts of which a share came again within 5 minutes, that share is expected."""
    statistics, seeded = _statistics(), random.Random(7)
    waiting: list[tuple[float, int, Position]] = []
    for number in range(4_000):
        at = number * 2.0
        due = [one for one in waiting if one[0] <= at]
        waiting = [one for one in waiting if one[0] > at]
        for moment, _, position in sorted(due, key=lambda one: one[:2]):
            assert position.last_use is not None
            statistics.advance(moment)
            statistics.use_again(position.last_use, position.end_tokens, moment)
        position = Position(1_000)
        segment = Segment(0, 1_000, statistics.rate("new"))
        statistics.advance(at)
        position.last_use = statistics.use([segment], at)
        if seeded.random() < share:
            waiting.append((at + seeded.uniform(0, 300), number, position))
    soon, _ = statistics.rate("new").soon_and_later(8_000.0)
    assert soon == pytest.approx(share, abs=0.05)


def test_tokens_that_still_wait_count_for_as_long_as_they_waited() -> None:
    """Prompts that have not come again so far lower the rate before their time is over."""
    statistics = _statistics()
    for number in range(200):
        statistics.use([Segment(0, 1_000, statistics.rate("new"))], number * 0.1)
    early, _ = statistics.rate("new").soon_and_later(20.0)
    statistics.advance(120.0)
    late, _ = statistics.rate("new").soon_and_later(120.0)
    assert late < early < 0.3


@given(
    prompts=st.lists(
        st.tuples(st.floats(0.1, 2_000), st.lists(st.integers(0, 3), min_size=1, max_size=6)),
        max_size=25,
    )
)
def test_no_token_waits_twice(prompts: list[tuple[float, list[int]]]) -> None:
    """Probabilities stay probabilities, whatever parts of prompts come again and when."""
    statistics, tree, at = ReuseStatistics(prior_of), PrefixTree(500), 0.0
    for gap, blocks in prompts:
        at += gap
        path = tree.path([(block, 1) for block in blocks])
        segments = segments_of(path, at, TRAITS, statistics)
        assert [one.start_tokens for one in segments[1:]] == [
            one.end_tokens for one in segments[:-1]
        ]
        assert segments[-1].end_tokens == path[-1].end_tokens
        record_use(path, at, segments, statistics)
        for rate in statistics.rates.values():
            soon, later = rate.soon_and_later(at)
            assert 0 <= soon <= 1
            assert 0 <= later <= 1 - soon + 1e-12


def test_pause_forgets_what_waits_and_keeps_what_was_learned() -> None:
    """A trace whose clock begins anew must not count the time between as waiting."""
    statistics = _statistics()
    for number in range(100):
        use = statistics.use([Segment(0, 1_000, statistics.rate("new"))], float(number))
        statistics.use_again(use, 1_000, float(number))
    learned = statistics.rate("new").soon_and_later(100.0)
    statistics.use([Segment(0, 10**6, statistics.rate("new"))], 100.0)
    statistics.pause()
    statistics.advance(5.0)
    assert statistics.rate("new").soon_and_later(5.0) == pytest.approx(learned, rel=0.05)
