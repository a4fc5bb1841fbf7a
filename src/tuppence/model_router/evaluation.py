"""How good a classifier is on recorded outcomes, beside what needs no classifier.

Each source is judged by itself: its models are its own. Beside the router stand prompt length, the
known task (the mean of other prompts of the task), the zero router (single models and mixing
between them; of the classes the most frequent) and the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from tuppence.errors import InvalidTrace
from tuppence.model_router.classifier import Classifier
from tuppence.model_router.decision import TokenPrice
from tuppence.model_router.metrics import (
    ROUNDING,
    TIERS,
    BoolArray,
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
from tuppence.model_router.trainer import FEWEST_OUTCOMES
from tuppence.model_router.training import Prepared, Progress, train

ROUTERS = ("router", "length", "known_task", "zero_router", "oracle")
OUTCOME_FIGURES = (
    "apgr",
    "cpt_50",
    "cpt_80",
    "aiq",
    "gap_closed",
    "cost_at_98",
    "cost_at_95",
    "calibration_error",
)
"""What routers are measured by where a weak and a strong outcome are known."""
CLASS_FIGURES = (
    "auc_simple",
    "balanced_accuracy",
    "severe_under_routing",
    "recall_simple",
    "recall_moderate",
    "recall_complex",
)
"""What routers are measured by where it is known which tier a prompt needs."""
FIGURES = (*OUTCOME_FIGURES, *CLASS_FIGURES)
PROBABILITIES = ("router", "known_task", "oracle")
"""Routers that say how likely the weak tier is right; the others have no calibration."""
STEPS = 100
OUTPUT_TOKENS = 400
DEFAULT_ROUNDS = 100

Figures = Mapping[str, Mapping[str, Interval]]
"""By figure, then by router; a figure that the data cannot tell is not there."""


class Said(NamedTuple):
    """What a classifier said of prompts, a row a prompt."""

    p_right: FloatArray
    needs: FloatArray


class SourceReport(NamedTuple):
    """What was measured on one source."""

    source: str
    prompts: int
    tiers: TierModels
    figures: Figures
    curves: Mapping[str, FloatArray]
    """By router: rows of (cost as a share of the strong tier's, quality)."""


class _Classes(NamedTuple):
    """Which tier prompts need, and what each router takes that to be."""

    needed: IntArray
    """-1 where it is not known."""
    chosen: Mapping[str, IntArray]
    simple: Mapping[str, FloatArray]
    """The higher, the likelier a prompt is taken to be SIMPLE."""


class _Source(NamedTuple):
    """The rows of one source."""

    quality: FloatArray
    cost: FloatArray
    expected_cost: FloatArray
    said: Mapping[str, FloatArray]
    """By router: what it takes p(right) of the tiers to be."""
    classes: _Classes


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
    """Return what classifiers say that were trained without the part that a prompt is in.

    Raises InvalidTrace where too few outcomes are left to train on.
    """
    said = Said(np.zeros((len(outcomes), 3)), np.zeros((len(outcomes), 3)))
    numbers, sizes = np.unique(parts, return_counts=True)
    if len(outcomes) - sizes.max() < FEWEST_OUTCOMES:
        raise InvalidTrace(
            f"leaves {len(outcomes) - sizes.max()} outcomes to train on, too few to learn from",
            field="data",
            value=", ".join(prepared.targets.sources),
            remedy=f"give more: at least {FEWEST_OUTCOMES} must be left without a part or source",
        )
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
    tiers: TierModels | None = None,
    rounds: int = DEFAULT_ROUNDS,
    tell: Progress = lambda _: None,
) -> list[SourceReport]:
    """Return a report per source; `prices` are those of a weak, a middle and a strong model.

    `tiers` are the models that `targets` speak of, where they are not the thirds of each source.
    """
    reports = []
    for number, name in enumerate(targets.sources):
        tell(f"measuring {name}")
        rows = np.flatnonzero(targets.source == number)
        own = [outcomes[int(row)] for row in rows]
        models = tiers or tier_models(own)
        source = _source(own, models, rows, targets, said, prices)
        measured = _bootstrapped(FIGURES, partial(_figures, source), len(rows), rounds)
        curves = _curves(source) if _has_gain(source).any() else {}
        reports.append(SourceReport(name, len(rows), models, measured, curves))
    return reports


def pooled(
    outcomes: Sequence[Outcome],
    targets: Targets,
    said: Said,
    *,
    rounds: int = DEFAULT_ROUNDS,
) -> dict[str, Figures]:
    """Return the figures of the classes over all sources with outcomes, and with labels."""
    figures = {}
    for name, kind in (("outcomes", ~targets.is_labelled), ("labels", targets.is_labelled)):
        rows = np.flatnonzero(kind & (targets.needed >= 0))
        if len(rows):
            own = [outcomes[int(row)] for row in rows]
            needs = said.needs[rows]
            classes = _classes(own, targets.needed[rows], needs, needs[:, 0])
            statistic = partial(_class_figures, classes)
            figures[name] = _bootstrapped(CLASS_FIGURES, statistic, len(rows), rounds)
    return figures


def _bootstrapped(
    names: Sequence[str], statistic: Callable[[IntArray], FloatArray], size: int, rounds: int
) -> Figures:
    """Return the figures that a statistic gives for rows, as an array (routers, figures)."""
    values = statistic(np.arange(size))
    low, high = intervals(statistic, size, rounds=rounds)
    # A calibration error is larger in most samples than in what they are drawn from.
    low, high = np.fmin(low, values), np.fmax(high, values)
    return {
        figure: {
            router: Interval(*(float(table[place, column]) for table in (values, low, high)))
            for place, router in enumerate(ROUTERS)
        }
        for column, figure in enumerate(names)
        if not np.isnan(values[:, column]).all()
    }


def _source(
    outcomes: Sequence[Outcome],
    tiers: TierModels,
    rows: IntArray,
    targets: Targets,
    said: Said,
    prices: Sequence[TokenPrice],
) -> _Source:
    quality = targets.quality[rows].astype(np.float64)
    quality[targets.is_labelled[rows]] = np.nan
    characters = _characters(outcomes)
    tokens = characters / CHARACTERS_PER_TOKEN
    expected = np.column_stack([tokens * one.input + OUTPUT_TOKENS * one.output for one in prices])
    share = characters / max(characters.max(), 1)
    length = np.column_stack((1 - share, np.zeros(len(rows)), np.ones(len(rows))))
    return _Source(
        quality,
        _billed(outcomes, tiers, expected),
        expected,
        {
            "router": said.p_right[rows],
            "length": length,
            "known_task": np.where(np.isfinite(quality), _task_means(outcomes, quality), np.nan),
            "zero_router": np.zeros((len(rows), 3)),
            "oracle": quality,
        },
        _classes(outcomes, targets.needed[rows], said.needs[rows], said.p_right[rows, 0]),
    )


def _characters(outcomes: Sequence[Outcome]) -> FloatArray:
    return np.array([len(outcome.prompt) for outcome in outcomes], dtype=np.float64)


def _classes(
    outcomes: Sequence[Outcome], needed: IntArray, needs: FloatArray, simple: FloatArray
) -> _Classes:
    """Return the classes that the routers choose.

    By length, as many of the shortest are SIMPLE as there are SIMPLE ones, and so on. By the task,
    a prompt is of the class that the task has most of, compared with all prompts.
    """
    known = needed >= 0
    shares = np.bincount(needed[known], minlength=TIERS) / max(known.sum(), 1)
    characters = _characters(outcomes)
    edges = np.quantile(characters, np.minimum(np.cumsum(shares)[:-1], 1))
    indicators = np.where(known[:, None], np.eye(TIERS)[needed], np.nan)
    of_task = _task_means(outcomes, indicators)
    excess = np.round(of_task / np.maximum(shares, ROUNDING), 9)
    return _Classes(
        needed,
        {
            "router": needs.argmax(axis=1),
            "length": np.searchsorted(edges, characters),
            # Where tasks do not differ, the most frequent class.
            "known_task": (excess + ROUNDING * shares).argmax(axis=1),
            "zero_router": np.full(len(needed), shares.argmax()),
            "oracle": needed,
        },
        {
            "router": simple,
            "length": -characters,
            "known_task": of_task[:, 0],
            "zero_router": np.zeros(len(needed)),
            "oracle": (needed == 0).astype(np.float64),
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


def _task_means(outcomes: Sequence[Outcome], values: FloatArray) -> FloatArray:
    """Return, per prompt, the mean of the same task's prompts in the half that it is not in.

    The mean of all others would be lower for exactly those prompts whose own value is high. Of a
    single task it is the mean of all: there is nothing to know.
    """
    names = [f"{outcome.source}\n{outcome.subset}" for outcome in outcomes]
    distinct, task = np.unique(names, return_inverse=True)
    if len(distinct) == 1:
        return np.nan_to_num(_group_means(values, task, task))
    half = np.random.default_rng(0).integers(0, 2, len(outcomes))
    in_task = _group_means(values, 2 * task + half, 2 * task + 1 - half)
    in_half = _group_means(values, half, 1 - half)
    return np.where(np.isnan(in_task), np.nan_to_num(in_half), in_task)


def _group_means(values: FloatArray, group: IntArray, other: IntArray) -> FloatArray:
    """Return the mean of the values of the group `other`, per row; NaN where it has none."""
    size = int(max(group.max(), other.max())) + 1
    sums, counts = (
        np.stack([np.bincount(group, column, size) for column in table.T], axis=1)
        for table in (np.nan_to_num(values), np.isfinite(values).astype(np.float64))
    )
    means: FloatArray = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return means[other]


def _figures(source: _Source, rows: IntArray) -> FloatArray:
    """Return (routers, figures) for some rows."""
    return np.hstack((_outcome_figures(source, rows), _class_figures(source.classes, rows)))


def _has_gain(source: _Source) -> BoolArray:
    return np.isfinite(source.quality[:, 2] - source.quality[:, 0])


def _outcome_figures(source: _Source, drawn: IntArray) -> FloatArray:
    rows = drawn[_has_gain(source)[drawn]]
    if not len(rows):
        return np.full((len(ROUTERS), len(OUTCOME_FIGURES)), np.nan)
    quality, cost = source.quality[rows], source.cost[rows]
    weak, strong = quality[:, 0], quality[:, 2]
    zero = zero_router_points(quality, cost)
    points = {name: _points(source, name, rows) for name in ROUTERS}
    areas = {name: aiq(points[name], zero) for name in ROUTERS}
    best = (float(cost[:, 2].mean()), float(strong.mean()))
    table = []
    for name in ROUTERS:
        said = source.said[name][rows]
        score = said[:, 2] - said[:, 0]
        table.append(
            [
                apgr(score, weak, strong),
                calls_for_gap(score, weak, strong, 0.5),
                calls_for_gap(score, weak, strong, 0.8),
                areas[name],
                gap_closed(areas[name], areas["zero_router"], areas["oracle"]),
                *(_or_nan(cost_at_quality(points[name], share, best)) for share in (0.98, 0.95)),
                calibration_error(said[:, 0], weak) if name in PROBABILITIES else np.nan,
            ]
        )
    return np.array(table)


def _class_figures(classes: _Classes, drawn: IntArray) -> FloatArray:
    rows = drawn[classes.needed[drawn] >= 0]
    if not len(rows):
        return np.full((len(ROUTERS), len(CLASS_FIGURES)), np.nan)
    needed = classes.needed[rows]
    table = []
    for name in ROUTERS:
        chosen = classes.chosen[name][rows]
        table.append(
            [
                auc(classes.simple[name][rows], needed == 0),
                balanced_accuracy(chosen, needed),
                severe_under_routing(chosen, needed),
                *recalls(chosen, needed),
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
    rows = np.flatnonzero(_has_gain(source))
    unit = np.array([source.cost[rows, 2].mean(), 1.0])
    return {name: _points(source, name, rows, 500) / unit for name in ROUTERS}


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
