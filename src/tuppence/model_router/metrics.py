"""How good a model router is, worked out from what each tier's models achieved and cost.

n is the number of prompts. The tiers are weak, middle and strong, in this order in every array of
shape (n, 3); a tier that was not tried on a prompt is NaN there. Quality is 0 to 1, cost any unit
of money. A score is a router's wish for the strong tier: the higher, the sooner a prompt is sent
there. What the data cannot answer is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

WEAK, MIDDLE, STRONG = range(3)
TIERS = 3
POINTS_ON_A_CURVE = 500
ROUNDING = 1e-12
"""Differences that floating-point sums make by themselves."""


class Interval(NamedTuple):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def auc(score: FloatArray, positive: BoolArray) -> float:
    """Return how often a positive prompt scores above a negative one; ties count one half."""
    _, group, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]
    positives = int(positive.sum())
    negatives = positive.size - positives
    if not positives or not negatives:
        return np.nan
    above = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def performance_gap_curve(score: FloatArray, weak: FloatArray, strong: FloatArray) -> FloatArray:
    """Return the share of the quality gap recovered with 0, 1, ... n calls to the strong tier.

    PGR of RouteLLM (arXiv 2406.18665), where `weak` and `strong` are each prompt's quality. Prompts
    of equal score count with their mean gain, so the order of rows does not matter. NaN where the
    strong tier is no better on average.
    """
    gain = _sorted_mean_of_equals(-score, strong - weak)
    total = gain.sum()
    if not total > ROUNDING * gain.size:
        return np.full(gain.size + 1, np.nan)
    return np.concatenate(([0.0], np.cumsum(gain) / total))


def apgr(score: FloatArray, weak: FloatArray, strong: FloatArray) -> float:
    """Return the mean of the performance gap curve: 0.5 for a random order (APGR of RouteLLM)."""
    return float(performance_gap_curve(score, weak, strong).mean())


def calls_for_gap(score: FloatArray, weak: FloatArray, strong: FloatArray, share: float) -> float:
    """Return the least share of strong calls that recovers this share of the gap.

    CPT of RouteLLM: `share` 0.5 and 0.8 there.
    """
    curve = performance_gap_curve(score, weak, strong)
    reached = np.flatnonzero(curve >= share - ROUNDING)
    return float(reached[0] / score.size) if reached.size else np.nan


def cost_quality_points(
    p_right: FloatArray,
    quality: FloatArray,
    cost: FloatArray,
    *,
    expected_cost: FloatArray | None = None,
    steps: int = POINTS_ON_A_CURVE,
) -> FloatArray:
    """Return (mean cost, mean quality) for every trade-off lambda, from infinity down to 0.

    A prompt goes to the tier with the most `p_right - lambda * cost`. `expected_cost`, (n, 3) or
    (3,), is what the router takes a prompt to cost where it does not know the bill in advance. Of
    more than `steps` points, so many are kept, evenly spaced, the first and the last included.
    """
    believed = np.broadcast_to(cost if expected_cost is None else expected_cost, cost.shape)
    tried = np.isfinite(quality) & np.isfinite(cost) & np.isfinite(p_right) & np.isfinite(believed)
    believed = np.where(tried, believed, np.inf)
    p_right = np.where(tried, p_right, -np.inf)
    outcome = np.stack((cost, quality), axis=-1)
    every = np.arange(len(cost))
    cheapest = believed == believed.min(axis=1, keepdims=True)
    tier = np.where(cheapest, p_right, -np.inf).argmax(axis=1)
    start = outcome[every, tier].mean(axis=0)
    # From the cheapest tier, a falling lambda moves a prompt along its own hull: two moves at most.
    moves, last = [], np.full(len(cost), np.inf)
    for _ in range(TIERS - 1):
        slope = _slopes(p_right, believed, tier)
        after = slope.argmax(axis=1)
        last = np.minimum(slope[every, after], last)  # rounding must not swap a prompt's two moves
        moved = np.flatnonzero(last > 0)
        change = outcome[moved, after[moved]] - outcome[moved, tier[moved]]
        moves.append(np.column_stack((last[moved], change / len(cost))))
        tier[moved] = after[moved]
    move = np.concatenate(moves)
    move = move[np.argsort(-move[:, 0], kind="stable")]
    path = np.concatenate((start[None], start + np.cumsum(move[:, 1:], axis=0)))
    # Prompts that move at the same trade-off move together.
    together = np.append(np.flatnonzero(np.diff(move[:, 0], prepend=np.inf)), len(move))
    return _thinned(path[together], steps)


def zero_router_points(quality: FloatArray, cost: FloatArray) -> FloatArray:
    """Return (mean cost, mean quality) of the tiers that were tried on every prompt, weak first.

    Choosing among these at random is the zero router of RouterBench: what needs no router.
    """
    points = np.column_stack((cost.mean(axis=0), quality.mean(axis=0)))
    tried: FloatArray = points[np.isfinite(points).all(axis=1)]
    return tried


def quality_hull(points: FloatArray) -> FloatArray:
    """Return the corners of the non-decreasing convex hull of (cost, quality) points.

    Points between two corners are reached by choosing at random between them.
    """
    ordered = points[np.lexsort((-points[:, 1], points[:, 0]))]
    best_before = np.maximum.accumulate(np.concatenate(([-np.inf], ordered[:-1, 1])))
    corners: list[tuple[float, float]] = []
    for cost, quality in ordered[ordered[:, 1] > best_before].tolist():
        while len(corners) > 1 and _is_below(corners[-1], corners[-2], (cost, quality)):
            corners.pop()
        corners.append((cost, quality))
    return np.array(corners, dtype=np.float64).reshape(-1, 2)


def hull_area(points: FloatArray, low: float, high: float) -> float:
    """Return the area under the hull from cost `low` to `high`, level beyond its ends."""
    cost, quality = quality_hull(points).T
    inside = cost[(cost > low) & (cost < high)]
    at = np.concatenate(([low], inside, [high]))
    return float(np.trapezoid(np.interp(at, cost, quality), at))


def aiq(points: FloatArray, tiers: FloatArray) -> float:
    """Return the mean quality of the hull, from the cheapest tier's cost to the strong one's.

    AIQ of RouterBench (arXiv 2403.12031). `tiers` are the zero router's points: they give all
    compared routers the same range, and the cheapest tier as the point to start from. NaN where the
    strong tier is the cheapest.
    """
    cheapest = tiers[np.lexsort((-tiers[:, 1], tiers[:, 0]))[0]]
    low, high = float(cheapest[0]), float(tiers[-1, 0])
    if not high > low:
        return np.nan
    return hull_area(np.vstack((cheapest, points)), low, high) / (high - low)


def gap_closed(aiq_router: float, aiq_zero: float, aiq_oracle: float) -> float:
    """Return how far a router comes from no router (0) to perfect foresight (1)."""
    gap = aiq_oracle - aiq_zero
    return (aiq_router - aiq_zero) / gap if gap > ROUNDING else np.nan


def cost_at_quality(
    points: FloatArray, quality_share: float, best: tuple[float, float]
) -> float | None:
    """Return the least cost that buys this share of the strong tier's quality; None where none.

    `best` is the strong tier's (cost, quality); the result is a share of that cost.
    """
    cost, quality = quality_hull(points).T
    wanted = quality_share * best[1]
    if not quality.size or quality[-1] < wanted - ROUNDING:
        return None
    # Quality rises from corner to corner, so the hull can be read the other way round.
    return float(np.interp(wanted, quality, cost)) / best[0]


def calibration_error(p: FloatArray, outcome: FloatArray, bins: int = 10) -> float:
    """Return the expected calibration error over bins of equal counts; outcomes may be fractions.

    Prompts of equal `p` count with their mean outcome, so the order of rows does not matter.
    """
    excess = np.sort(p) - _sorted_mean_of_equals(p, outcome)
    return float(sum(abs(part.sum()) for part in np.array_split(excess, bins)) / p.size)


def severe_under_routing(chosen: IntArray, needed: IntArray) -> float:
    """Return the share of prompts that need the strong tier but were sent to the weak one."""
    sent = chosen[needed == STRONG]
    return float((sent == WEAK).mean()) if sent.size else np.nan


def recalls(chosen: IntArray, needed: IntArray) -> FloatArray:
    """Return, per needed tier, the share of prompts sent exactly there; NaN where none needs it."""
    right = np.bincount(needed[chosen == needed], minlength=TIERS)
    count = np.bincount(needed, minlength=TIERS)
    share: FloatArray = np.divide(right, count, out=np.full(TIERS, np.nan), where=count > 0)
    return share


def balanced_accuracy(chosen: IntArray, needed: IntArray) -> float:
    """Return the mean recall over the tiers that some prompt needs."""
    known = recalls(chosen, needed)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else np.nan


def bootstrap(
    statistic: Callable[[IntArray], float],
    n: int,
    *,
    rounds: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic over prompts drawn with replacement.

    `statistic` is given the rows drawn; rounds in which it is NaN are left out.
    """
    low, high = intervals(
        lambda rows: np.array([statistic(rows)]), n, rounds=rounds, seed=seed, level=level
    )
    return float(low[0]), float(high[0])


def intervals(
    statistic: Callable[[IntArray], FloatArray],
    n: int,
    *,
    rounds: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[FloatArray, FloatArray]:
    """Return the percentile intervals of several statistics at once: all lows, all highs.

    See `bootstrap`; NaN where a statistic is NaN in every round.
    """
    drawing = np.random.default_rng(seed)
    values = np.array([statistic(drawing.integers(0, n, n)) for _ in range(rounds)])
    is_known = ~np.isnan(values)
    filled = np.where(is_known.any(axis=0), values, 0)  # NaN alone has no quantile
    low, high = np.nanquantile(filled, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return tuple(np.where(is_known.any(axis=0), one, np.nan) for one in (low, high))  # type: ignore[return-value]


def _sorted_mean_of_equals(key: FloatArray, value: FloatArray) -> FloatArray:
    """Return the values in the order of their keys, equal keys having their mean."""
    _, group, counts = np.unique(key, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(group, value) / counts, counts)


def _slopes(p_right: FloatArray, believed: FloatArray, tier: IntArray) -> FloatArray:
    """Return what each dearer tier adds per unit of cost to the tier that a prompt is at."""
    at = tier[:, None]
    dearer = believed - np.take_along_axis(believed, at, axis=1)
    gain = p_right - np.take_along_axis(p_right, at, axis=1)
    open_to = np.isfinite(dearer) & (dearer > 0)
    return np.divide(gain, dearer, out=np.full_like(gain, -np.inf), where=open_to)


def _thinned(points: FloatArray, steps: int) -> FloatArray:
    if len(points) <= steps:
        return points
    kept: FloatArray = points[np.linspace(0, len(points) - 1, steps).round().astype(np.intp)]
    return kept


def _is_below(
    middle: tuple[float, float], left: tuple[float, float], right: tuple[float, float]
) -> bool:
    """Tell whether a point lies on or below the line between two others."""
    rise = (right[1] - left[1]) * (middle[0] - left[0])
    return (middle[1] - left[1]) * (right[0] - left[0]) <= rise
