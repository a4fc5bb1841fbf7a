"""ModelRouter: chooses the model of each call as the specification shows it, and its async twin.

Dollars are floats, each the correctly rounded value of the exact integer beside it (`..._nanos`).
Errors are those of `tuppence.errors`; what a failed call was billed is booked all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

from tuppence.adapters.anthropic import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT_SECONDS,
    AnthropicProvider,
    AsyncAnthropicProvider,
    OnText,
    ProviderResponse,
)
from tuppence.core.usage import MeteredResponse
from tuppence.cost_tracking.records import AttributionRecord
from tuppence.cost_tracking.service import AsyncCostTrackingService, CostTrackingService
from tuppence.errors import InvalidInput, ProviderError
from tuppence.model_router.cascade import CascadePlan, cascade, plan_cascade
from tuppence.model_router.checks import Check, SecondModel, Verifier, text_of
from tuppence.model_router.classifier import WEIGHTS_PATH
from tuppence.model_router.complexity import TaskComplexity
from tuppence.model_router.routing import (
    DEFAULT_OUTPUT_TOKENS,
    DEFAULT_TURNS,
    Conversation,
    CostEstimate,
    Explanation,
    Routed,
    Routing,
    utc_now,
)
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

__all__ = ["AsyncModelRouter", "ModelRouter", "RoutedMessage", "TaskComplexity"]

PROVIDER = "anthropic"
DEFAULT_MAX_TOKENS = 1024
DEFAULT_QUALITY = 0.98
STRATEGIES = ("direct", "cascade")

Strategy = Literal["direct", "cascade"]
Request = str | Mapping[str, Any]


class RouterOptions(TypedDict, total=False):
    """What a router can be told beside its key; all of it by keyword."""

    tiers: str | Path
    """"default", "chapter-12", or a TOML file of your own models."""
    quality: float
    """Share of the strongest model's quality that is kept; 0.98."""
    classifier: Path
    """Weights that `tuppence router train` has written; those of the package."""
    expected_output_tokens: int
    """Of an answer, for requests whose max_tokens is larger; 400."""
    expected_turns: int
    """That a conversation still has, for what moving it costs; 5."""
    attribution: AttributionRecord
    """Who booked calls are charged to."""
    base_url: str | None
    """Another place to send requests to; what ANTHROPIC_BASE_URL names."""
    timeout: float
    """Seconds for one attempt; 600."""
    max_retries: int
    """How often the provider's package tries again; 2."""
    now: Callable[[], datetime]
    """A clock, for tests."""


class CallMade(TypedDict):
    """One call to a provider."""

    model: str
    cost: float | None
    """None where the model has no known price."""
    cost_nanos: int | None


class RoutedMessage(TypedDict):
    """An answer, which model gave it, why, and what it cost."""

    response: str
    """The text of the answer."""
    message: dict[str, Any]
    """The whole answer, as the provider gives it."""
    model_used: str
    complexity: TaskComplexity
    reason: str
    explanation: Explanation
    actual_cost: CostEstimate | None
    """Of all calls together; None where a model has no known price."""
    calls: list[CallMade]
    """Every call that was made for this answer, checks and escalation included."""
    was_escalated: bool


class _Send(NamedTuple):
    """A call to make."""

    model: str
    request: dict[str, Any]
    on_text: OnText | None


class _Job(NamedTuple):
    """What is asked of `route_and_call`."""

    request: dict[str, Any]
    budget_mode: bool | None
    strategy: Strategy
    check: Check
    session: str | None
    requires: Sequence[str]
    on_text: OnText | None


class _Answered(NamedTuple):
    model: str
    response: ProviderResponse
    was_escalated: bool
    reason: str


_Calls = Generator[_Send, ProviderResponse, _Answered]


class _Router:
    """What needs no connection."""

    def __init__(self, options: RouterOptions) -> None:
        self._attribution = options.get("attribution", AttributionRecord())
        self._routing = Routing(
            book=load_price_book(load_settings().cache_directory),
            tiers=options.get("tiers", "default"),
            quality=options.get("quality", DEFAULT_QUALITY),
            classifier=options.get("classifier", WEIGHTS_PATH),
            output_tokens=options.get("expected_output_tokens", DEFAULT_OUTPUT_TOKENS),
            turns=options.get("expected_turns", DEFAULT_TURNS),
            now=options.get("now", utc_now),
        )

    def analyze_complexity(self, prompt: Request) -> TaskComplexity:
        """Return how hard a task is, by a prompt or a whole request.

        Any text has an answer: MODERATE where it is unlike anything in training. Raises
        InvalidInput for what is neither text nor request.
        """
        return self._routing.analyze(prompt)

    def select_model(self, complexity: TaskComplexity, budget_mode: bool = True) -> str:
        """Return the cheapest model that is able to do such tasks, or else the strongest one."""
        return self._routing.select(complexity, budget_mode)

    def explain(
        self,
        prompt: Request,
        *,
        budget_mode: bool | None = None,
        conversation: Conversation | None = None,
        requires: Sequence[str] = (),
    ) -> Explanation:
        """Return which model a request would go to, and why, without sending anything.

        `conversation` is where the turns before are cached. `requires` names capabilities that the
        model must have. Raises InvalidInput, NoCapableModel, UnknownPrice.
        """
        return self._routing.route(
            prompt, budget_mode=budget_mode, conversation=conversation, requires=requires
        ).explanation

    def estimate_cost(
        self, model: str, estimated_input_tokens: int, estimated_output_tokens: int
    ) -> CostEstimate:
        """Return what a call costs, uncached; raise UnknownPrice, InvalidUsage."""
        return self._routing.estimate(model, estimated_input_tokens, estimated_output_tokens)

    def _route(self, job: _Job) -> Routed:
        return self._routing.route(
            job.request,
            budget_mode=job.budget_mode,
            conversation=self._routing.conversation(job.session),
            requires=job.requires,
        )

    def _calls(self, job: _Job, routed: Routed) -> _Calls:
        """Yield the calls to make, and return the answer."""
        plan = None
        if job.strategy == "cascade" and job.budget_mode is None:
            plan = plan_cascade(routed.options, job.check)
        if plan is None or not plan.pays:
            model = routed.choice.option.model.id if plan is None else plan.last.model.id
            reason = routed.explanation.reason if plan is None else _NOT_STARTED
            response = yield self._send_to(model, job)
            return _Answered(model, response, was_escalated=False, reason=reason)
        return (yield from self._cascade(job, plan))

    def _cascade(self, job: _Job, plan: CascadePlan) -> _Calls:
        steps = cascade(plan, job.check, job.request)
        model = next(steps)
        while True:
            try:
                response = yield self._send_to(model, job)
            except ProviderError as error:
                model = steps.throw(error)
                continue
            try:
                model = steps.send(response)
            except StopIteration as done:
                return _Answered(*done.value)

    def _send_to(self, model: str, job: _Job) -> _Send:
        real = self._routing.book.real_model(model)
        return _Send(model, {**job.request, "model": real}, job.on_text)

    def _result(
        self, job: _Job, routed: Routed, answered: _Answered, made: list[_Made]
    ) -> RoutedMessage:
        self._routing.remember(job.session, answered.model, answered.response.metered)
        return RoutedMessage(
            response=text_of(answered.response.message),
            message=answered.response.message,
            model_used=answered.model,
            complexity=routed.explanation.complexity,
            reason=answered.reason,
            explanation=routed.explanation,
            actual_cost=self._routing.actual_cost(answered.model, [one.metered for one in made]),
            calls=[self._call_made(one) for one in made],
            was_escalated=answered.was_escalated,
        )

    def _call_made(self, made: _Made) -> CallMade:
        cost = self._routing.actual_cost(made.model, [made.metered])
        return CallMade(
            model=made.model,
            cost=None if cost is None else cost["total_cost"],
            cost_nanos=None if cost is None else cost["total_cost_nanos"],
        )

    def _charged_to(self, routed: Routed) -> AttributionRecord:
        complexity = AttributionRecord(task_complexity=routed.explanation.complexity.value)
        return {**complexity, **self._attribution}


class _Made(NamedTuple):
    """A call that was billed."""

    model: str
    metered: MeteredResponse


_NOT_STARTED = "a cascade would cost more than the strongest model alone"


class ModelRouter(_Router):
    """Sends each request to the cheapest model that is expected to do.

    `api_key` is that of the settings by default; with a `tracker` every call is booked. The options
    are those of `RouterOptions`. Raises MissingPackage without the package `anthropic`,
    InvalidInput for options that cannot be used, UnknownPrice for a model without a price.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        tracker: CostTrackingService | None = None,
        **options: Unpack[RouterOptions],
    ) -> None:
        super().__init__(options)
        self._tracker = tracker
        self._provider = AnthropicProvider(**_connection(api_key, options))

    def route_and_call(
        self,
        prompt: str | None = None,
        *,
        budget_mode: bool | None = None,
        strategy: Strategy = "direct",
        check: Check | Callable[[Mapping[str, Any], str], bool] | None = None,
        session: str | None = None,
        requires: Sequence[str] = (),
        on_text: OnText | None = None,
        **request_fields: Any,
    ) -> RoutedMessage:
        """Choose a model, ask it, and return the answer with what it cost.

        The request is a prompt or `messages`, with any fields of the Messages API. `budget_mode`:
        True takes the cheapest model of the task's tier, False the strongest, None (default) the
        best value that keeps the quality floor. `strategy="cascade"` asks a cheap model first and
        escalates where the `check` (default `SecondModel()`; or a function of request and text)
        does not accept. `session` names a conversation, which stays where its prompt cache is
        unless moving pays. With `on_text` the answer is streamed.

        Raises InvalidInput, NoCapableModel, ProviderError.
        """
        job = _job(prompt, budget_mode, strategy, check, session, requires, on_text, request_fields)
        routed = self._route(job)
        made: list[_Made] = []
        calls = self._calls(job, routed)
        try:
            call = next(calls)
            while True:
                try:
                    response = self._provider.send(call.request, call.on_text)
                except ProviderError as error:
                    self._book(call, error.metered, routed, made)
                    call = calls.throw(error)
                else:
                    self._book(call, response.metered, routed, made)
                    call = calls.send(response)
        except StopIteration as done:
            return self._result(job, routed, done.value, made)

    def close(self) -> None:
        """Close the connections; the tracker stays open."""
        self._provider.close()

    def _book(
        self, call: _Send, metered: MeteredResponse | None, routed: Routed, made: list[_Made]
    ) -> None:
        if metered is None:
            return
        made.append(_Made(call.model, metered))
        if self._tracker is not None:
            self._tracker.log_metered(metered, provider=PROVIDER, **self._charged_to(routed))


class AsyncModelRouter(_Router):
    """The asynchronous twin of `ModelRouter`: same arguments, same results."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        tracker: AsyncCostTrackingService | None = None,
        **options: Unpack[RouterOptions],
    ) -> None:
        super().__init__(options)
        self._tracker = tracker
        self._provider = AsyncAnthropicProvider(**_connection(api_key, options))

    async def route_and_call(
        self,
        prompt: str | None = None,
        *,
        budget_mode: bool | None = None,
        strategy: Strategy = "direct",
        check: Check | Callable[[Mapping[str, Any], str], bool] | None = None,
        session: str | None = None,
        requires: Sequence[str] = (),
        on_text: OnText | None = None,
        **request_fields: Any,
    ) -> RoutedMessage:
        """See `ModelRouter.route_and_call`."""
        job = _job(prompt, budget_mode, strategy, check, session, requires, on_text, request_fields)
        routed = self._route(job)
        made: list[_Made] = []
        calls = self._calls(job, routed)
        try:
            call = next(calls)
            while True:
                try:
                    response = await self._provider.send(call.request, call.on_text)
                except ProviderError as error:
                    await self._book(call, error.metered, routed, made)
                    call = calls.throw(error)
                else:
                    await self._book(call, response.metered, routed, made)
                    call = calls.send(response)
        except StopIteration as done:
            return self._result(job, routed, done.value, made)

    async def close(self) -> None:
        """Close the connections; the tracker stays open."""
        await self._provider.close()

    async def _book(
        self, call: _Send, metered: MeteredResponse | None, routed: Routed, made: list[_Made]
    ) -> None:
        if metered is None:
            return
        made.append(_Made(call.model, metered))
        if self._tracker is not None:
            await self._tracker.log_metered(metered, provider=PROVIDER, **self._charged_to(routed))


def _job(
    prompt: str | None,
    budget_mode: bool | None,
    strategy: Strategy,
    check: Check | Callable[[Mapping[str, Any], str], bool] | None,
    session: str | None,
    requires: Sequence[str],
    on_text: OnText | None,
    fields: dict[str, Any],
) -> _Job:
    if strategy not in STRATEGIES:
        raise InvalidInput(
            "is no strategy",
            field="strategy",
            value=strategy,
            remedy=f"choose one of {', '.join(STRATEGIES)}",
        )
    if "model" in fields:
        raise InvalidInput(
            "is what the router chooses",
            field="model",
            value=fields["model"],
            remedy="leave it out, or call the provider without the router",
        )
    if strategy == "cascade" and on_text is not None:
        raise InvalidInput(
            "cannot be used with a cascade: an answer is checked before it is given",
            field="on_text",
            value="a function",
            remedy='leave it out, or take strategy="direct"',
        )
    messages = list(fields.pop("messages", []))
    if prompt is not None:
        messages.append({"role": "user", "content": prompt})
    if not messages or (prompt is not None and not prompt.strip()):
        raise InvalidInput("is empty", field="prompt", value=prompt, remedy="give some text")
    request = {"max_tokens": DEFAULT_MAX_TOKENS, **fields, "messages": messages}
    return _Job(request, budget_mode, strategy, _as_check(check), session, requires, on_text)


def _as_check(check: Check | Callable[[Mapping[str, Any], str], bool] | None) -> Check:
    if check is None:
        return SecondModel()
    return check if isinstance(check, Check) else Verifier(check)


def _connection(api_key: str | None, options: RouterOptions) -> dict[str, Any]:
    """Return how the provider is reached; what is not given comes from the settings."""
    settings = load_settings()
    return {
        "api_key": api_key or settings.anthropic_api_key,
        "base_url": options.get("base_url") or settings.anthropic_base_url,
        "timeout": options.get("timeout", DEFAULT_TIMEOUT_SECONDS),
        "max_retries": options.get("max_retries", DEFAULT_MAX_RETRIES),
    }
