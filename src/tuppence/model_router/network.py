"""The second stage of the classifier: a small network over measures of form and linear scores.

Beside answers for any text it has experts: for each family of prompts (the sources that it was
trained on) answers of their own, and a gate that says how likely a text is of each family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

HIDDEN = 48
EPOCHS = 25
BATCH = 256
DROPPED_INPUTS = 0.15
LEARNING_RATE = 2e-3
DECAY = 1e-2
GAIN_SHARE = 2.0
FAMILY_SHARE = 0.3
EXPERT_SHARE = 0.5
FIRST_MOMENT, SECOND_MOMENT = 0.9, 0.999


class Layout(NamedTuple):
    """Where the raw outputs of a network for some families stand."""

    right: slice
    """p(right) of the three tiers (logistic)."""
    needs: slice
    """Which tier is the first able one (softmax)."""
    gate: slice
    """Which family the text is of; the last stands for none (softmax)."""
    gains: slice
    """By family: by how much the strong tier is better than the weak one."""
    expert_right: slice
    """By family: as `right`."""
    expert_needs: slice
    """By family: as `needs`."""

    @classmethod
    def of(cls, families: int) -> Layout:
        """Return the layout for a number of families."""
        ends = np.cumsum([3, 3, families + 1, families, 3 * families, 3 * families]).tolist()
        return cls(*(slice(start, end) for start, end in zip([0, *ends], ends, strict=False)))


class Examples(NamedTuple):
    """What a network learns from, a row a text; a share of 0 leaves a row out."""

    inputs: Floats
    quality: Floats
    """(n, 3), NaN where unknown."""
    quality_share: Floats
    needed: npt.NDArray[np.int64]
    """(n,), -1 where unknown."""
    needed_share: Floats
    family: npt.NDArray[np.int64]
    """(n,): 0 .. families - 1, or `families` for texts of no family."""
    families: int
    gain: Floats
    """(n,): strong minus weak."""
    gain_share: Floats
    """(n, families)"""
    expert_share: Floats
    """(n, families)"""


@dataclass(frozen=True, slots=True)
class Network:
    """One hidden layer beside a direct connection."""

    hidden: Floats
    hidden_bias: Floats
    outward: Floats
    direct: Floats
    bias: Floats

    def outputs(self, inputs: Floats) -> Floats:
        """Return the raw outputs for inputs (n, inputs) or (inputs,)."""
        layer = np.maximum(inputs @ self.hidden + self.hidden_bias, 0)
        raw: Floats = layer @ self.outward + inputs @ self.direct + self.bias
        return raw


def joined(networks: list[Network]) -> Network:
    """Return one network whose outputs are the mean of several."""
    share = np.float32(1 / len(networks))
    return Network(
        np.concatenate([one.hidden for one in networks], axis=1),
        np.concatenate([one.hidden_bias for one in networks]),
        np.concatenate([one.outward * share for one in networks]),
        sum((one.direct * share for one in networks), np.float32(0)),  # type: ignore[arg-type]
        sum((one.bias * share for one in networks), np.float32(0)),  # type: ignore[arg-type]
    )


def softmax(raw: Floats) -> Floats:
    """Return shares that add up to one, over the last axis."""
    grown = np.exp(raw - raw.max(axis=-1, keepdims=True))
    shares: Floats = grown / grown.sum(axis=-1, keepdims=True)
    return shares


def fit_network(examples: Examples, seed: int) -> Network:
    """Train a network with Adam and decoupled decay (arXiv 1711.05101), falling steps."""
    rng = np.random.default_rng(seed)
    count, width = examples.inputs.shape
    outputs = Layout.of(examples.families).expert_needs.stop
    values = [
        rng.normal(0, width**-0.5, (width, HIDDEN)).astype(np.float32),
        np.zeros(HIDDEN, dtype=np.float32),
        rng.normal(0, 0.1 * HIDDEN**-0.5, (HIDDEN, outputs)).astype(np.float32),
        np.zeros((width, outputs), dtype=np.float32),
        np.zeros(outputs, dtype=np.float32),
    ]
    first, second = ([np.zeros_like(value) for value in values] for _ in range(2))
    batches = max(count // BATCH, 1)
    steps = EPOCHS * batches
    for step in range(1, steps + 1):
        if (step - 1) % batches == 0:
            order = rng.permutation(count)
        start = (step - 1) % batches * BATCH
        slopes = _slopes(values, examples, order[start : start + BATCH], rng)
        rate = LEARNING_RATE * (1 - step / (steps + 1))
        for index, slope in enumerate(slopes):
            first[index] = FIRST_MOMENT * first[index] + (1 - FIRST_MOMENT) * slope
            second[index] = SECOND_MOMENT * second[index] + (1 - SECOND_MOMENT) * slope**2
            size = np.sqrt(second[index] / (1 - SECOND_MOMENT**step)) + 1e-8
            move = first[index] / (1 - FIRST_MOMENT**step) / size
            decay = DECAY * values[index] if values[index].ndim == 2 else 0
            values[index] = (values[index] - rate * (move + decay)).astype(np.float32)
    return Network(values[0], values[1], values[2], values[3], values[4])


def _slopes(
    values: list[Floats],
    examples: Examples,
    rows: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> list[Floats]:
    """Return the slope of the loss by each array of values, over a batch of rows."""
    hidden, hidden_bias, outward, direct, bias = values
    inputs = examples.inputs[rows]
    kept = rng.random(inputs.shape) > DROPPED_INPUTS
    inputs = (inputs * kept / np.float32(1 - DROPPED_INPUTS)).astype(np.float32)
    before = inputs @ hidden + hidden_bias
    layer = np.maximum(before, 0)
    raw = layer @ outward + inputs @ direct + bias
    wrong = _errors(raw, examples, rows) / np.float32(len(rows))
    back = (wrong @ outward.T) * (before > 0)
    return [inputs.T @ back, back.sum(axis=0), layer.T @ wrong, inputs.T @ wrong, wrong.sum(axis=0)]


def _errors(raw: Floats, examples: Examples, rows: npt.NDArray[np.int64]) -> Floats:
    """Return the slope of the loss by each raw output."""
    families, layout = examples.families, Layout.of(examples.families)
    quality = examples.quality[rows]
    known = (~np.isnan(quality)).astype(np.float32)
    quality = np.nan_to_num(quality)
    needed = np.eye(4, 3, dtype=np.float32)[examples.needed[rows]]  # -1: the row of zeros
    needed_share = examples.needed_share[rows, None]
    family = np.eye(families + 1, dtype=np.float32)[examples.family[rows]]
    experts = (len(rows), families, 3)
    right_shares = (examples.expert_share[rows] * EXPERT_SHARE)[:, :, None] * known[:, None]
    needs_shares = (family[:, :-1] * needed_share * EXPERT_SHARE)[:, :, None]
    wrong = np.empty_like(raw)
    wrong[:, layout.right] = (
        (logistic(raw[:, layout.right]) - quality) * known * examples.quality_share[rows, None]
    )
    wrong[:, layout.needs] = (softmax(raw[:, layout.needs]) - needed) * needed_share
    wrong[:, layout.gate] = (softmax(raw[:, layout.gate]) - family) * FAMILY_SHARE
    behind = raw[:, layout.gains] - examples.gain[rows, None]
    wrong[:, layout.gains] = GAIN_SHARE * behind * examples.gain_share[rows]
    said = logistic(raw[:, layout.expert_right].reshape(experts))
    missed = (said - quality[:, None]) * right_shares
    wrong[:, layout.expert_right] = missed.reshape(len(rows), -1)
    said = softmax(raw[:, layout.expert_needs].reshape(experts))
    missed = (said - needed[:, None]) * needs_shares
    wrong[:, layout.expert_needs] = missed.reshape(len(rows), -1)
    return wrong


def logistic(raw: Floats) -> Floats:
    """Return shares from log-odds."""
    return (1 / (1 + np.exp(-raw))).astype(np.float32)
