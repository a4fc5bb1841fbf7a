"""The classifier that ships with the package: which tier of models gets a prompt right.

It needs numpy and one file of weights; no network and no model runtime. How it was trained and
what it is worth: docs/reference/router-model-card.md.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt

from tuppence.errors import InvalidInput
from tuppence.model_router.features import MEASURES, features_of
from tuppence.model_router.network import Network, softmax

WEIGHTS_PATH = Path(__file__).parent / "weights.npz"
FORMAT = 1
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
        self._table = arrays["table"].astype(np.float32) * arrays["table_scale"]
        self._means = arrays["means"]
        self._center, self._scale = arrays["center"], arrays["scale"]
        self._far = float(arrays["far"])
        self._network = Network(*(arrays[name] for name in Network.__dataclass_fields__))
        self._families = (self._network.bias.shape[0] - 7) // 2

    def predict(self, text: str) -> Prediction:
        """Return what is expected of the tiers on a text of any length and content."""
        features = features_of(text)
        inputs = np.concatenate((features.measures, self._linear_scores(features.buckets)))
        scaled = (inputs - self._center) / self._scale
        distance = float(np.abs(scaled[: len(MEASURES)]).mean()) / self._far
        return self._prediction(
            self._network.outputs(np.clip(scaled, -CLIP, CLIP, dtype=np.float32)), distance
        )

    def _linear_scores(self, buckets: npt.NDArray[np.uint32]) -> Floats:
        if not len(buckets):
            return self._means
        ordered = np.sort(buckets)
        is_first = np.ones(len(ordered), dtype=np.bool_)
        np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
        rows = self._table.take(ordered[is_first], axis=0)
        sums = np.ones(len(rows), dtype=np.float32) @ rows
        scores: Floats = sums[:-1] / np.sqrt(max(float(sums[-1]), 1e-12)) + self._means
        return scores

    def _prediction(self, raw: Floats, distance: float) -> Prediction:
        weak, middle, strong = (1 / (1 + np.exp(-raw[:3]))).tolist()
        needs = softmax(raw[3:6]).tolist()
        shares = softmax(raw[6 : 7 + self._families])
        gain = float(shares[:-1] @ raw[7 + self._families :])
        # Where a family is recognised, its own gain is surer than the difference of two levels.
        strong = min(max((1 - float(shares[-1])) * weak + gain + float(shares[-1]) * strong, 0), 1)
        middle = min(max(middle, min(weak, strong)), max(weak, strong))
        return Prediction(weak, middle, strong, (needs[0], needs[1], needs[2]), distance)


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
