"""How good a classifier is on recorded outcomes, beside what needs no classifier.

Each source is judged by itself: its models are its own. Beside the router stand prompt length, the
known task (the mean of the task's other prompts), the zero router (single models and mixing between
them) and the oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tuppence.model_router.classifier import Classifier
from tuppence.model_router.decision import TokenPrice
from tuppence.model_router.metrics import (
    FloatArray,
    IntArray,
    Interval,
    aiq,
    apgr,
    auc,
    balanced_accuracy,
    calibration_error,
    calls_for_gap,
    cost_at_quality,
    cost_quality_points,
    gap_closed,
    intervals,
    recalls,
    severe_under_routing,
    zero_router_points,
)
from tuppence.model_router.outcomes import Outcome, Targets, TierModels, tier_models
from tuppence.model_router.request import CHARACTERS_PER_TOKEN
from tuppence.model_router.training import Prepared, Progress, train

ROUTERS = ("router", "length", "known_task", "zero_router", "oracle")
FIGURES = (
    "auc_simple",
    "apgr",
    "cpt_50",
    "cpt_80",
    "aiq",
    "gap_closed",
    "cost_at_98",
    "cost_at_95",
)
"""What every router is measured by; the first two and `aiq`, `gap_closed`: more is better."""
OWN_FIGURES = ("calibration_error", "balanced_accuracy", "severe_under_routing")
STEPS = 100
OUTPUT_TOKENS = 400


class Said(NamedTuple):
    """What a classifier said of prompts, a row a prompt."""

    p_right: FloatArray
    needs: FloatArray


class SourceReport(NamedTuple):
    """What was measured on one source."""

    source: str
    prompts: int
    tiers: TierModels
    figures: Mapping[str, Mapping[str, Interval]]
    """By figure, then by router."""
    own: Mapping[str, float]
    """Figures of the router alone."""
    recalls: tuple[float, float, float]
    curves: Mapping[str, FloatArray]
    """By router: rows of (cost as a share of the strong tier's, quality)."""


class _Source(NamedTuple):
    """The rows of one source."""

    quality: FloatArray
    cost: FloatArray
    expected_cost: FloatArray
    needed: IntArray
    said: Mapping[str, FloatArray]
    """By router: what it takes p(right) of the tiers to be."""


def predictions(classifier: Classifier, outcomes: Sequence[Outcome], tell: Progress) -> Said:
    """Return what a classifier says of prompts."""
    tell("predicting")
    said = [classifier.predict(outcome.prompt) for outcome in outcomes]
    return Said(
        np.array([one.p_right for one in said], dtype=np.float64).reshape(-1, 3),
        np.array([one.needs for one in said], dtype=np.float64).reshape(-1, 3),
    )


def parts_of(targets: Targets, folds: int | None, seed: int) -> IntArray:
    """Return the part of each prompt: one of `folds` at random, or its source without `folds`."""
    if folds is None:
        return targets.source
    return np.random.default_rng(seed).integers(0, folds, len(targets.source))


def held_out_predictions(
    outcomes: Sequence[Outcome], prepared: Prepared, parts: IntArray, tell: Progress
) -> Said:
    """Return what classifiers say that were trained without the part that a prompt is in."""
    said = Said(np.zeros((len(outcomes), 3)), np.zeros((len(outcomes), 3)))
    numbers = np.unique(parts)
    for place, number in enumerate(numbers, 1):
        tell(f"training without part {place} of {len(numbers)}")
        inside = np.flatnonzero(parts == number)
        classifier = Classifier(train(prepared, np.flatnonzero(parts != number)))
        part = predictions(classifier, [outcomes[int(row)] for row in inside], lambda _: None)
        said.p_right[inside], said.needs[inside] = part
    return said


def evaluate(
    outcomes: Sequence[Outcome],
    targets: Targets,
    said: Said,
    prices: Sequence[TokenPrice],
    *,
    rounds: int = 100,
    tell: Progress = lambda _: None,
) -> list[SourceReport]:
    """Return a report per source; `prices` are those of a weak, a middle and a strong model."""
    reports = []
    for number, name in enumerate(targets.sources):
        tell(f"measuring {name}")
        rows = np.flatnonzero(targets.source == number)
        own = [outcomes[int(row)] for row in rows]
        tiers = tier_models(own)
        source = _source(own, tiers, rows, targets, said, prices)
        reports.append(_report(name, tiers, source, said.needs[rows], rounds))
    return reports


def pooled(targets: Targets, said: Said) -> dict[str, float]:
    """Return the figures of the classes over all sources with outcomes, and with labels."""
    figures = {}
    for name, kind in (("outcomes", ~targets.is_labelled), ("labels", targets.is_labelled)):
        rows = kind & (targets.needed >= 0)
        if rows.any():
            chosen, needed = said.needs[rows].argmax(axis=1), targets.needed[rows]
            figures[f"{name}_balanced_accuracy"] = balanced_accuracy(chosen, needed)
            figures[f"{name}_auc_simple"] = auc(said.needs[rows, 0], needed == 0)
            figures[f"{name}_severe_under_routing"] = severe_under_routing(chosen, needed)
            for tier, recall in zip(
                ("simple", "moderate", "complex"), recalls(chosen, needed), strict=True
            ):
                figures[f"{name}_recall_{tier}"] = float(recall)
    return figures


def _source(
    outcomes: Sequence[Outcome],
    tiers: TierModels,
    rows: IntArray,
    targets: Targets,
    said: Said,
    prices: Sequence[TokenPrice],
) -> _Source:
    quality = targets.quality[rows].astype(np.float64)
    if targets.is_labelled[rows].any():
        quality = np.full_like(quality, np.nan)
    characters = np.array([len(outcome.prompt) for outcome in outcomes], dtype=np.float64)
    tokens = characters / CHARACTERS_PER_TOKEN
    expected = np.column_stack([tokens * one.input + OUTPUT_TOKENS * one.output for one in prices])
    share = characters / max(characters.max(), 1)
    length = np.column_stack((1 - share, np.zeros(len(rows)), np.ones(len(rows))))
    return _Source(
        quality,
        _billed(outcomes, tiers, expected),
        expected,
        targets.needed[rows],
        {
            "router": said.p_right[rows],
            "length": length,
            "known_task": _known_task(outcomes, quality),
            "zero_router": np.zeros((len(rows), 3)),
            "oracle": quality,
        },
    )


def _billed(outcomes: Sequence[Outcome], tiers: TierModels, expected: FloatArray) -> FloatArray:
    """Return what each tier cost on each prompt: as recorded where all is, else as expected."""
    models = [model for tier in tiers for model in tier]
    if not models or not all(model in one.cost for one in outcomes for model in models):
        return expected
    return np.array(
        [
            [np.mean([one.cost[model] for model in tier]) if tier else np.nan for tier in tiers]
            for one in outcomes
        ],
        dtype=np.float64,
    )


def _known_task(outcomes: Sequence[Outcome], quality: FloatArray) -> FloatArray:
    """Return the mean quality of the other prompts of the same task."""
    names = [outcome.subset for outcome in outcomes]
    _, task = np.unique(names, return_inverse=True)
    sums, counts = (
        np.stack([np.bincount(task, column) for column in table.T], axis=1)
        for table in (np.nan_to_num(quality), np.isfinite(quality).astype(np.float64))
    )
    others = counts[task] - np.isfinite(quality)
    mean: FloatArray = (sums[task] - np.nan_to_num(quality)) / np.maximum(others, 1)
    return np.where(np.isfinite(quality), mean, np.nan)


def _report(
    name: str, tiers: TierModels, source: _Source, needs: FloatArray, rounds: int
) -> SourceReport:
    size = len(source.needed)
    known = np.flatnonzero(source.needed >= 0)
    chosen = needs.argmax(axis=1)[known]
    weak = np.isfinite(source.quality[:, 0])
    calibration = np.nan
    if weak.any():
        calibration = calibration_error(source.said["router"][weak, 0], source.quality[weak, 0])
    figures: dict[str, dict[str, Interval]] = {}
    if np.isfinite(source.quality[:, 2] - source.quality[:, 0]).any():
        rows = np.flatnonzero(np.isfinite(source.quality[:, 2] - source.quality[:, 0]))
        values = _figures(source, rows)
        low, high = intervals(lambda drawn: _figures(source, rows[drawn]), len(rows), rounds=rounds)
        for row, figure in enumerate(FIGURES):
            figures[figure] = {
                router: Interval(*(float(table[column, row]) for table in (values, low, high)))
                for column, router in enumerate(ROUTERS)
            }
    simple, moderate, complex_ = recalls(chosen, source.needed[known]).tolist()
    return SourceReport(
        name,
        size,
        tiers,
        figures,
        {
            "calibration_error": calibration,
            "balanced_accuracy": balanced_accuracy(chosen, source.needed[known]),
            "severe_under_routing": severe_under_routing(chosen, source.needed[known]),
        },
        (simple, moderate, complex_),
        _curves(source) if figures else {},
    )


def _figures(source: _Source, rows: IntArray) -> FloatArray:
    """Return (routers, figures) for some rows."""
    quality, cost = source.quality[rows], source.cost[rows]
    weak, strong = quality[:, 0], quality[:, 2]
    zero = zero_router_points(quality, cost)
    points = {name: _points(source, name, rows) for name in ROUTERS}
    areas = {name: aiq(points[name], zero) for name in ROUTERS}
    best = (float(cost[:, 2].mean()), float(strong.mean()))
    needed = source.needed[rows]
    is_known = bool((needed >= 0).all())
    table = []
    for name in ROUTERS:
        said = source.said[name][rows]
        score = said[:, 2] - said[:, 0]
        table.append(
            [
                auc(said[:, 0], needed == 0) if is_known else np.nan,
                apgr(score, weak, strong),
                calls_for_gap(score, weak, strong, 0.5),
                calls_for_gap(score, weak, strong, 0.8),
                areas[name],
                gap_closed(areas[name], areas["zero_router"], areas["oracle"]),
                *(_or_nan(cost_at_quality(points[name], share, best)) for share in (0.98, 0.95)),
            ]
        )
    return np.array(table)


def _points(source: _Source, name: str, rows: IntArray, steps: int = STEPS) -> FloatArray:
    quality, cost = source.quality[rows], source.cost[rows]
    if name == "zero_router":
        return zero_router_points(quality, cost)
    said = np.where(np.isfinite(quality), source.said[name][rows], np.nan)
    expected = None if name == "oracle" else source.expected_cost[rows]
    return cost_quality_points(said, quality, cost, expected_cost=expected, steps=steps)


def _curves(source: _Source) -> dict[str, FloatArray]:
    rows = np.flatnonzero(np.isfinite(source.quality[:, 2] - source.quality[:, 0]))
    unit = np.array([source.cost[rows, 2].mean(), 1.0])
    return {name: _points(source, name, rows, 500) / unit for name in ROUTERS}


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
