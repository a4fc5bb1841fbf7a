"""Cascades by agreement, learned from recorded answers: when is escalation worth its money.

Two cheap models that agree are nearly always right, so their answer is taken. Where they disagree
the strongest model is asked only if it is expected to do better: a ridge regression over what is
known by then (lengths and kinds of both answers) tells hopeless prompts from those it can save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from tuppence.errors import InvalidInput, InvalidTrace
from tuppence.language import mark
from tuppence.model_router.answers import final_answer, same_answer
from tuppence.model_router.checks import (
    Message,
    SecondModel,
    Verdict,
    is_unfinished,
    text_of,
    tool_calls_of,
)
from tuppence.model_router.decision import TokenPrice
from tuppence.model_router.metrics import BoolArray, FloatArray, IntArray, Interval, intervals
from tuppence.model_router.outcomes import Outcome
from tuppence.model_router.request import CHARACTERS_PER_TOKEN, read_request

PENALTY = 30.0
FOLDS = 10
THRESHOLDS = 101
MARGIN = 0.01
"""Quality aimed at above what is promised: a threshold that just held may miss by chance."""
ROUNDS = 300
FEWEST_OUTCOMES = 50


class AgreementReport(NamedTuple):
    """What a cascade would have done on recorded answers, all calls counted."""

    first: str
    second: str
    strongest: str
    prompts: int
    agreed_share: float
    right_when_agreed: float
    escalated_share: float
    quality: Interval
    """As a share of the strongest model's."""
    cost: Interval
    """As a share of always asking the strongest model."""
    plain_cost: float
    """The same where every disagreement is escalated."""
    plain_quality: float


class Gate(NamedTuple):
    """Tells by how much the strongest model is expected to do better than the first."""

    center: FloatArray
    scale: FloatArray
    weights: FloatArray
    mean: float

    def gains(self, seen: FloatArray) -> FloatArray:
        """Return the expected gains for rows of `_seen`."""
        gains: FloatArray = (seen - self.center) / self.scale @ self.weights + self.mean
        return gains


@dataclass(frozen=True, slots=True)
class LearnedAgreement:
    """A check for cascades: agreement, or no hope that escalation would help.

    Made by `learn_agreement`; give it to `route_and_call(check=...)`, which asks the models that it
    was learned for.
    """

    first: str
    second: str
    strongest: str
    gate: Gate
    threshold: float

    def asked(self, models: Sequence[str]) -> Sequence[str]:
        """Return the models that this was learned for."""
        del models
        return [self.first, self.second, self.strongest]

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return p(both are right): the least that is accepted."""
        return p_right[0] * p_right[1]

    def verdict(self, request: Mapping[str, Any], messages: Sequence[Message]) -> Verdict:
        """Accept what both agree on, and what the strongest is not expected to do better.

        Recorded answers are whole texts, so the gate can tell nothing of others: those that are
        refused, broken off or tool calls are judged by agreement alone.
        """
        verdict = SecondModel(self.second).verdict(request, messages)
        is_text = not any(is_unfinished(one) or tool_calls_of(one) for one in messages)
        if verdict.is_accepted or not is_text:
            return verdict
        texts = [text_of(message) for message in messages]
        answers = [final_answer(text) for text in texts]
        seen = _seen(len(read_request(request).whole), answers, [len(text) for text in texts])
        gain = float(self.gate.gains(np.array([seen]))[0])
        if gain < self.threshold:
            return Verdict(
                is_accepted=True, reason=mark("the strongest model is not expected to help")
            )
        return verdict


class _Recorded(NamedTuple):
    """Recorded answers of two cheap models and the strongest, a row a prompt."""

    first: FloatArray
    strongest: FloatArray
    agrees: BoolArray
    seen: FloatArray
    cheap_cost: FloatArray
    strongest_cost: FloatArray

    def at(self, rows: IntArray | BoolArray) -> _Recorded:
        """Return some of the rows."""
        return _Recorded(
            self.first[rows],
            self.strongest[rows],
            self.agrees[rows],
            self.seen[rows],
            self.cheap_cost[rows],
            self.strongest_cost[rows],
        )


def learn_agreement(
    outcomes: Sequence[Outcome], first: str, second: str, strongest: str, *, quality: float = 1.0
) -> LearnedAgreement:
    """Return a check learned from recorded answers that keeps a share of the strongest's quality.

    Raises InvalidTrace where fewer than `FEWEST_OUTCOMES` have all three models' answers,
    InvalidInput where these are not three.
    """
    if len({first, second, strongest}) < 3:
        raise InvalidInput(
            "are not three different models",
            field="models",
            value=(first, second, strongest),
            remedy="name two cheap models and one to escalate to",
        )
    free = TokenPrice(0.0, 0.0)
    recorded = _recorded(outcomes, (first, second, strongest), (free, free, free))
    gains = _held_out_gains(recorded, _folds(len(recorded.first)))
    threshold = _threshold(recorded, gains, quality + MARGIN)
    return LearnedAgreement(first, second, strongest, _fit(recorded), threshold)


def evaluate_agreement(
    outcomes: Sequence[Outcome],
    models: tuple[str, str, str],
    prices: tuple[TokenPrice, TokenPrice, TokenPrice],
    *,
    quality: float = 1.0,
) -> AgreementReport:
    """Return what a cascade of (first, second, strongest) would have done, held out.

    Gains are predicted and thresholds chosen on the other folds. Raises InvalidTrace.
    """
    recorded = _recorded(outcomes, models, prices)
    folds = _folds(len(recorded.first))
    gains = _held_out_gains(recorded, folds)
    escalated = np.zeros(len(gains), dtype=np.bool_)
    for fold in range(FOLDS):
        inside = folds == fold
        others = recorded.at(~inside)
        threshold = _threshold(others, gains[~inside], quality + MARGIN)
        escalated[inside] = ~recorded.agrees[inside] & (gains[inside] >= threshold)

    def shares(rows: IntArray, asked: BoolArray) -> FloatArray:
        one = recorded.at(rows)
        strong = asked[rows]
        return np.array(
            [
                np.where(strong, one.strongest, one.first).mean() / one.strongest.mean(),
                (one.cheap_cost + strong * one.strongest_cost).mean() / one.strongest_cost.mean(),
            ]
        )

    every = np.arange(len(gains))
    values = shares(every, escalated)
    low, high = intervals(lambda rows: shares(rows, escalated), len(gains), rounds=ROUNDS)
    plain = shares(every, ~recorded.agrees)
    agreed = recorded.first[recorded.agrees]
    told = [Interval(*map(float, one)) for one in zip(values, low, high, strict=True)]
    return AgreementReport(
        first=models[0],
        second=models[1],
        strongest=models[2],
        prompts=len(gains),
        agreed_share=float(recorded.agrees.mean()),
        right_when_agreed=float(agreed.mean()) if agreed.size else np.nan,
        escalated_share=float(escalated.mean()),
        quality=told[0],
        cost=told[1],
        plain_cost=float(plain[1]),
        plain_quality=float(plain[0]),
    )


def best_agreement(
    outcomes: Sequence[Outcome],
    prices: Mapping[str, TokenPrice],
    *,
    strongest: str | None = None,
    quality: float = 1.0,
) -> list[AgreementReport]:
    """Return cascades of all pairs below the strongest model: those that keep the quality first.

    Models need a price and recorded answers; `strongest` is the best of them by default. Sorted by
    cost. Raises InvalidTrace where there are not two that cost less than the strongest,
    InvalidInput where that is none of them.
    """
    answered = [
        model
        for model in prices
        if all(model in one.answers and model in one.characters for one in outcomes)
    ]
    if strongest is not None and strongest not in answered:
        raise InvalidInput(
            "is no model with recorded answers and a known price",
            field="strongest",
            value=strongest,
            remedy=f"choose one of {', '.join(answered)}" if answered else "give other data",
        )
    means = {one: float(np.mean([row.scores[one] for row in outcomes])) for one in answered}
    top = strongest or max(means, key=lambda one: means[one], default="")
    cheap = [one for one in answered if one != top and prices[one].output < prices[top].output]
    if len(cheap) < 2:
        raise _invalid(_few(len(answered), len(cheap), top))
    reports = [
        evaluate_agreement(
            outcomes, (one, two, top), (prices[one], prices[two], prices[top]), quality=quality
        )
        for one, two in permutations(cheap, 2)
    ]
    return sorted(reports, key=lambda one: (one.quality.value < quality, one.cost.value))


def _few(answered: int, cheap: int, top: str) -> str:
    if answered < 3:
        return f"has recorded answers of {answered} models with a price"
    return f"has {cheap} models that cost less than {top}, to which cascades would escalate"


def _recorded(
    outcomes: Sequence[Outcome],
    models: tuple[str, str, str],
    prices: tuple[TokenPrice, TokenPrice, TokenPrice],
) -> _Recorded:
    first, second, strongest = models
    rows = [
        one
        for one in outcomes
        if {first, second} <= one.answers.keys() and set(models) <= one.scores.keys()
    ]
    if len(rows) < FEWEST_OUTCOMES:
        raise _invalid(f"has {len(rows)} prompts with answers of {first} and {second}")
    costs = np.array(
        [
            [_cost(one, model, price) for model, price in zip(models, prices, strict=True)]
            for one in rows
        ]
    )
    answers = [[one.answers[first], one.answers[second]] for one in rows]
    seen = [
        _seen(len(one.prompt), said, [one.characters.get(model, 0) for model in (first, second)])
        for one, said in zip(rows, answers, strict=True)
    ]
    return _Recorded(
        np.array([one.scores[first] for one in rows]),
        np.array([one.scores[strongest] for one in rows]),
        np.array([same_answer(*said) for said in answers]),
        np.array(seen),
        costs[:, 0] + costs[:, 1],
        costs[:, 2],
    )


def _cost(outcome: Outcome, model: str, price: TokenPrice) -> float:
    if model in outcome.cost:
        return float(outcome.cost[model])
    tokens = len(outcome.prompt) / CHARACTERS_PER_TOKEN
    return tokens * price.input + outcome.characters[model] / CHARACTERS_PER_TOKEN * price.output


def _seen(prompt_characters: int, answers: Sequence[str], characters: Sequence[int]) -> list[float]:
    """Return what is known when the cheap models have answered."""
    seen = [float(np.log1p(prompt_characters))]
    for answer, count in zip(answers, characters, strict=True):
        is_number = answer.lstrip("-").isdigit()
        seen += [float(np.log1p(count)), answer == "", is_number, float(np.log1p(len(answer)))]
    return [*seen, same_answer(*answers)]


def _fit(recorded: _Recorded) -> Gate:
    seen, gain = recorded.seen, recorded.strongest - recorded.first
    center, scale = seen.mean(axis=0), seen.std(axis=0) + 1e-9
    rows = (seen - center) / scale
    weights = np.linalg.solve(
        rows.T @ rows + PENALTY * np.eye(rows.shape[1]), rows.T @ (gain - gain.mean())
    )
    return Gate(center, scale, weights, float(gain.mean()))


def _folds(rows: int) -> IntArray:
    return np.random.default_rng(0).integers(0, FOLDS, rows)


def _held_out_gains(recorded: _Recorded, folds: IntArray) -> FloatArray:
    gains = np.zeros(len(folds))
    for fold in range(FOLDS):
        inside = folds == fold
        gate = _fit(recorded.at(~inside))
        gains[inside] = gate.gains(recorded.seen[inside])
    return gains


def _threshold(recorded: _Recorded, gains: FloatArray, quality: float) -> float:
    """Return the largest gain below which nothing need be escalated to keep the quality."""
    floor = quality * recorded.strongest.mean()
    candidates = np.quantile(gains[~recorded.agrees], np.linspace(1, 0, THRESHOLDS))
    for threshold in (np.inf, *candidates.tolist()):
        escalated = ~recorded.agrees & (gains >= threshold)
        if np.where(escalated, recorded.strongest, recorded.first).mean() >= floor:
            return float(threshold)
    return -np.inf


def _invalid(problem: str) -> InvalidTrace:
    return InvalidTrace(
        f"{problem}, too few for a cascade",
        field="data",
        value="outcomes",
        remedy="give JSON lines with scores, ans and out_chars of three models that have prices, or"
        " name a dearer one as the strongest",
    )
