"""Trees: they learn what no sum of the inputs tells, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tuppence.model_router.trees import Floats, Forest, Question, fit_forest, logistic

ROWS = 2_000


@pytest.fixture(scope="module")
def inputs() -> Floats:
    """Twenty inputs of noise."""
    return np.random.default_rng(0).normal(size=(ROWS, 20)).astype(np.float32)


def _all(count: int = ROWS) -> Floats:
    return np.ones(count, dtype=np.float32)


def _told(forest: Forest, inputs: Floats) -> Floats:
    return np.stack([forest.outputs(row) for row in inputs])


def test_what_inputs_tell_together(inputs: Floats) -> None:
    """A share and an amount that depend on pairs of inputs are learned, and hold for new rows."""
    both = ((inputs[:, 0] > 0) & (inputs[:, 1] > 0)).astype(np.float32)
    gated = (inputs[:, 2] > 0) * inputs[:, 3]
    questions = [
        Question(both, _all(), 150, 0.2, is_share=True),
        Question(gated, _all(), 150, 0.2, is_share=False),
    ]
    forest = fit_forest(inputs, questions, seed=0)
    new = np.random.default_rng(1).normal(size=(500, 20)).astype(np.float32)
    share, amount = _told(forest, new).T
    is_both = (new[:, 0] > 0) & (new[:, 1] > 0)
    assert ((logistic(share.astype(np.float64)) > 0.5) == is_both).mean() > 0.9
    assert np.corrcoef(amount, (new[:, 2] > 0) * new[:, 3])[0, 1] > 0.9


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_what_is_always_the_same(inputs: Floats, answer: float) -> None:
    """An answer that never changes is told as such, finite and the same for every text."""
    question = Question(np.full(ROWS, answer, np.float32), _all(), 50, 0.2, is_share=True)
    told = _told(fit_forest(inputs, [question], seed=0), inputs[:50]).ravel()
    assert np.ptp(told) == 0
    assert logistic(told.astype(np.float64))[0] == pytest.approx(answer, abs=0.01)


def test_rows_that_are_left_out_change_nothing(inputs: Floats) -> None:
    """A share of 0 leaves a row out; a question that no row answers is told as even."""
    alike = (inputs[:, 0] > 0).astype(np.float32)
    shares = (np.arange(ROWS) < ROWS // 2).astype(np.float32)
    spoiled = np.where(shares > 0, alike, 1 - alike).astype(np.float32)
    questions = [
        Question(spoiled, shares, 30, 0.2, is_share=True),
        Question(alike, 0 * shares, 30, 0.2, is_share=True),
    ]
    right, unknown = _told(fit_forest(inputs, questions, seed=0), inputs[ROWS // 2 :]).T
    assert ((right > 0) == (inputs[ROWS // 2 :, 0] > 0)).mean() > 0.95
    assert (unknown == 0).all()


def test_the_same_seed_grows_the_same_trees(inputs: Floats) -> None:
    """Seed and rows determine every threshold and leaf; another seed changes them."""
    question = Question((inputs[:, 0] > 0).astype(np.float32), _all(), 20, 0.2, is_share=True)
    one, same, other = (fit_forest(inputs, [question], seed=seed) for seed in (4, 4, 5))
    assert all(np.array_equal(*pair) for pair in zip(one, same, strict=True))
    assert not np.array_equal(one.leaves, other.leaves)
