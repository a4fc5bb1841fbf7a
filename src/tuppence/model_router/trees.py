"""The second stage of the classifier: boosted oblivious trees over form and linear scores.

Every level of an oblivious tree asks the same question of all texts, so a tree is a few
thresholds and a table of leaves, and thousands of them are read by numpy in some ten microseconds
(as in CatBoost, arXiv 1706.09516). Each output is a boosting of its own: of log-odds where shares
are to be told, of the amount itself elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DEPTH = 5
BINS = 32
PENALTY = 30.0
"""Added to the weight of every leaf: leaves of few texts stay near zero."""
ROWS_SHARE, COLUMNS_SHARE = 0.8, 0.3
FEWEST_ROWS = 40

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bins = npt.NDArray[np.int32]


class Question(NamedTuple):
    """What one output is to tell, a row a text."""

    answers: Floats
    shares: Floats
    """How much a row counts; 0 leaves it out."""
    rounds: int
    step: float
    """By how much of what it would set right a tree moves the output."""
    is_share: bool
    """Whether answers are 0..1 and the output is their log-odds."""


class Forest(NamedTuple):
    """Trees, those of each output after one another."""

    columns: npt.NDArray[np.intp]
    """(DEPTH, trees): which input each level looks at."""
    thresholds: Floats
    """(DEPTH, trees): above them, the level's bit is set."""
    leaves: Floats
    """(trees, 2 ** DEPTH)"""
    starts: npt.NDArray[np.int64]
    """(outputs,): the first tree of each."""
    bias: Floats
    """(outputs,)"""

    def outputs(self, inputs: Floats) -> Floats:
        """Return the raw outputs (outputs,) for one text's inputs."""
        bits = (inputs.take(self.columns, mode="clip") > self.thresholds).view(np.uint8)
        leaf = bits[-1]
        for bit in bits[-2::-1]:
            leaf = leaf + leaf + bit
        place = np.arange(0, self.leaves.size, 1 << DEPTH) + leaf
        leaves = self.leaves.take(place, mode="clip")
        told: Floats = np.add.reduceat(leaves, self.starts) + self.bias
        return told


def fit_forest(inputs: Floats, questions: Sequence[Question], seed: int) -> Forest:
    """Boost trees for every question; the same seed gives the same trees."""
    grown = [_grow(inputs, one, seed + number) for number, one in enumerate(questions)]
    counts = [len(one.leaves) for one in grown]
    return Forest(
        np.concatenate([one.columns for one in grown], axis=1),
        np.concatenate([one.thresholds for one in grown], axis=1),
        np.concatenate([one.leaves for one in grown]),
        np.cumsum([0, *counts[:-1]]),
        np.concatenate([one.bias for one in grown]),
    )


def logistic(raw: Doubles) -> Doubles:
    """Return shares from log-odds."""
    shares: Doubles = 1 / (1 + np.exp(-raw))
    return shares


def _grow(inputs: Floats, question: Question, seed: int) -> Forest:
    """Return the trees of one question; one that tells nothing where there is nothing to learn."""
    rows = np.flatnonzero(question.shares > 0)
    answers = question.answers[rows].astype(np.float64)
    shares = question.shares[rows].astype(np.float64)
    bias = _bias(answers, shares, is_share=question.is_share) if len(rows) else 0.0
    if len(rows) < FEWEST_ROWS or np.ptp(answers) == 0:
        return _forest([_Tree([0] * DEPTH, [np.inf] * DEPTH, np.zeros(1 << DEPTH))], bias)
    shares /= shares.mean()
    rng = np.random.default_rng(seed)
    columns = inputs[rows].T
    edges = np.stack([_edges(one) for one in columns])
    bins = np.stack([np.searchsorted(*one) for one in zip(edges, columns, strict=True)])
    bins = bins.astype(np.int32)
    raw = np.full(len(rows), bias)
    trees = []
    for _ in range(question.rounds):
        said = logistic(raw) if question.is_share else raw
        slopes = (answers - said) * shares
        curves = np.maximum(said * (1 - said), 1e-4) * shares if question.is_share else shares
        tree, leaf = _tree(bins, edges, slopes, curves, rng)
        tree = tree._replace(leaves=question.step * tree.leaves)
        raw += tree.leaves[leaf]
        trees.append(tree)
    return _forest(trees, bias)


def _bias(answers: Doubles, shares: Doubles, *, is_share: bool) -> float:
    """Return the mean answer, as log-odds where it is a share."""
    mean = float((answers * shares).sum() / shares.sum())
    if not is_share:
        return mean
    mean = min(max(mean, 1e-3), 1 - 1e-3)
    return float(np.log(mean / (1 - mean)))


class _Tree(NamedTuple):
    columns: list[int]
    thresholds: list[float]
    leaves: Doubles


def _forest(trees: Sequence[_Tree], bias: float) -> Forest:
    return Forest(
        np.array([tree.columns for tree in trees], dtype=np.intp).T,
        np.array([tree.thresholds for tree in trees], dtype=np.float32).T,
        np.array([tree.leaves for tree in trees], dtype=np.float32),
        np.zeros(1, dtype=np.int64),
        np.array([bias], dtype=np.float32),
    )


def _edges(column: Floats) -> Floats:
    """Return what parts a column into bins of about as many rows; infinite where it is flat."""
    distinct = np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1]))
    edges = np.full(BINS - 1, np.inf, dtype=np.float32)
    edges[: len(distinct)] = distinct
    return edges


def _tree(
    bins: Bins, edges: Floats, slopes: Doubles, curves: Doubles, rng: np.random.Generator
) -> tuple[_Tree, npt.NDArray[np.int64]]:
    """Grow a tree on some rows and columns; return it and the leaf of every row."""
    rows = np.flatnonzero(rng.random(bins.shape[1]) < ROWS_SHARE)
    tried = rng.choice(len(bins), max(int(len(bins) * COLUMNS_SHARE), 1), replace=False)
    places = bins[tried][:, rows] + (np.arange(len(tried), dtype=np.int32) * BINS)[:, None]
    every_slope, every_curve = (np.tile(one[rows], len(tried)) for one in (slopes, curves))
    leaf = np.zeros(bins.shape[1], dtype=np.int64)
    columns, thresholds = [], []
    for level in range(DEPTH):
        shape = (1 << level, len(tried), BINS)
        cells = (places + leaf[rows].astype(np.int32) * (len(tried) * BINS)).ravel()
        slope, curve = (
            np.bincount(cells, one, shape[0] * shape[1] * BINS).reshape(shape).cumsum(axis=2)
            for one in (every_slope, every_curve)
        )
        other_slope, other_curve = slope[:, :, -1:] - slope, curve[:, :, -1:] - curve
        gain = slope**2 / (curve + PENALTY) + other_slope**2 / (other_curve + PENALTY)
        column, at_bin = divmod(int(gain.sum(axis=0)[:, :-1].argmax()), BINS - 1)
        columns.append(int(tried[column]))
        thresholds.append(float(edges[columns[-1], at_bin]))
        leaf += (bins[columns[-1]] > at_bin).astype(np.int64) << level
    slope, curve = (np.bincount(leaf[rows], one[rows], 1 << DEPTH) for one in (slopes, curves))
    return _Tree(columns, thresholds, slope / (curve + PENALTY)), leaf
