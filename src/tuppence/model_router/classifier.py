"""The classifier that ships with the package: which tier of models gets a prompt right.

It needs numpy and one file of weights; no network and no model runtime. How it was trained and
what it is worth: docs/reference/router-model-card.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt

from tuppence.errors import InvalidInput
from tuppence.model_router.features import MEASURES, features_of
from tuppence.model_router.trees import Forest

WEIGHTS_PATH = Path(__file__).parent / "weights.npz"
FORMAT = 2
MOST_KNOWN = 4_096
"""So many predictions are kept for texts that come again; of the texts, their hashes only."""
USUAL_LENGTH, SPREAD_OF_LENGTHS = 6.0, 1.2
"""Of the logarithm of a prompt's characters."""
LENGTH_SHARE, DOUBTED_LENGTH_SHARE = 0.04, 1.0
"""What a prompt's length adds to the gain: always, and by how far the doubt about its family is
above what is usual. On sources that were left out of training length is the surest measure."""

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


class Layout(NamedTuple):
    """Where the outputs of the trees stand."""

    right: slice
    """p(right) of the three tiers, in log-odds as all that follow but the gains."""
    needs: slice
    """Which tier is the first able one, by outcomes."""
    labels: slice
    """The same, as people label it."""
    is_labelled: int
    """Whether a text is like those that people labelled."""
    gate: slice
    """Which family the text is of; the last stands for none."""
    gains: slice
    """By family: by how much the strong tier is better than the weak one."""

    @classmethod
    def of(cls, families: int) -> Layout:
        """Return the layout for a number of families."""
        gate = 10 + families + 1
        return cls(
            slice(0, 3), slice(3, 6), slice(6, 9), 9, slice(10, gate), slice(gate, gate + families)
        )


class Classifier:
    """Predicts which tier gets a prompt right; made from the arrays that training writes."""

    def __init__(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        # The last column is the squared rarity: its sum is the squared length of a text's vector.
        self._table = _padded(arrays["table"].astype(np.float32) * arrays["table_scale"])
        self._means = arrays["means"]
        self._center, self._slope = arrays["center"], 1 / arrays["scale"]
        self._far = float(arrays["far"]) * len(MEASURES)
        self._forest = Forest(*(arrays[name] for name in Forest._fields))
        self._usual_doubt: list[float] = arrays["usual_doubt"].tolist()
        self._layout = Layout.of(len(self._usual_doubt) - 1)
        self._known: dict[bytes, Prediction] = {}

    def predict(self, text: str) -> Prediction:
        """Return what is expected of the tiers on a text of any length and content.

        Texts come again: an agent asks with the same message at each step of its work.
        """
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        known = self._known.get(digest)
        if known is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            known = self._known[digest] = self._predict(text)
        return known

    def _predict(self, text: str) -> Prediction:
        features = features_of(text)
        off = (features.measures - self._center) * self._slope
        distance = float(np.add.reduce(np.abs(off))) / self._far
        inputs = np.concatenate((features.measures, self._linear_scores(features.buckets)))
        length = (math.log1p(len(text)) - USUAL_LENGTH) / SPREAD_OF_LENGTHS
        return self._prediction(
            self._forest.outputs(inputs).tolist(), distance, min(max(length, -1.5), 1.5)
        )

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
        gate = gate_of(raw[layout.gate])
        weak, middle, strong = map(_logistic, raw[layout.right])
        gain = sum(share * own for share, own in zip(gate, raw[layout.gains], strict=False))
        # Where a text is of a known family, its own gain is surer than the difference of levels.
        # Where the gate doubts more than it is used to, the text is strange, and length counts.
        doubt = doubt_of(gate) - self._usual_doubt[gate.index(max(gate))]
        gain += (LENGTH_SHARE + DOUBTED_LENGTH_SHARE * max(doubt, 0.0)) * length
        strong = min(max((1 - gate[-1]) * weak + gain + gate[-1] * strong, 0.0), 1.0)
        middle = min(max(middle, min(weak, strong)), max(weak, strong))
        labelled = _logistic(raw[layout.is_labelled])
        pairs = zip(gate_of(raw[layout.labels]), gate_of(raw[layout.needs]), strict=True)
        simple, moderate, hard = (labelled * one + (1 - labelled) * other for one, other in pairs)
        return Prediction(weak, middle, strong, (simple, moderate, hard), distance)


def gate_of(raw: Sequence[float]) -> list[float]:
    """Return shares that add up to one from the log-odds of each."""
    shares = [_logistic(one) for one in raw]
    total = sum(shares)
    return [share / total for share in shares]


def doubt_of(gate: Sequence[float]) -> float:
    """Return the entropy of the gate's shares, in nats: 0 where it is sure of a family."""
    return -sum(share * math.log(share + 1e-9) for share in gate)


def _logistic(raw: float) -> float:
    return 1 / (1 + math.exp(-raw))


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
