"""Evaluation on outcomes whose right figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from tuppence.errors import InvalidInput, InvalidTrace
from tuppence.model_router.decision import TokenPrice
from tuppence.model_router.evaluation import (
    CLASS_FIGURES,
    FIGURES,
    ROUTERS,
    Said,
    evaluate,
    held_out_predictions,
    parts_of,
    pooled,
)
from tuppence.model_router.outcomes import (
    Outcome,
    TierModels,
    targets_of,
    targets_of_pair,
)
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
    router = {figure: one["router"].value for figure, one in report.figures.items()}
    assert set(FIGURES) - set(router) == {"recall_moderate"}  # no prompt is
    assert router["gap_closed"] == pytest.approx(1, abs=0.01)
    assert router["auc_simple"] == 1
    assert router["cpt_80"] == pytest.approx(0.2)
    assert 0.25 < router["cost_at_98"] < 0.3
    assert router["calibration_error"] == 0
    assert router["severe_under_routing"] == 0
    assert set(report.figures["apgr"]) == set(ROUTERS)
    together = pooled(outcomes, targets, said, rounds=10)
    assert set(together) == {"outcomes"}
    assert together["outcomes"]["balanced_accuracy"]["router"] == (1, 1, 1)


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
    severe = {name: one.value for name, one in report.figures["severe_under_routing"].items()}
    assert severe == {"router": 1, "length": 0, "known_task": 0, "zero_router": 1, "oracle": 0}
    accuracy = {name: one.value for name, one in report.figures["balanced_accuracy"].items()}
    assert accuracy["zero_router"] == accuracy["router"] == 0.5
    assert accuracy["length"] == accuracy["known_task"] == accuracy["oracle"] == 1
    assert {len(curve[0]) for curve in report.curves.values()} == {2}


def test_recorded_costs_go_before_estimates() -> None:
    """Where every answer's cost is recorded, it is what counts."""
    outcomes = [one._replace(cost={"a": 1.0, "b": 2.0, "c": 10.0}) for one in _outcomes()]
    targets = targets_of(outcomes)
    said = _said(targets.quality.astype(np.float64))
    (report,) = evaluate(outcomes, targets, said, PRICES, rounds=2)
    assert report.curves["zero_router"][0].tolist() == pytest.approx([0.1, 0.75])


def test_labels_have_classes_only() -> None:
    """A source of labels has the figures of classes, and no others."""
    outcomes = [Outcome(f"p{n}", "labels", "", "", {}, {}, n % 3) for n in range(30)]
    targets = targets_of(outcomes)
    said = Said(np.full((30, 3), 0.5), np.eye(3)[np.arange(30) % 3])
    (report,) = evaluate(outcomes, targets, said, PRICES, rounds=2)
    assert set(report.figures) == set(CLASS_FIGURES)
    assert report.figures["recall_moderate"]["router"] == (1, 1, 1)
    assert report.curves == {}


def test_two_models_have_outcomes_only() -> None:
    """Without a middle tier nobody knows what a prompt needs, but gains are known."""
    outcomes = [one._replace(scores={"a": 0.0, "c": 1.0}) for one in _outcomes(60)]
    targets = targets_of(outcomes)
    said = Said(np.tile([0.2, 0.5, 0.9], (60, 1)), np.tile([0, 1, 0], (60, 1)))
    (report,) = evaluate(outcomes, targets, said, PRICES, rounds=2)
    assert "apgr" in report.figures
    assert not set(CLASS_FIGURES) & set(report.figures)
    assert pooled(outcomes, targets, said, rounds=2) == {}


def test_a_task_of_all_prompts_tells_nothing() -> None:
    """Where no task is named, knowing the task ranks prompts as chance would, no worse."""
    rng = np.random.default_rng(1)
    outcomes = [
        one._replace(subset="", scores={**one.scores, "a": float(rng.random() < 0.5), "b": 0.6})
        for one in _outcomes(1_000)
    ]
    targets = targets_of(outcomes)
    said = Said(np.full((1_000, 3), 0.5), np.full((1_000, 3), 1 / 3))
    (report,) = evaluate(outcomes, targets, said, PRICES, rounds=2)
    assert report.figures["apgr"]["known_task"].value == pytest.approx(0.5)
    assert report.figures["auc_simple"]["known_task"].value == 0.5
    for figure in ("balanced_accuracy", "severe_under_routing"):
        told = report.figures[figure]
        assert told["known_task"].value == told["zero_router"].value


def test_tasks_of_the_same_difficulty_tell_nothing() -> None:
    """A prompt's own outcome is not in what is known of its task: small tasks are no oracle."""
    rng = np.random.default_rng(1)
    outcomes = [
        one._replace(subset=str(number // 4), scores={**one.scores, "a": float(rng.random() < 0.5)})
        for number, one in enumerate(_outcomes(1_000))
    ]
    targets = targets_of(outcomes)
    said = Said(np.full((1_000, 3), 0.5), np.full((1_000, 3), 1 / 3))
    (report,) = evaluate(outcomes, targets, said, PRICES, rounds=2)
    assert report.figures["auc_simple"]["known_task"].value == pytest.approx(0.5, abs=0.05)


def test_a_pair_of_models() -> None:
    """Two models of the data can be measured in place of its tiers, whichever is the better."""
    outcomes = [one._replace(cost={"a": 1.0, "b": 2.0, "c": 10.0}) for one in _outcomes()]
    targets = targets_of_pair(outcomes, targets_of(outcomes), "b", "c")
    said = _said(np.nan_to_num(targets.quality.astype(np.float64)))
    tiers = TierModels(("b",), (), ("c",))
    (report,) = evaluate(outcomes, targets, said, PRICES, tiers=tiers, rounds=2)
    assert report.tiers == tiers
    assert report.figures["gap_closed"]["router"].value == pytest.approx(1, abs=0.01)
    assert report.curves["zero_router"].tolist() == [pytest.approx([0.2, 0.75]), [1.0, 1.0]]
    with pytest.raises(InvalidInput, match="strong='none'.*a, b, c"):
        targets_of_pair(outcomes, targets, "b", "none")


def test_too_little_left_to_train_on() -> None:
    """Where holding out leaves next to nothing, that is said instead of measured."""
    outcomes = [*_outcomes(90), *_outcomes(400, "other")]
    prepared = prepare(outcomes)
    parts = parts_of(prepared.targets, None, 0)
    with pytest.raises(InvalidTrace, match="leaves 90 outcomes"):
        held_out_predictions(outcomes, prepared, parts, lambda _: None)


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
