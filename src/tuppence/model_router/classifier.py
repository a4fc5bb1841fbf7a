"""The classifier that ships with the package: which tier of models gets a prompt right.

It needs numpy and one file of weights; no network and no model runtime. How it was trained and
what it is worth: docs/reference/router-model-card.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt

from tuppence.errors import InvalidInput
from tuppence.model_router.features import MEASURES, features_of
from tuppence.model_router.network import Layout, Network

WEIGHTS_PATH = Path(__file__).parent / "weights.npz"
FORMAT = 1
USUAL_LENGTH, SPREAD_OF_LENGTHS = 6.0, 1.2
"""Of the logarithm of a prompt's characters."""
LENGTH_SHARE, DOUBTED_LENGTH_SHARE = 0.03, 0.5
"""What a prompt's length adds to the gain: always, and by how far the doubt about its family is
above what is usual. On sources that were left out of training length is the surest measure."""
SURE_OF_FAMILY = 0.9
CLIP = 5.0
"""Inputs are cut off at so many standard deviations."""

Floats = npt.NDArray[np.float32]


class Prediction(NamedTuple):
    """What is expected of the three tiers on one prompt."""

    weak: float
    """p(right) of the weak tier, 0..1."""
    middle: float
    strong: float
    needs: tuple[float, float, float]
    """p(the weak, the middle, the strong tier is the first that is able)."""
    distance: float
    """How far the prompt's form is from what was seen; above 1 it is unlike all of it."""

    @property
    def p_right(self) -> tuple[float, float, float]:
        """p(right) of the weak, the middle and the strong tier."""
        return self.weak, self.middle, self.strong

    @property
    def is_familiar(self) -> bool:
        """Whether the prompt looks like what the classifier was trained on."""
        return self.distance <= 1


class Classifier:
    """Predicts which tier gets a prompt right; made from the arrays that training writes."""

    def __init__(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        # The last column is the squared rarity: its sum is the squared length of a text's vector.
        self._table = _padded(arrays["table"].astype(np.float32) * arrays["table_scale"])
        self._means = arrays["means"]
        self._center, self._slope = arrays["center"], 1 / arrays["scale"]
        self._far = float(arrays["far"]) * len(MEASURES)
        network = Network(*(arrays[name] for name in Network.__dataclass_fields__))
        self._inward = np.concatenate((network.hidden, network.direct), axis=1)
        self._inward_bias = np.concatenate((network.hidden_bias, network.bias))
        self._outward = network.outward
        self._usual_doubt: list[float] = arrays["usual_doubt"].tolist()
        self._layout = Layout.of((network.bias.shape[0] - 7) // 8)

    def predict(self, text: str) -> Prediction:
        """Return what is expected of the tiers on a text of any length and content."""
        features = features_of(text)
        inputs = np.concatenate((features.measures, self._linear_scores(features.buckets)))
        inputs -= self._center
        inputs *= self._slope
        distance = float(np.add.reduce(np.abs(inputs[: len(MEASURES)]))) / self._far
        np.minimum(inputs, CLIP, out=inputs)
        np.maximum(inputs, -CLIP, out=inputs)
        inward = inputs @ self._inward + self._inward_bias
        split = len(self._outward)
        raw = np.maximum(inward[:split], 0) @ self._outward + inward[split:]
        length = (math.log1p(len(text)) - USUAL_LENGTH) / SPREAD_OF_LENGTHS
        return self._prediction(raw.tolist(), distance, min(max(length, -1.5), 1.5))

    def _linear_scores(self, buckets: npt.NDArray[np.uint32]) -> Floats:
        if not len(buckets):
            return self._means
        ordered = np.sort(buckets)
        is_first = np.empty(len(ordered), dtype=np.bool_)
        is_first[0] = True
        np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
        rows = self._table.take(ordered[is_first], axis=0)
        sums = np.ones(len(rows), dtype=np.float32) @ rows
        answers = len(self._means)
        length = math.sqrt(max(float(sums[answers]), 1e-12))
        scores: Floats = sums[:answers] / np.float32(length) + self._means
        return scores

    def _prediction(self, raw: list[float], distance: float, length: float) -> Prediction:
        """Return what the raw outputs mean; plain floats are quicker here than short arrays."""
        layout = self._layout
        gate = _softmax(raw[layout.gate])
        weak, middle, strong = _mixed(
            gate,
            _by_three(map(_logistic, raw[layout.expert_right])),
            map(_logistic, raw[layout.right]),
        )
        gains = raw[layout.gains]
        gain = sum(share * own for share, own in zip(gate, gains, strict=False))
        # Where a text is of a known family, its own gain is surer than the difference of levels.
        # Where the gate doubts more than it is used to, the text is strange, and length counts.
        doubt = doubt_of(gate) - self._usual_doubt[gate.index(max(gate))]
        gain += (LENGTH_SHARE + DOUBTED_LENGTH_SHARE * max(doubt, 0.0)) * length
        strong = min(max((1 - gate[-1]) * weak + gain + gate[-1] * strong, 0.0), 1.0)
        middle = min(max(middle, min(weak, strong)), max(weak, strong))
        return Prediction(weak, middle, strong, self._needs(raw, gate), distance)

    def _needs(self, raw: list[float], gate: list[float]) -> tuple[float, float, float]:
        """Return the experts' answer as far as the gate is sure of a family, else the general."""
        layout = self._layout
        general = _softmax(raw[layout.needs])
        sure = (max(gate[:-1], default=0.0) - SURE_OF_FAMILY) / (1 - SURE_OF_FAMILY)
        if sure > 0:
            experts = [_softmax(one) for one in _by_three(iter(raw[layout.expert_needs]))]
            own = _mixed(gate, experts, general)
            general = [sure * one + (1 - sure) * two for one, two in zip(own, general, strict=True)]
        return general[0], general[1], general[2]


def doubt_of(gate: Sequence[float]) -> float:
    """Return the entropy of the gate's shares, in nats: 0 where it is sure of a family."""
    return -sum(share * math.log(share + 1e-9) for share in gate)


def _mixed(
    gate: list[float], experts: Iterable[Sequence[float]], general: Iterable[float]
) -> list[float]:
    """Return the mean of the experts' answers and the general one, by the gate's shares."""
    mixed = [gate[-1] * one for one in general]
    for share, own in zip(gate, experts, strict=False):
        for place in range(3):
            mixed[place] += share * own[place]
    return mixed


def _by_three(values: Iterator[float]) -> Iterator[tuple[float, float, float]]:
    return zip(values, values, values, strict=True)


def _logistic(raw: float) -> float:
    return 1 / (1 + math.exp(-raw))


def _softmax(raw: Sequence[float]) -> list[float]:
    most = max(raw)
    grown = [math.exp(one - most) for one in raw]
    total = sum(grown)
    return [one / total for one in grown]


def _padded(table: Floats) -> Floats:
    """Return the table with rows of whole cache lines: reading one then takes one access."""
    padded = np.zeros((len(table), -(-table.shape[1] // 16) * 16), dtype=np.float32)
    padded[:, : table.shape[1]] = table
    return padded


@cache
def load_classifier(path: Path = WEIGHTS_PATH) -> Classifier:
    """Return the classifier of a file of weights; raise InvalidInput for what is none."""
    try:
        if path.exists() and not is_zipfile(path):
            raise _invalid(path, "holds no weights (no archive)")
        with np.load(path) as stored:
            arrays = dict(stored)
        if int(arrays["format"]) != FORMAT:
            raise _invalid(path, f"has the format {int(arrays['format'])}, not {FORMAT}")
        return Classifier(arrays)
    except (OSError, ValueError, KeyError, EOFError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise _invalid(path, f"holds no weights ({error})") from error


def _invalid(path: Path, problem: str) -> InvalidInput:
    return InvalidInput(
        problem,
        field="classifier",
        value=str(path),
        remedy="name a file that `tuppence router train` has written",
    )
