"""Draws from a table of quantiles."""

from __future__ import annotations

import random
from statistics import quantiles

import pytest

from tuppence.demo.quantiles import LEVELS, OUTPUT, Quantiles

EVEN = Quantiles("made up", (0, 10, 20, 30, 40, 50, 60, 70, 80))


@pytest.mark.parametrize(("level", "value"), list(zip(LEVELS, EVEN.values, strict=True)))
def test_a_measured_level_gives_the_measured_value(level: float, value: float) -> None:
    """Interpolation must pass through every measured point, zero included."""
    assert pytest.approx(value) == EVEN.at(level)


@pytest.mark.parametrize(("level", "value"), [(0.0, 0), (0.005, 0), (0.9995, 80), (1.0, 80)])
def test_nothing_is_invented_beyond_the_measured_levels(level: float, value: float) -> None:
    """A draw must not leave the range between the first and the last level."""
    assert value == EVEN.at(level)


def test_values_rise_with_the_level() -> None:
    """A higher level must never give a smaller value."""
    values = [round(OUTPUT.at(step / 1_000), 6) for step in range(1_001)]
    assert sorted(values) == values


def test_spread_counts_hit_the_median_with_few_draws() -> None:
    """Thirty spread draws must have the table's median, which thirty free ones would miss."""
    counts = OUTPUT.spread_counts(random.Random(7), 30)
    assert pytest.approx(OUTPUT.at(0.5), rel=0.1) == quantiles(counts, n=2)[0]


def test_spread_counts_come_in_random_order() -> None:
    """Spread draws must not come sorted, or the first sessions of a day would be the shortest."""
    counts = OUTPUT.spread_counts(random.Random(7), 30)
    assert sorted(counts) != counts
