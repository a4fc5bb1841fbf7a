"""Training of the classifier: the linear stage out of fold, then the networks on its scores.

Needs scipy (`pip install 'tuppence[train]'`). The same data and seed give the same weights on the
same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuppence.model_router.classifier import CLIP, FORMAT, Classifier
from tuppence.model_router.features import MEASURES, features_of
from tuppence.model_router.linear_stage import Floats, Linear, fit_linear, presence
from tuppence.model_router.network import (
    Examples,
    Layout,
    Network,
    fit_network,
    joined,
    softmax,
)
from tuppence.model_router.outcomes import Outcome, Targets, targets_of

FOLDS = 3
NETWORKS = 3
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


def prepare(outcomes: Sequence[Outcome]) -> Prepared:
    """Return the features and targets of outcomes."""
    targets = targets_of(outcomes)
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
    inputs = np.concatenate((prepared.measures[rows], scores), axis=1)
    center, scale = inputs.mean(axis=0), inputs.std(axis=0) + np.float32(1e-6)
    scaled = (inputs - center) / scale
    examples = _examples(np.clip(scaled, -CLIP, CLIP), targets, prepared.families)
    networks = []
    for number in range(NETWORKS):
        tell(f"network {number + 1} of {NETWORKS}")
        networks.append(fit_network(examples, seed + number))
    far = np.percentile(np.abs(scaled[:, : len(MEASURES)]).mean(axis=1), FAR_PERCENTILE)
    network = joined(networks)
    doubt = _usual_doubt(network, examples)
    return {**_arrays(linear, center, scale, float(far), network), "usual_doubt": doubt}


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


def _examples(inputs: Floats, targets: Targets, families: Sequence[int]) -> Examples:
    source_share = _source_shares(targets)
    gain = targets.quality[:, 2] - targets.quality[:, 0]
    family = np.full(len(gain), len(families))
    gain_share = np.zeros((len(gain), len(families)), dtype=np.float32)
    expert_share = np.zeros_like(gain_share)
    even = len(gain) / (len(families) + 1)
    for number, source in enumerate(families):
        family[targets.source == source] = number
        rows = (targets.source == source) & ~np.isnan(gain)
        if rows.any():
            spread = max(float(np.var(gain[rows])), 0.02) ** 0.5
            gain_share[rows, number] = (even / rows.sum()) ** 0.5 / spread
            expert_share[family == number, number] = (even / rows.sum()) ** 0.5
    return Examples(
        inputs.astype(np.float32),
        targets.quality,
        source_share,
        targets.needed,
        _balanced(targets, source_share),
        family,
        len(families),
        np.nan_to_num(gain).astype(np.float32),
        gain_share,
        expert_share,
    )


def _balanced(targets: Targets, shares: Floats) -> Floats:
    """Return weights under which every tier counts the same, labelled or measured."""
    balanced = np.zeros_like(shares)
    for tier in range(3):
        for labelled in (False, True):
            rows = (targets.needed == tier) & (targets.is_labelled == labelled)
            if rows.any():
                balanced[rows] = shares[rows] / shares[rows].sum()
    scaled: Floats = balanced * np.float32(0.7 * len(shares) / 6)
    return scaled


def _usual_doubt(network: Network, examples: Examples) -> Floats:
    """Return, by the family that a text is taken for, below what doubt most texts of it are."""
    gate = softmax(network.outputs(examples.inputs)[:, Layout.of(examples.families).gate])
    doubt = -(gate * np.log(gate + np.float32(1e-9))).sum(axis=1)
    family = gate.argmax(axis=1)
    return np.array(
        [
            np.percentile(doubt[family == one], USUAL_PERCENTILE) if (family == one).any() else 0
            for one in range(examples.families + 1)
        ],
        dtype=np.float32,
    )


def _arrays(
    linear: Linear, center: Floats, scale: Floats, far: float, network: Network
) -> dict[str, npt.NDArray[Any]]:
    rarity = linear.rarity[:, None]
    table = np.concatenate((linear.weights * rarity, rarity**2), axis=1)
    table_scale = np.maximum(np.abs(table).max(axis=0), 1e-9) / MOST_QUANTISED
    return {
        "format": np.array(FORMAT),
        "table": np.rint(table / table_scale).astype(np.int8),
        "table_scale": table_scale.astype(np.float32),
        "means": linear.means,
        "center": center.astype(np.float32),
        "scale": scale.astype(np.float32),
        "far": np.array(far, dtype=np.float32),
        **{name: getattr(network, name) for name in Network.__dataclass_fields__},
    }
