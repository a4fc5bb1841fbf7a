"""Divides what several measures save together among them: Shapley values, in whole nano-dollars.

A measure's part is what it adds to the saving, averaged over all orders in which the measures can
be applied (Shapley 1953, A value for n-person games). Parts add up to the whole; measures that do
the same get the same but for the rounding; one that changes nothing gets 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations
from math import factorial, floor

Saving = Callable[[frozenset[str]], int]
"""Tells what a set of measures saves together, in nano-dollars; nothing for no measure."""


def shapley_parts(measures: Sequence[str], saving: Saving) -> dict[str, int]:
    """Return each measure's part of the saving of all, in nano-dollars; may be negative.

    Each part is rounded down; the nano-dollars that are left go one by one to the parts with the
    largest remainders, of equal ones to the measure named first.
    """
    known = {applied: saving(applied) for applied in _subsets(measures)}
    exact = {measure: _value(measure, measures, known) for measure in measures}
    parts = {measure: floor(value) for measure, value in exact.items()}
    left = known[frozenset(measures)] - known[frozenset()] - sum(parts.values())
    by_remainder = sorted(measures, key=lambda measure: parts[measure] - exact[measure])
    for measure in by_remainder[:left]:
        parts[measure] += 1
    return parts


def _subsets(measures: Sequence[str]) -> list[frozenset[str]]:
    sizes = range(len(measures) + 1)
    return [frozenset(chosen) for size in sizes for chosen in combinations(measures, size)]


def _value(measure: str, measures: Sequence[str], known: dict[frozenset[str], int]) -> Fraction:
    others = [one for one in measures if one != measure]
    orders = factorial(len(measures))
    total = 0
    for before in _subsets(others):
        weight = factorial(len(before)) * factorial(len(others) - len(before))
        total += weight * (known[before | {measure}] - known[before])
    return Fraction(total, orders)
