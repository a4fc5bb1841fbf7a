"""Cascades by agreement on answers whose right figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from tuppence.errors import InvalidInput, InvalidTrace
from tuppence.model_router.agreement import best_agreement, evaluate_agreement, learn_agreement
from tuppence.model_router.cascade import plan_cascade
from tuppence.model_router.decision import Option, TokenPrice
from tuppence.model_router.outcomes import Outcome
from tuppence.model_router.tiers import RoutedModel

PRICES = {"a": TokenPrice(0, 1.0), "b": TokenPrice(0, 1.0), "top": TokenPrice(0, 20.0)}
MODELS = ("a", "b", "top")


def _outcomes(n: int = 400) -> list[Outcome]:
    """A third is easy for all, a third only the strongest can do, a third nobody (long answers)."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(n):
        kind = number % 3
        right = str(number)
        wrong = [str(number + int(rng.integers(low, low + 99))) for low in (1, 101)]
        said = {"a": wrong[0], "b": wrong[1], "top": right if kind == 1 else "no"}
        if kind == 0:
            said = dict.fromkeys(MODELS, right)
        scores = {model: float(answer == right) for model, answer in said.items()}
        length = {0: 100, 1: 300, 2: 3_000}[kind]
        characters = {model: int(length * rng.uniform(0.9, 1.1)) for model in MODELS}
        rows.append(Outcome("prompt " * 5, "s", "", "", scores, {}, None, said, characters))
    return rows


def test_hopeless_prompts_are_not_escalated() -> None:
    """The strongest model's quality is kept, and only what it can do better is sent to it."""
    report = evaluate_agreement(
        _outcomes(), MODELS, (PRICES["a"], PRICES["b"], PRICES["top"]), quality=0.99
    )
    assert report.agreed_share == pytest.approx(1 / 3, abs=0.01)
    assert report.right_when_agreed == 1
    assert report.escalated_share == pytest.approx(1 / 3, abs=0.02)
    assert report.quality.value == pytest.approx(1, abs=0.02)
    assert report.plain_quality == 1
    assert report.cost.value < 0.3 < report.plain_cost
    assert report.cost.low <= report.cost.value <= report.cost.high


def test_pairs_are_sorted() -> None:
    """Pairs that keep the quality come first, the cheapest of them at the top."""
    reports = best_agreement(_outcomes(), PRICES, quality=0.95)
    assert {(one.first, one.second) for one in reports} == {("a", "b"), ("b", "a")}
    assert all(one.strongest == "top" for one in reports)
    assert reports[0].cost.value <= reports[1].cost.value


def _message(text: str) -> dict[str, object]:
    return {"content": [{"type": "text", "text": text}]}


def test_the_learned_check() -> None:
    """Agreement is accepted; a disagreement is escalated where the strongest can help."""
    check = learn_agreement(_outcomes(), *MODELS, quality=0.99)
    assert check.asked(["x"]) == list(MODELS)
    request = {"messages": [{"role": "user", "content": "prompt " * 5}]}
    same = check.verdict(request, [_message("answer is 7"), _message("it is 7")])
    assert same.is_accepted
    hopeful = [_message("so " * 98 + f"answer is {n}") for n in (7, 9)]
    assert not check.verdict(request, hopeful).is_accepted
    hopeless = [_message("so " * 998 + f"answer is {n}") for n in (7, 9)]
    verdict = check.verdict(request, hopeless)
    assert verdict.is_accepted
    assert "not expected" in verdict.reason
    refused = [{**one, "stop_reason": "refusal"} for one in hopeless]
    assert not check.verdict(request, refused).is_accepted


def test_the_learned_check_asks_whom_it_was_learned_for() -> None:
    """Not the cheapest: the gate knows nothing of other models' answers."""
    check = learn_agreement(_outcomes(), *MODELS)
    rows = {"other": 1, "a": 5, "b": 2, "top": 40, "topmost": 50}
    options = [
        Option(RoutedModel(id=name, tier=tier), 0.9, cost, cost)
        for tier, (name, cost) in enumerate(rows.items())
    ]
    plan = plan_cascade(options, check, list(rows))
    assert plan is not None
    order = (plan.first, *plan.beside, plan.last)
    assert [one.model.id for one in order] == ["a", "b", "top"]
    assert plan_cascade(options[2:], check, list(rows)) is None
    with pytest.raises(InvalidInput, match="none of the router's"):
        plan_cascade(options[2:], check, [one.model.id for one in options[2:]])


@pytest.mark.parametrize("models", [("a", "a", "top"), ("a", "b", "a"), ("a", "top", "top")])
def test_three_models_are_learned_for(models: tuple[str, str, str]) -> None:
    """A model that is compared with itself would always be accepted."""
    with pytest.raises(InvalidInput, match="three different"):
        learn_agreement(_outcomes(), *models)


def test_too_few_answers() -> None:
    """Data without recorded answers of three models is refused."""
    with pytest.raises(InvalidTrace, match="too few"):
        best_agreement(_outcomes(), {"a": PRICES["a"]})
    with pytest.raises(InvalidTrace, match="too few"):
        learn_agreement(_outcomes(30), *MODELS)


def test_a_strongest_model_that_cascades_cannot_escalate_to() -> None:
    """One that nobody recorded is an error of the caller's; the cheapest one has none below it."""
    with pytest.raises(InvalidInput, match="choose one of a, b, top") as caught:
        best_agreement(_outcomes(), PRICES, strongest="nope")
    assert caught.value.field == "strongest"
    with pytest.raises(InvalidTrace, match="has 0 models that cost less than a,"):
        best_agreement(_outcomes(), PRICES, strongest="a")
