"""What both routers share: reading, predicting, choosing; everything but the calls themselves."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from tuppence.core.money import to_dollars
from tuppence.core.price_book import PriceBook
from tuppence.core.usage import MeteredResponse, Usage, check_count
from tuppence.errors import InvalidInput, NoCapableModel, UnknownPrice
from tuppence.language import mark, translator
from tuppence.model_router.classifier import Classifier, Prediction, load_classifier
from tuppence.model_router.complexity import TaskComplexity
from tuppence.model_router.decision import (
    CacheRates,
    Choice,
    Option,
    Reason,
    TokenPrice,
    choose,
    tried_tiers,
    turn_cost_nanos,
    value_of_right_answer,
)
from tuppence.model_router.reference import load_reference
from tuppence.model_router.request import ReadRequest, read_request
from tuppence.model_router.tiers import TIERS, Lack, RoutedModel, load_models
from tuppence.prices.model_facts import token_growth
from tuppence.settings import load_settings

DEFAULT_OUTPUT_TOKENS = 400
DEFAULT_TURNS = 5
USUAL_INPUT_TOKENS = 1_000
MOST_SESSIONS = 10_000
CACHE_SECONDS, LONG_CACHE_SECONDS = 300, 3_600
"""Prompt caches live so long after they were used last; the long ones where that is asked for."""
OLDEST_TOKENIZER = "claude-3-haiku"

REASONS: Mapping[Reason, str] = {
    Reason.QUALITY_FLOOR: mark("the best value for its cost that keeps the quality floor"),
    Reason.CHEAPEST_OF_TIER: mark("the cheapest model of the task's tier"),
    Reason.STRONGEST: mark("the strongest model was asked for"),
    Reason.UNFAMILIAR: mark("unlike anything in training, so the middle tier"),
    Reason.ONLY_CAPABLE: mark("the only model that can take the request"),
    Reason.CONVERSATION: mark("moving the conversation would cost more than it gains"),
    Reason.ROLLED_BACK: mark("measured quality is below the floor, so the strongest model"),
}


class Conversation(NamedTuple):
    """Where a conversation stands."""

    model: str
    cached_tokens: int
    """Of it, in the provider's prompt cache."""


class _Session(NamedTuple):
    """A conversation that is remembered while its prompt cache lives."""

    conversation: Conversation
    used_at_seconds: float
    lives_seconds: int


class CostEstimate(TypedDict):
    """What a call costs, in dollars; beside each amount the exact integer."""

    model: str
    input_cost: float
    output_cost: float
    total_cost: float
    input_cost_nanos: int
    output_cost_nanos: int
    total_cost_nanos: int


class Explanation(NamedTuple):
    """What the router thinks of a request."""

    model: str
    tier: str
    complexity: TaskComplexity
    p_right: dict[str, float]
    """p(right) of the tiers "weak", "middle" and "strong"."""
    expected_cost: dict[str, float]
    """Dollars, of the cheapest able model of each tier that has one."""
    expected_cost_nanos: dict[str, int]
    reason: str
    reason_code: Reason
    confidence: float
    """p(the complexity is the right one), 0..1."""
    is_unfamiliar: bool
    """Whether the prompt looks unlike anything that the classifier was trained on."""
    excluded: dict[str, str]
    """Models that cannot take the request, and why."""
    value_nanos: float | None
    """What a right answer is taken to be worth; None where no saving is worth a wrong one."""


class Routed(NamedTuple):
    """A decision with what it was made from."""

    choice: Choice
    options: list[Option]
    explanation: Explanation


class Routing:
    """Chooses models for requests; holds no connection. See `ModelRouter` for the options."""

    def __init__(
        self,
        *,
        book: PriceBook,
        tiers: str | Path,
        quality: float,
        classifier: str | Path,
        output_tokens: int,
        turns: int,
        now: Callable[[], datetime],
    ) -> None:
        _check_quality(quality)
        _check_count("expected_output_tokens", output_tokens)
        _check_count("expected_turns", turns)
        weights = _path_of(classifier)
        self.book = book
        self.models = load_models(tiers, book)
        self.translate = translator(load_settings().language)
        self.now = now
        self.is_rolled_back = False
        self._classifier: Classifier = load_classifier(weights)
        self._output_tokens = output_tokens
        self._turns = turns
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._growth = {
            model.id: float(token_growth(OLDEST_TOKENIZER, self.book.real_model(model.id)) or 1)
            for model in self.models
        }
        reference = load_reference(weights)
        self._tried_tiers = tried_tiers(reference)
        self.value_nanos = value_of_right_answer(
            reference,
            self.models,
            [self._token_price(model.id) for model in self.models],
            quality=quality,
            output_tokens=output_tokens,
        )

    def analyze(self, request: str | Mapping[str, Any]) -> TaskComplexity:
        """Return how hard a task is."""
        if isinstance(request, str):
            return complexity_of(self._classifier.predict(request))
        return complexity_of(self._predict(read_request(request)))

    def select(self, complexity: TaskComplexity, budget_mode: bool | None) -> str:
        """Return the model for a complexity: the cheapest able tier's, or the strongest."""
        costs = {model: self._usual_nanos(model.id) for model in self.models}
        choice = choose(
            [Option(model, 0.0, cost, cost) for model, cost in costs.items()],
            TaskComplexity(complexity),
            value_nanos=self.value_nanos,
            budget_mode=budget_mode is not False,
            is_rolled_back=self.is_rolled_back,
        )
        return choice.option.model.id

    def route(
        self,
        request: str | Mapping[str, Any],
        *,
        budget_mode: bool | None = None,
        conversation: Conversation | None = None,
        requires: Sequence[str] = (),
    ) -> Routed:
        """Return the model for a request; raise InvalidInput, NoCapableModel."""
        read = read_request(request)
        prediction = self._predict(read)
        complexity = complexity_of(prediction)
        options, excluded = self._options(read, prediction, conversation, _names(requires))
        if not options:
            raise _no_model(excluded)
        choice = choose(
            options,
            complexity,
            value_nanos=self.value_nanos,
            budget_mode=budget_mode,
            is_familiar=prediction.is_familiar,
            is_rolled_back=self.is_rolled_back,
        )
        costs: dict[str, int] = {}
        for option in sorted(options, key=lambda one: -one.cost_nanos):
            costs[TIERS[option.model.tier]] = option.cost_nanos
        explanation = Explanation(
            model=choice.option.model.id,
            tier=TIERS[choice.option.model.tier],
            complexity=complexity,
            p_right=dict(zip(TIERS, prediction.p_right, strict=True)),
            expected_cost={tier: to_dollars(costs[tier]) for tier in TIERS if tier in costs},
            expected_cost_nanos={tier: costs[tier] for tier in TIERS if tier in costs},
            reason=self.translate(REASONS[choice.reason]),
            reason_code=choice.reason,
            confidence=prediction.needs[complexity.tier],
            is_unfamiliar=not prediction.is_familiar,
            excluded={model: lack.told(self.translate) for model, lack in excluded.items()},
            value_nanos=None if math.isinf(self.value_nanos) else self.value_nanos,
        )
        return Routed(choice, options, explanation)

    def estimate(self, model: str, input_tokens: int, output_tokens: int) -> CostEstimate:
        """Return what a call costs; raise UnknownPrice, InvalidUsage."""
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens).check()
        cost = self.book.cost(usage, model, int(self.now().timestamp()))
        if cost is None:
            raise _unpriced(model)
        return cost_estimate(model, cost.total_nanos - cost.output_nanos, cost.output_nanos)

    def actual_cost(self, model: str, metered: Sequence[MeteredResponse]) -> CostEstimate | None:
        """Return what responses cost; None where one has no known price."""
        inputs = outputs = 0
        at_seconds = int(self.now().timestamp())
        for part in (part for response in metered for part in response.parts):
            cost = self.book.cost(
                part.usage, part.model, at_seconds, provider="anthropic", terms=part.terms
            )
            if cost is None:
                return None
            inputs += cost.total_nanos - cost.output_nanos
            outputs += cost.output_nanos
        return cost_estimate(model, inputs, outputs)

    def conversation(self, session: str | None) -> Conversation | None:
        """Return where a session stands, while the provider's cache of it lives."""
        if session is None or session not in self._sessions:
            return None
        known = self._sessions[session]
        age_seconds = self.now().timestamp() - known.used_at_seconds
        return known.conversation if age_seconds <= known.lives_seconds else None

    def remember(self, session: str | None, model: str, metered: MeteredResponse) -> None:
        """Note which model a session is with, and how much of it is cached there."""
        if session is None:
            return
        usage = metered.parts[0].usage
        cached = usage.prompt_tokens - usage.input_tokens
        lives_seconds = _lives_seconds(usage, model, self._sessions.get(session))
        self._sessions[session] = _Session(
            Conversation(model, cached), self.now().timestamp(), lives_seconds
        )
        self._sessions.move_to_end(session)
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)

    def _predict(self, read: ReadRequest) -> Prediction:
        """Return what is expected; of the newest message and of the whole request, the mean."""
        newest = self._classifier.predict(read.newest)
        if read.whole == read.newest:
            return newest
        whole = self._classifier.predict(read.whole)
        pairs = zip((*newest[:3], *newest.needs), (*whole[:3], *whole.needs), strict=True)
        weak, middle, strong, *needs = ((one + other) / 2 for one, other in pairs)
        return Prediction(
            weak,
            middle,
            strong,
            (needs[0], needs[1], needs[2]),
            min(newest.distance, whole.distance),
        )

    def _options(
        self,
        read: ReadRequest,
        prediction: Prediction,
        conversation: Conversation | None,
        requires: frozenset[str],
    ) -> tuple[list[Option], dict[str, Lack]]:
        options: list[Option] = []
        excluded: dict[str, Lack] = {}
        output = min(self._output_tokens, read.max_tokens or self._output_tokens)
        home = self._home(conversation)
        for model in self.models:
            tokens = round(read.tokens * self._growth[model.id])
            lack = model.lacks(read, tokens, requires)
            if lack is not None:
                excluded[model.id] = lack
                continue
            cost = self.estimate(model.id, tokens, output)["total_cost_nanos"]
            turn: float = cost
            if conversation is not None and home is not None:
                grown = conversation.cached_tokens * self._growth[model.id] / self._growth[home.id]
                turn += self._turn_nanos(model, min(round(grown), tokens), stays=model is home)
            options.append(
                Option(
                    model,
                    prediction.p_right[model.tier],
                    cost,
                    turn,
                    is_home=model is home,
                    is_tried=model.tier in self._tried_tiers,
                )
            )
        return options, excluded

    def _home(self, conversation: Conversation | None) -> RoutedModel | None:
        """Return the model that a conversation is with; None for one that is not of the tiers."""
        if conversation is None:
            return None
        _check_conversation(conversation)
        real = self.book.real_model(conversation.model)
        return next((one for one in self.models if self.book.real_model(one.id) == real), None)

    def _turn_nanos(self, model: RoutedModel, cached_tokens: int, *, stays: bool) -> float:
        """Return by how much a turn of a cached conversation differs from an uncached one."""
        at_seconds = int(self.now().timestamp())
        plain, read, write = (
            self.book.cost(usage, model.id, at_seconds)
            for usage in (
                Usage(input_tokens=cached_tokens),
                Usage(cache_read_tokens=cached_tokens),
                Usage(cache_write_5m_tokens=cached_tokens),
            )
        )
        if not cached_tokens or plain is None or read is None or write is None:
            return 0.0
        rates = CacheRates(read.total_nanos / cached_tokens, write.total_nanos / cached_tokens)
        turn = turn_cost_nanos(rates, cached_tokens, self._turns, stays=stays)
        return turn - plain.total_nanos

    def _usual_nanos(self, model: str) -> int:
        """Return what a call of a usual size costs: for choices without a request."""
        tokens = round(USUAL_INPUT_TOKENS * self._growth[model])
        return self.estimate(model, tokens, self._output_tokens)["total_cost_nanos"]

    def _token_price(self, model: str) -> TokenPrice:
        estimate = self.estimate(model, 1_000, 1_000)
        return TokenPrice(
            self._growth[model] * estimate["input_cost_nanos"] / 1_000,
            estimate["output_cost_nanos"] / 1_000,
        )


def _lives_seconds(usage: Usage, model: str, before: _Session | None) -> int:
    """Return how long a cache lives: reading prolongs it by the time that it was written with."""
    if usage.cache_write_1h_tokens:
        return LONG_CACHE_SECONDS
    is_read = usage.cache_read_tokens and before and before.conversation.model == model
    return before.lives_seconds if before and is_read else CACHE_SECONDS


def complexity_of(prediction: Prediction) -> TaskComplexity:
    """Return the likeliest complexity; MODERATE for what is unlike anything seen."""
    if not prediction.is_familiar:
        return TaskComplexity.MODERATE
    needs = prediction.needs
    return tuple(TaskComplexity)[needs.index(max(needs))]


def cost_estimate(model: str, input_nanos: int, output_nanos: int) -> CostEstimate:
    """Return a cost in dollars and in nano-dollars."""
    return CostEstimate(
        model=model,
        input_cost=to_dollars(input_nanos),
        output_cost=to_dollars(output_nanos),
        total_cost=to_dollars(input_nanos + output_nanos),
        input_cost_nanos=input_nanos,
        output_cost_nanos=output_nanos,
        total_cost_nanos=input_nanos + output_nanos,
    )


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


def _names(requires: object) -> frozenset[str]:
    """Return the names of capabilities; one may stand alone."""
    names = [requires] if isinstance(requires, str) else requires
    if isinstance(names, Iterable):
        found = list(names)
        if all(isinstance(name, str) for name in found):
            return frozenset(found)
    raise InvalidInput(
        "is no list of names",
        field="requires",
        value=requires,
        remedy="give names of capabilities, as your tiers file has them",
    )


def _check_quality(quality: object) -> None:
    if not isinstance(quality, int | float) or isinstance(quality, bool) or not 0 < quality <= 1:
        raise InvalidInput(
            "is not a share of the strongest model's quality",
            field="quality",
            value=quality,
            remedy="give a number above 0 and up to 1",
        )


def _check_count(field: str, count: object) -> None:
    if type(count) is not int or count < 1:
        raise InvalidInput(
            "is no count", field=field, value=count, remedy="give a whole number from 1 on"
        )


def _check_conversation(conversation: object) -> None:
    if not isinstance(conversation, Conversation) or not isinstance(conversation.model, str):
        raise InvalidInput(
            "is none",
            field="conversation",
            value=conversation,
            remedy="give a Conversation(model, cached_tokens), or leave it out",
        )
    check_count("cached_tokens", conversation.cached_tokens)


def _path_of(classifier: object) -> Path:
    if isinstance(classifier, str | Path):
        return Path(classifier)
    raise InvalidInput(
        "is no file",
        field="classifier",
        value=classifier,
        remedy="name a file that `tuppence router train` has written",
    )


def _no_model(excluded: Mapping[str, Lack]) -> NoCapableModel:
    why = "; ".join(f"{model}: {lack.told()}" for model, lack in excluded.items())
    return NoCapableModel(
        f"can be taken by no model ({why})",
        field="prompt",
        value="the request",
        remedy="shorten it, ask for less, or add a model to the tiers",
    )


def _unpriced(model: str) -> UnknownPrice:
    return UnknownPrice(
        "has no known price",
        field="model",
        value=model,
        remedy="set one with `tuppence prices set`, or check the spelling",
    )
