"""The bounds: equal to trying out every choice."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.caching.entries import FIVE_MINUTES, ONE_HOUR
from tuppence.caching.hindsight import Hindsight
from tuppence.caching.placement import Economics
from tuppence.caching.prefix_tree import PrefixTree

ECONOMICS = Economics(write_5m=0.25, write_1h=1.0, read=0.9)
GAPS = st.lists(st.sampled_from([10, 200, 300, 301, 2_000, 3_600, 3_601]), max_size=5)


def _cheapest(gaps: list[int], ttls: tuple[int, ...]) -> float:
    """Try every choice of what to write at every use that finds nothing."""
    costs = {0: 1.0, FIVE_MINUTES: 1.25, ONE_HOUR: 2.0}
    best = float("inf")
    for choices in product((0, *ttls), repeat=len(gaps) + 1):
        cost, live = 0.0, 0
        for choice, gap in zip(choices, [0, *gaps], strict=True):
            if live and gap <= live:
                cost += 0.1
            else:
                cost, live = cost + costs[choice], choice
        best = min(best, cost)
    return best


@pytest.mark.parametrize(
    ("ttl", "ttls"),
    [
        (FIVE_MINUTES, (FIVE_MINUTES,)),
        (ONE_HOUR, (ONE_HOUR,)),
        (None, (FIVE_MINUTES, ONE_HOUR)),
    ],
)
@given(gaps=GAPS)
def test_bound_is_the_cheapest_of_all_choices(
    ttl: int | None, ttls: tuple[int, ...], gaps: list[int]
) -> None:
    """Working backward must find what trying everything finds."""
    tree, at, times = PrefixTree(100), 0, [0]
    for gap in gaps:
        at += gap
        times.append(at)
    hindsight = Hindsight(ECONOMICS, ttl)
    for moment in reversed(times):
        hindsight.add_earlier(moment, tree.path([(1, 1)]), 1.0)
    assert hindsight.best().plain_tokens == pytest.approx(100 * _cheapest(gaps, ttls))


@given(prompts=st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_blocks_are_looked_at_each_by_itself(prompts: list[int]) -> None:
    """A prefix costs the sum of what its blocks cost, each used at its own times."""
    tree, hindsight = PrefixTree(1), Hindsight(ECONOMICS, FIVE_MINUTES)
    for length in prompts:
        tree.path([(0, length)])
    for number, length in reversed(list(enumerate(prompts))):
        hindsight.add_earlier(200 * number, tree.path([(0, length)]), 1.0)
    expected = 0.0
    for block in range(6):
        uses = [200 * number for number, length in enumerate(prompts) if length > block]
        if uses:
            expected += _cheapest([b - a for a, b in pairwise(uses)], (FIVE_MINUTES,))
    assert hindsight.best().plain_tokens == pytest.approx(expected)
