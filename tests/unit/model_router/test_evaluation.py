"""Evaluation on outcomes whose right figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from tuppence.model_router.decision import TokenPrice
from tuppence.model_router.evaluation import (
    FIGURES,
    ROUTERS,
    Said,
    evaluate,
    held_out_predictions,
    parts_of,
    pooled,
)
from tuppence.model_router.outcomes import Outcome, targets_of
from tuppence.model_router.training import prepare

PRICES = [TokenPrice(100, 500), TokenPrice(1_000, 5_000), TokenPrice(4_000, 20_000)]


def _outcomes(n: int = 400, source: str = "s") -> list[Outcome]:
    """Hard prompts are long and of task "hard"; there only the strong model is right."""
    rows = []
    for number in range(n):
        hard = number % 4 == 0
        scores = {"a": float(not hard), "b": float(not hard), "c": 1.0}
        prompt = ("x" * (500 if hard else 50)) + str(number)
        rows.append(Outcome(prompt, source, "hard" if hard else "easy", "en", scores, {}, None))
    return rows


def _said(p_right: np.ndarray) -> Said:
    needed = np.where(p_right[:, 0] > 0.5, 0, np.where(p_right[:, 1] > 0.5, 1, 2))
    return Said(p_right, np.eye(3)[needed])


def test_a_perfect_router() -> None:
    """Who knows the outcomes closes the whole gap, and pays for the strong tier where it helps."""
    outcomes = _outcomes()
    targets = targets_of(outcomes)
    said = _said(targets.quality.astype(np.float64))
    (report,) = evaluate(outcomes, targets, said, PRICES, rounds=10)
    router = {figure: report.figures[figure]["router"].value for figure in FIGURES}
    assert router["gap_closed"] == pytest.approx(1, abs=0.01)
    assert router["auc_simple"] == 1
    assert router["cpt_80"] == pytest.approx(0.2)
    assert 0.25 < router["cost_at_98"] < 0.3
    assert report.own["calibration_error"] == 0
    assert report.own["severe_under_routing"] == 0
    assert set(report.figures["apgr"]) == set(ROUTERS)
    assert pooled(targets, said)["outcomes_balanced_accuracy"] == 1


def test_what_stands_beside_the_router() -> None:
    """Here length and task tell everything, the zero router nothing; intervals hold the value."""
    outcomes = _outcomes()
    targets = targets_of(outcomes)
    said = _said(np.tile([0.75, 0.75, 1.0], (len(outcomes), 1)))
    (report,) = evaluate(outcomes, targets, said, PRICES, rounds=20)
    apgr = {name: one.value for name, one in report.figures["apgr"].items()}
    assert apgr["router"] == apgr["zero_router"] == pytest.approx(0.5, abs=0.01)
    assert apgr["length"] == apgr["known_task"] == pytest.approx(apgr["oracle"])
    assert apgr["oracle"] > 0.85
    gap = report.figures["gap_closed"]
    assert (gap["zero_router"].value, gap["oracle"].value) == (0, 1)
    for by_router in report.figures.values():
        for one in by_router.values():
            assert np.isnan(one.value) or one.low - 1e-9 <= one.value <= one.high + 1e-9
    assert report.own["severe_under_routing"] == 1
    assert {len(curve[0]) for curve in report.curves.values()} == {2}


def test_recorded_costs_go_before_estimates() -> None:
    """Where every answer's cost is recorded, it is what counts."""
    outcomes = [one._replace(cost={"a": 1.0, "b": 2.0, "c": 10.0}) for one in _outcomes()]
    targets = targets_of(outcomes)
    said = _said(targets.quality.astype(np.float64))
    (report,) = evaluate(outcomes, targets, said, PRICES, rounds=2)
    assert report.curves["zero_router"][0].tolist() == pytest.approx([0.1, 0.75])


def test_labels_have_classes_only() -> None:
    """A source of labels has recalls, and no cost-quality figures."""
    outcomes = [Outcome(f"p{n}", "labels", "", "", {}, {}, n % 3) for n in range(30)]
    targets = targets_of(outcomes)
    said = Said(np.full((30, 3), 0.5), np.eye(3)[np.arange(30) % 3])
    (report,) = evaluate(outcomes, targets, said, PRICES, rounds=2)
    assert (report.figures, report.recalls) == ({}, (1, 1, 1))


def test_held_out_is_held_out() -> None:
    """Each part is predicted by a classifier that was trained without it."""
    outcomes = [*_outcomes(160), *_outcomes(160, "other")]
    prepared = prepare(outcomes)
    by_source = parts_of(prepared.targets, None, 0)
    assert sorted(set(by_source.tolist())) == [0, 1]
    parts = parts_of(prepared.targets, 4, 0)
    assert (parts == parts_of(prepared.targets, 4, 0)).all()
    told: list[str] = []
    said = held_out_predictions(outcomes, prepared, by_source, told.append)
    assert told == ["training without part 1 of 2", "training without part 2 of 2"]
    (report, _) = evaluate(outcomes, prepared.targets, said, PRICES, rounds=2)
    assert report.figures["auc_simple"]["router"].value > 0.9
