"""Metrics of routers: small cases worked out by hand, and laws that hold for any outcomes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.model_router import metrics

EVERY_STEP = 10**6
seeds = st.integers(0, 2**32 - 1)


def _outcomes(seed: int, *, two_tiers: bool = False):
    """Return a score, quality and cost with many ties; the strong tier is better on average."""
    drawing = np.random.default_rng(seed)
    n = int(drawing.integers(2, 40))
    quality = drawing.integers(0, 5, (n, 3)) / 4
    quality[0] = (0, 0.5, 1)
    quality[1:, 2] = np.maximum(quality[1:, 2], quality[1:, 0])
    cost = drawing.integers(1, 9, (n, 3)) * (0.1, 0.4, 2.0)
    if two_tiers:
        quality[:, 1] = cost[:, 1] = np.nan
    return drawing.integers(0, 6, n) / 5, quality, cost


@given(seeds)
def test_auc_is_the_share_of_pairs_in_the_right_order(seed: int) -> None:
    """The ranks give what counting every pair gives, ties being worth one half."""
    score, quality, _ = _outcomes(seed)
    positive = quality[:, 0] < 0.5
    above, below = score[positive], score[~positive]
    if above.size and below.size:
        pairs = np.sign(above[:, None] - below[None, :])
        assert metrics.auc(score, positive) == pytest.approx((pairs.mean() + 1) / 2)
    else:
        assert np.isnan(metrics.auc(score, positive))


def test_performance_gap_of_a_small_case() -> None:
    """Gains of 1, 0 and 1, sent in the order 1, 0, 1: half of the gap after one call."""
    score, weak, strong = np.array([3.0, 2, 1]), np.zeros(3), np.array([1.0, 0, 1])
    curve = metrics.performance_gap_curve(score, weak, strong)
    assert curve.tolist() == [0, 0.5, 0.5, 1]
    assert metrics.apgr(score, weak, strong) == 0.5
    assert metrics.calls_for_gap(score, weak, strong, 0.5) == pytest.approx(1 / 3)
    assert metrics.calls_for_gap(score, weak, strong, 0.8) == 1


@given(seeds)
def test_a_score_that_knows_nothing_has_half_the_gap(seed: int) -> None:
    """Equal scores for all recover the gap in step with the calls, exactly."""
    score, quality, _ = _outcomes(seed)
    same = np.zeros_like(score)
    assert metrics.apgr(same, quality[:, 0], quality[:, 2]) == pytest.approx(0.5)


def test_random_scores_have_half_the_gap_on_average() -> None:
    """Over many random orders the mean is 0.5."""
    drawing = np.random.default_rng(1)
    _, quality, _ = _outcomes(3)
    values = [
        metrics.apgr(drawing.random(len(quality)), quality[:, 0], quality[:, 2])
        for _ in range(1_000)
    ]
    assert np.mean(values) == pytest.approx(0.5, abs=0.02)


@given(seeds)
def test_no_score_beats_the_gain_itself(seed: int) -> None:
    """Sorting by what the strong tier adds is the best order, at every share of calls."""
    score, quality, _ = _outcomes(seed)
    weak, strong = quality[:, 0], quality[:, 2]
    oracle = metrics.performance_gap_curve(strong - weak, weak, strong)
    assert (oracle >= metrics.performance_gap_curve(score, weak, strong) - 1e-9).all()
    for share in (0.5, 0.8):
        calls = metrics.calls_for_gap(score, weak, strong, share)
        assert metrics.calls_for_gap(strong - weak, weak, strong, share) <= calls


@given(seeds)
def test_only_the_order_of_scores_matters(seed: int) -> None:
    """Neither the order of rows nor a monotone transform of the score changes anything."""
    score, quality, cost = _outcomes(seed)
    shuffled = np.random.default_rng(seed).permutation(len(score))
    weak, strong = quality[:, 0], quality[:, 2]
    curve = metrics.performance_gap_curve(score, weak, strong)
    for changed, rows in ((score, shuffled), (np.exp(3 * score) - 7, slice(None))):
        other = metrics.performance_gap_curve(changed[rows], weak[rows], strong[rows])
        assert other == pytest.approx(curve)
        assert metrics.auc(changed[rows], (weak > 0)[rows]) == pytest.approx(
            metrics.auc(score, weak > 0), nan_ok=True
        )
    points = metrics.cost_quality_points(quality, quality, cost)
    assert metrics.cost_quality_points(
        quality[shuffled], quality[shuffled], cost[shuffled]
    ) == pytest.approx(points)
    assert metrics.calibration_error(score[shuffled], weak[shuffled]) == pytest.approx(
        metrics.calibration_error(score, weak)
    )


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    """A strong tier that is no better has no performance gap: NaN, never a division by zero."""
    same = np.array([0.5, 1.0])
    assert np.isnan(metrics.performance_gap_curve(same, same, same)).all()
    assert np.isnan(metrics.apgr(same, same, same))
    assert np.isnan(metrics.calls_for_gap(same, same, same, 0.5))


def test_sweep_of_a_small_case() -> None:
    """Two prompts: the first moves to strong at lambda 0.5, the second never does."""
    p_right = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    quality = np.array([[0.0, 0.0, 0.8], [0.6, 0.6, 0.6]])
    cost = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    points = metrics.cost_quality_points(p_right, quality, cost)
    assert points == pytest.approx(np.array([[1, 0.3], [2, 0.7]]))


@given(seeds, st.booleans())
def test_sweep_meets_every_trade_off(seed: int, two_tiers: bool) -> None:
    """Whatever lambda is, the tiers that it chooses are a point of the sweep."""
    _, quality, cost = _outcomes(seed, two_tiers=two_tiers)
    drawing = np.random.default_rng(seed)
    p_right = drawing.random(quality.shape)
    points = metrics.cost_quality_points(p_right, quality, cost, steps=EVERY_STEP)
    for trade_off in drawing.exponential(1, 5):
        utility = np.where(np.isnan(quality), -np.inf, p_right - trade_off * cost)
        chosen = utility.argmax(axis=1)[:, None]
        here = [np.take_along_axis(kind, chosen, axis=1).mean() for kind in (cost, quality)]
        assert np.abs(points - here).max(axis=1).min() < 1e-9


def test_router_that_does_not_know_the_bill() -> None:
    """With expected costs, the cheapest choice is the cheapest tier, not each cheapest answer."""
    _, quality, cost = _outcomes(5)
    cost[0] = (9, 1, 1)
    expected = cost.mean(axis=0)
    blind = metrics.cost_quality_points(quality, quality, cost, expected_cost=expected)
    seeing = metrics.cost_quality_points(quality, quality, cost)
    assert blind[0] == pytest.approx(metrics.zero_router_points(quality, cost)[0])
    assert seeing[0, 0] < blind[0, 0]


def test_long_sweeps_are_thinned() -> None:
    """So many points are kept, the first and the last among them."""
    drawing = np.random.default_rng(0)
    quality, cost = drawing.random((300, 3)), drawing.random((300, 3)) * (0.1, 0.4, 2)
    whole = metrics.cost_quality_points(quality, quality, cost, steps=EVERY_STEP)
    thin = metrics.cost_quality_points(quality, quality, cost, steps=20)
    assert len(thin) == 20 < len(whole)
    assert (thin[0] == whole[0]).all()
    assert (thin[-1] == whole[-1]).all()


@given(seeds)
def test_hull_is_above_every_point_and_rises_ever_slower(seed: int) -> None:
    """No point is above the hull, its quality never falls, and its slope never grows."""
    points = np.random.default_rng(seed).integers(0, 9, (20, 2)) / 8
    cost, quality = metrics.quality_hull(points).T
    assert (np.interp(points[:, 0], cost, quality) >= points[:, 1] - 1e-9).all()
    assert (np.diff(quality) > 0).all()
    assert (np.diff(np.diff(quality) / np.diff(cost)) < 1e-9).all()


def test_aiq_of_a_small_case() -> None:
    """From (1, 0.2) straight to (2, 0.8), then level to the strong tier's cost of 3."""
    tiers = np.array([[1.0, 0.2], [3.0, 0.6]])
    points = np.array([[2.0, 0.8], [2.5, 0.1]])
    assert metrics.hull_area(np.vstack((tiers, points)), 1, 3) == pytest.approx(1.3)
    assert metrics.aiq(points, tiers) == pytest.approx(0.65)
    assert metrics.aiq(tiers, tiers) == pytest.approx(0.4)
    assert metrics.gap_closed(0.5, 0.4, 0.6) == pytest.approx(0.5)
    assert np.isnan(metrics.gap_closed(0.5, 0.4, 0.4))
    assert np.isnan(metrics.aiq(points, tiers[::-1]))


@given(seeds, st.booleans())
def test_oracle_is_at_least_as_good_as_any_router_and_none(seed: int, two_tiers: bool) -> None:
    """Routing by the true outcome has the highest AIQ that there is."""
    _, quality, cost = _outcomes(seed, two_tiers=two_tiers)
    cost[0, 2] = 40  # on average, the strong tier is the dearest
    tiers = metrics.zero_router_points(quality, cost)
    assert len(tiers) == 3 - two_tiers
    p_right = np.random.default_rng(seed).random(quality.shape)
    oracle, router = (
        metrics.aiq(metrics.cost_quality_points(one, quality, cost, steps=EVERY_STEP), tiers)
        for one in (quality, p_right)
    )
    assert oracle >= router - 1e-9
    assert oracle >= metrics.aiq(tiers, tiers) - 1e-9


def test_cost_at_quality_reads_the_hull() -> None:
    """Between two corners by proportion; nothing where the quality is never reached."""
    points = np.array([[1.0, 0.5], [3.0, 0.9]])
    assert metrics.cost_at_quality(points, 0.7, (4.0, 1.0)) == pytest.approx(0.5)
    assert metrics.cost_at_quality(points, 0.1, (4.0, 1.0)) == pytest.approx(0.25)
    assert metrics.cost_at_quality(points, 0.95, (4.0, 1.0)) is None


def test_calibration_error_of_small_cases() -> None:
    """Nothing for what comes true, and the difference for what does not."""
    p = np.array([0.0, 0.0, 1.0, 1.0])
    assert metrics.calibration_error(p, p, bins=2) == 0
    assert metrics.calibration_error(p, np.full(4, 0.5), bins=2) == pytest.approx(0.5)
    assert metrics.calibration_error(np.full(4, 0.5), p, bins=4) == 0
    assert metrics.calibration_error(p, 1 - p, bins=10) == 1


def test_recalls_count_each_tier_by_itself() -> None:
    """Half of the prompts for strong got it, the other went to weak; none needed the middle."""
    chosen, needed = np.array([0, 0, 2, 0]), np.array([0, 0, 2, 2])
    assert metrics.recalls(chosen, needed) == pytest.approx([1, np.nan, 0.5], nan_ok=True)
    assert metrics.balanced_accuracy(chosen, needed) == 0.75
    assert metrics.severe_under_routing(chosen, needed) == 0.5
    assert np.isnan(metrics.severe_under_routing(chosen, np.zeros(4, dtype=int)))
    nothing = np.array([], dtype=int)
    assert np.isnan(metrics.balanced_accuracy(nothing, nothing))


def test_bootstrap_holds_the_mean() -> None:
    """The interval of a mean is near its normal one, repeats itself, and leaves NaN out."""
    values = np.random.default_rng(7).normal(size=400)
    low, high = metrics.bootstrap(lambda rows: values[rows].mean(), 400, rounds=2_000)
    assert (low, high) == pytest.approx((values.mean() - 0.098, values.mean() + 0.098), abs=0.015)
    assert (low, high) == metrics.bootstrap(lambda rows: values[rows].mean(), 400, rounds=2_000)
    calls = iter(range(200))
    assert metrics.bootstrap(lambda _: 1.0 if next(calls) % 2 else np.nan, 9) == (1, 1)
    assert np.isnan(metrics.bootstrap(lambda _: np.nan, 9)).all()
