"""Training of the classifier: the linear stage out of fold, then trees on its scores.

Needs scipy (`pip install 'tuppence[train]'`). The same data and seed give the same weights on the
same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuppence.model_router.classifier import FORMAT, Classifier, Layout, doubt_of, gate_of
from tuppence.model_router.features import features_of
from tuppence.model_router.linear_stage import Floats, Linear, fit_linear, presence
from tuppence.model_router.outcomes import Outcome, Targets, targets_of
from tuppence.model_router.trees import Forest, Question, fit_forest

FOLDS = 3
RIGHT, NEEDS, GAIN, KIND = (200, 0.1), (250, 0.06), (150, 0.05), (60, 0.25)
"""Rounds and step of the trees for each kind of question."""
FAMILY_SIZE = 500
"""From so many prompts with a weak and a strong outcome on, a source is a family of its own."""
PENALTY, CLASS_PENALTY, KIND_PENALTY = 6.0, 1.0, 3.0
SMALLEST_SOURCE = 200
USUAL_PERCENTILE = 90.0
FAR_PERCENTILE = 99.9
"""Prompts whose form is further off than that of so many percent are unlike anything seen."""
MOST_QUANTISED = 127

Progress = Callable[[str], None]


class Prepared(NamedTuple):
    """Outcomes as a training takes them."""

    targets: Targets
    families: tuple[int, ...]
    """Sources that are families of their own."""
    texts: Any
    measures: Floats


def prepare(outcomes: Sequence[Outcome], targets: Targets | None = None) -> Prepared:
    """Return the features and targets of outcomes; by default the targets of their tiers."""
    targets = targets_of(outcomes) if targets is None else targets
    seen = [features_of(outcome.prompt) for outcome in outcomes]
    gain_known = ~np.isnan(targets.quality[:, 2] - targets.quality[:, 0])
    sizes = np.bincount(targets.source[gain_known], minlength=len(targets.sources))
    return Prepared(
        targets,
        tuple(np.flatnonzero(sizes >= FAMILY_SIZE).tolist()),
        presence([one.buckets for one in seen]),
        np.stack([one.measures for one in seen]),
    )


def train(
    prepared: Prepared,
    rows: npt.NDArray[np.int64],
    *,
    seed: int = 0,
    tell: Progress = lambda _: None,
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a classifier trained on some rows of prepared outcomes."""
    texts, targets = prepared.texts[rows], _rows_of(prepared.targets, rows)
    answers, shares, penalties = _questions(targets, prepared.families)
    fold = np.random.default_rng(seed).integers(0, FOLDS, len(rows))
    scores = np.empty_like(answers)
    for number in range(FOLDS):
        tell(f"linear stage, fold {number + 1} of {FOLDS}")
        learned = fit_linear(
            texts[fold != number], answers[fold != number], shares[fold != number], penalties
        )
        scores[fold == number] = learned.scores(texts[fold == number])
    tell("linear stage, all rows")
    linear = fit_linear(texts, answers, shares, penalties)
    tell("trees")
    inputs = np.concatenate((prepared.measures[rows], scores), axis=1)
    forest = fit_forest(inputs, _forest_questions(targets, prepared.families), seed)
    measures = prepared.measures[rows]
    center, scale = measures.mean(axis=0), measures.std(axis=0) + np.float32(1e-6)
    far = np.percentile(np.abs((measures - center) / scale).mean(axis=1), FAR_PERCENTILE)
    return {
        **_linear_arrays(linear),
        **forest._asdict(),
        "format": np.array(FORMAT),
        "center": center,
        "scale": scale,
        "far": np.array(far, dtype=np.float32),
        "usual_doubt": _usual_doubt(forest, inputs, len(prepared.families)),
    }


def classifier_of(outcomes: Sequence[Outcome], *, seed: int = 0) -> Classifier:
    """Return a classifier trained on all outcomes."""
    return Classifier(train(prepare(outcomes), np.arange(len(outcomes)), seed=seed))


def save(arrays: dict[str, npt.NDArray[Any]], path: Path) -> None:
    """Write weights; the bytes depend on nothing but the arrays."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _rows_of(targets: Targets, rows: npt.NDArray[np.int64]) -> Targets:
    return Targets(
        targets.quality[rows],
        targets.needed[rows],
        targets.source[rows],
        targets.sources,
        targets.is_labelled[rows],
    )


def _source_shares(targets: Targets) -> Floats:
    """Return weights under which a source counts with the root of its size."""
    sizes = np.bincount(targets.source, minlength=len(targets.sources))
    shares = (1 / np.sqrt(np.maximum(sizes, SMALLEST_SOURCE)))[targets.source]
    normal: Floats = (shares / shares.mean()).astype(np.float32)
    return normal


def _questions(targets: Targets, families: Sequence[int]) -> tuple[Floats, Floats, Floats]:
    """Return answers, shares and penalties of the linear stage: (n, questions) twice, (questions,).

    Questions: quality of each tier and the gain over all sources; the gain in each family; each
    label of a person's; whether a person labelled it.
    """
    gain = targets.quality[:, 2] - targets.quality[:, 0]
    has_outcome = ~targets.is_labelled
    everywhere = np.column_stack((targets.quality, gain))
    everywhere[~has_outcome] = np.nan
    in_families = [np.where(targets.source == one, gain, np.nan) for one in families]
    labels = [
        np.where(targets.is_labelled, (targets.needed == tier).astype(np.float32), np.nan)
        for tier in range(3)
    ]
    answers = np.column_stack((everywhere, *in_families, *labels, targets.is_labelled))
    shares = (~np.isnan(answers)).astype(np.float32)
    shares[:, :4] *= _source_shares(targets)[:, None]
    penalties = [PENALTY / 3] * (4 + len(families)) + [CLASS_PENALTY / 3] * 3 + [KIND_PENALTY / 3]
    return (
        np.nan_to_num(answers).astype(np.float32),
        shares,
        np.array(penalties, dtype=np.float32),
    )


def _forest_questions(targets: Targets, families: Sequence[int]) -> list[Question]:
    """Return what the trees are to tell, in the order of `Layout`."""
    quality, count = targets.quality, len(targets.source)
    every = np.ones(count, dtype=np.float32)
    questions = [
        Question(
            np.nan_to_num(quality[:, tier]),
            (~np.isnan(quality[:, tier])).astype(np.float32),
            *RIGHT,
            is_share=True,
        )
        for tier in range(3)
    ]
    for is_labelled in (False, True):
        shares = _balanced(targets, is_labelled=is_labelled)
        questions += [_is(targets.needed == tier, shares, NEEDS) for tier in range(3)]
    questions.append(_is(targets.is_labelled, _flag_shares(targets.is_labelled), KIND))
    of_family = [targets.source == one for one in families]
    of_none = ~np.any([np.zeros(count, dtype=np.bool_), *of_family], axis=0)
    questions += [_is(one, every, KIND) for one in (*of_family, of_none)]
    gain = quality[:, 2] - quality[:, 0]
    is_known = ~np.isnan(gain)
    for one in of_family:
        shares = (one & is_known).astype(np.float32)
        questions.append(Question(np.nan_to_num(gain), shares, *GAIN, is_share=False))
    return questions


def _is(answers: npt.NDArray[np.bool_], shares: Floats, boosting: tuple[int, float]) -> Question:
    return Question(answers.astype(np.float32), shares, *boosting, is_share=True)


def _balanced(targets: Targets, *, is_labelled: bool) -> Floats:
    """Return weights under which every tier counts the same, of labelled or of measured rows."""
    known = (targets.needed >= 0) & (targets.is_labelled == is_labelled)
    balanced = np.zeros(len(known), dtype=np.float32)
    for tier in range(3):
        rows = known & (targets.needed == tier)
        balanced[rows] = 1 / max(int(rows.sum()), 1)
    return balanced


def _flag_shares(flags: npt.NDArray[np.bool_]) -> Floats:
    """Return weights for telling what is flagged: half way between every row and every kind."""
    flagged = max(int(flags.sum()), 1)
    ratio = max(len(flags) - flagged, 1) / flagged
    shares: Floats = np.where(flags, ratio**0.5, 1).astype(np.float32)
    return shares


def _usual_doubt(forest: Forest, inputs: Floats, families: int) -> Floats:
    """Return, by the family that a text is taken for, below what doubt most texts of it are."""
    layout = Layout.of(families)
    gates = [gate_of(forest.outputs(one)[layout.gate].tolist()) for one in inputs]
    doubt = np.array([doubt_of(gate) for gate in gates])
    family = np.array(gates).argmax(axis=1)
    return np.array(
        [
            np.percentile(doubt[family == one], USUAL_PERCENTILE) if (family == one).any() else 0
            for one in range(families + 1)
        ],
        dtype=np.float32,
    )


def _linear_arrays(linear: Linear) -> dict[str, npt.NDArray[Any]]:
    rarity = linear.rarity[:, None]
    table = np.concatenate((linear.weights * rarity, rarity**2), axis=1)
    table_scale = np.maximum(np.abs(table).max(axis=0), 1e-9) / MOST_QUANTISED
    return {
        "table": np.rint(table / table_scale).astype(np.int8),
        "table_scale": table_scale.astype(np.float32),
        "means": linear.means,
    }
