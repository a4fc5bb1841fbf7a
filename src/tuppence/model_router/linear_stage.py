"""The first stage of the classifier: one linear model over hashed n-grams for every question.

Each text is a vector of the n-grams that occur in it (however often), weighted by how rare they
are and scaled to length one. All questions are answered by ridge regressions that are solved
together by conjugate gradients; a weight of 0 leaves a text out of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tuppence.model_router.features import BUCKETS, Buckets

STEPS = 12
FEWEST_TEXTS = 2
"""An n-gram of fewer texts says nothing about others."""

Floats = npt.NDArray[np.float32]


class Linear(NamedTuple):
    """What a linear stage has learned."""

    rarity: Floats
    """(buckets,): log of the texts per text that has an n-gram of the bucket; 0: unseen."""
    weights: Floats
    """(buckets, questions)"""
    means: Floats
    """(questions,)"""

    def scores(self, texts: sparse.csr_matrix) -> Floats:
        """Return the answers for the rows of `presence(...)`."""
        scored: Floats = weighted(texts, self.rarity) @ self.weights + self.means
        return scored


def presence(buckets: Sequence[Buckets]) -> sparse.csr_matrix:
    """Return which buckets occur in each text, as a sparse matrix of ones."""
    distinct = [np.unique(one) for one in buckets]
    ends = np.cumsum([0, *map(len, distinct)])
    columns = np.concatenate(distinct).astype(np.int32) if distinct else np.empty(0, np.int32)
    ones = np.ones(len(columns), dtype=np.float32)
    return sparse.csr_matrix((ones, columns, ends), shape=(len(distinct), BUCKETS))


def rarity_of(texts: sparse.csr_matrix) -> Floats:
    """Return how rare each bucket is: log(texts / texts that have it), 0 below FEWEST_TEXTS."""
    having = np.bincount(texts.indices, minlength=BUCKETS)
    rarity = np.log(texts.shape[0] / np.maximum(having, 1))
    return np.where(having >= FEWEST_TEXTS, rarity, 0).astype(np.float32)


def weighted(texts: sparse.csr_matrix, rarity: Floats) -> sparse.csr_matrix:
    """Return the texts' vectors: rarities of what occurs, scaled to length one."""
    scaled = texts @ sparse.diags(rarity)
    lengths = np.sqrt(np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel())
    return (sparse.diags((1 / np.maximum(lengths, 1e-6)).astype(np.float32)) @ scaled).tocsr()


def fit_linear(
    texts: sparse.csr_matrix, answers: Floats, shares: Floats, penalties: Floats
) -> Linear:
    """Fit ridge regressions of the answers (n, questions), weighted by shares (n, questions)."""
    rarity = rarity_of(texts)
    rows = weighted(texts, rarity)
    columns = rows.T.tocsr()
    totals = np.maximum(shares.sum(axis=0), 1e-9)
    means = ((answers * shares).sum(axis=0) / totals).astype(np.float32)
    weights = np.zeros((BUCKETS, answers.shape[1]), dtype=np.float32)
    residual = columns @ ((answers - means) * shares).astype(np.float32)
    direction = residual.copy()
    size = (residual**2).sum(axis=0)
    for _ in range(STEPS):
        image = columns @ (shares * (rows @ direction)) + penalties * direction
        step = size / np.maximum((direction * image).sum(axis=0), 1e-12)
        weights += step * direction
        residual -= step * image
        new_size = (residual**2).sum(axis=0)
        direction = residual + (new_size / np.maximum(size, 1e-12)) * direction
        size = new_size
    return Linear(rarity, weights, means)
