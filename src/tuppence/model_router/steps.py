"""What a routed call does, step by step, without doing it.

The steps are a generator that yields the calls to make and is sent their answers, so that callers
that wait and callers that await share all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from tuppence.adapters.anthropic import (
    OnText,
    ProviderResponse,
)
from tuppence.core.usage import MeteredResponse
from tuppence.cost_tracking.records import AttributionRecord
from tuppence.errors import InvalidInput, ProviderError, UnknownPrice
from tuppence.language import mark
from tuppence.model_router.cascade import CascadePlan, CascadeResult, cascade, plan_cascade
from tuppence.model_router.checks import Check, SecondModel, Verdict, Verifier, text_of, told_by
from tuppence.model_router.classifier import WEIGHTS_PATH
from tuppence.model_router.complexity import TaskComplexity
from tuppence.model_router.decision import strongest
from tuppence.model_router.request import read_request
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
from tuppence.model_router.shadow import Comparison, Qualities, Shadow
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

PROVIDER = "anthropic"
DEFAULT_MAX_TOKENS = 1024
DEFAULT_QUALITY = 0.98
STRATEGIES = ("direct", "cascade")

_logger = logging.getLogger(__name__)

Strategy = Literal["direct", "cascade"]
Purpose = Literal["answer", "shadow"]
Request = str | Mapping[str, Any]


class RouterOptions(TypedDict, total=False):
    """What a router can be told beside its key; all of it by keyword."""

    tiers: str | Path
    """"default", "chapter-12", or a TOML file of your own models."""
    quality: float
    """Share of the strongest model's quality that is kept; 0.98."""
    classifier: str | Path
    """Weights that `tuppence router train` has written; those of the package."""
    expected_output_tokens: int
    """Of an answer, for requests whose max_tokens is larger; 400."""
    expected_turns: int
    """That a conversation still has, for what moving it costs; 5."""
    attribution: AttributionRecord
    """Who booked calls are charged to."""
    shadow: Shadow | None
    """Compare a sample of routed answers with the strongest model's; roll back when they fall
    below the floor. None by default."""
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
    purpose: Purpose
    """"answer" (checks and escalation included), or "shadow": asked only to compare."""
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
    """Of all calls for this answer; None where a model has no known price."""
    calls: list[CallMade]
    """Every call that was made, checks, escalation and shadow calls included."""
    was_escalated: bool


class Send(NamedTuple):
    """A call to make."""

    model: str
    request: dict[str, Any]
    on_text: OnText | None
    purpose: Purpose = "answer"


class Job(NamedTuple):
    """What is asked of `route_and_call`."""

    request: dict[str, Any]
    budget_mode: bool | None
    strategy: Strategy
    check: Check
    session: str | None
    requires: Sequence[str]
    on_text: OnText | None


class Answered(NamedTuple):
    """The answer to give, and how it came about."""

    model: str
    response: ProviderResponse
    was_escalated: bool
    reason: str
    billed: Sequence[MeteredResponse]
    """Of all calls for it, those of checks included."""


Calls = Generator[Send, ProviderResponse, Answered]
Reply = ProviderResponse | ProviderError


def advance(calls: Calls, reply: Reply | None) -> Send | Answered:
    """Return the next call after the reply to the last one (None before the first), or the end."""
    try:
        if isinstance(reply, ProviderError):
            return calls.throw(reply)
        return next(calls) if reply is None else calls.send(reply)
    except StopIteration as done:
        answered: Answered = done.value
        return answered


class RoutedCalls:
    """What needs no connection."""

    def __init__(self, options: RouterOptions) -> None:
        _check_names(options)
        self._attribution = options.get("attribution", AttributionRecord())
        self._shadow = options.get("shadow")
        self._routing = Routing(
            book=load_price_book(load_settings().cache_directory),
            tiers=options.get("tiers", "default"),
            quality=options.get("quality", DEFAULT_QUALITY),
            classifier=options.get("classifier", WEIGHTS_PATH),
            output_tokens=options.get("expected_output_tokens", DEFAULT_OUTPUT_TOKENS),
            turns=options.get("expected_turns", DEFAULT_TURNS),
            now=options.get("now", utc_now),
        )
        if self._shadow is not None:
            self._routing.is_rolled_back = self._shadow.is_below_floor()

    @property
    def is_rolled_back(self) -> bool:
        """Whether measured quality fell below the floor, so that the strongest model gets all."""
        return self._routing.is_rolled_back

    def analyze_complexity(self, prompt: Request) -> TaskComplexity:
        """Return how hard a task is, by a prompt or a whole request.

        Any text has an answer: MODERATE where it is unlike anything in training. Raises
        InvalidInput for what is neither text nor request.
        """
        return self._routing.analyze(prompt)

    def select_model(self, complexity: TaskComplexity, budget_mode: bool = True) -> str:
        """Return the cheapest model of the first tier that is able, or else the strongest one.

        After a roll-back always the strongest. Raises InvalidInput for what is no complexity.
        """
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

    def _route(self, job: Job) -> Routed:
        return self._routing.route(
            job.request,
            budget_mode=job.budget_mode,
            conversation=self._routing.conversation(job.session),
            requires=job.requires,
        )

    def _calls(self, job: Job, routed: Routed) -> Calls:
        """Yield the calls to make, and return the answer."""
        answered = yield from self._answer(job, routed)
        was_straight = answered.model == strongest(routed.options).model.id
        was_straight = was_straight and not answered.was_escalated
        shadow = self._shadow
        if shadow is not None and not was_straight and shadow.is_drawn():
            try:
                yield from self._compare(job, routed, answered, shadow)
            except Exception:  # of the provider, a judge of the user's, the log: the answer is paid
                _logger.warning("a shadow comparison was lost", exc_info=True)
        return answered

    def _compare(
        self, job: Job, routed: Routed, answered: Answered, shadow: Shadow
    ) -> Generator[Send, ProviderResponse, None]:
        """Ask the strongest model too, let both answers be judged, and note what came of it.

        Where a cascade escalated to it, its answer is there already. Raises what a judge raises,
        ProviderError, InvalidInput, InvalidTrace, UnknownPrice.
        """
        top = strongest(routed.options).model.id
        response = answered.response
        if answered.model != top:
            response = yield self._send_to(top, job)._replace(purpose="shadow", on_text=None)
        texts = [told_by(one.message) for one in (answered.response, response)]
        judging = shadow.judge.compare(job.request, read_request(job.request).whole, *texts)
        try:
            request = next(judging)
            while True:
                said = yield Send(request["model"], request, None, "shadow")
                request = judging.send(text_of(said.message))
        except StopIteration as done:
            qualities: Qualities = done.value
        shadow.add(
            Comparison(
                at=self._routing.now().isoformat(),
                complexity=routed.explanation.complexity.value,
                model=answered.model,
                strongest=top,
                quality=qualities.routed,
                strongest_quality=qualities.strongest,
                cost_nanos=self._cost_nanos(answered.model, answered.billed),
                strongest_cost_nanos=self._cost_nanos(top, [response.metered]),
            )
        )
        self._routing.is_rolled_back = shadow.is_below_floor()

    def _cost_nanos(self, model: str, billed: Sequence[MeteredResponse]) -> int:
        cost = self._routing.actual_cost(model, billed)
        if cost is None:
            raise UnknownPrice(
                "was answered by a model without a known price",
                field="model",
                value=model,
                remedy="set one with `tuppence prices set`",
            )
        return cost["total_cost_nanos"]

    def _answer(self, job: Job, routed: Routed) -> Calls:
        reason = routed.explanation.reason
        if job.strategy == "cascade" and not self.is_rolled_back:
            known = [one.id for one in self._routing.models]
            plan = plan_cascade(routed.options, job.check, known)
            if plan is not None and plan.pays:
                return (yield from self._cascade(job, plan))
            reason = self._routing.translate(_TOO_FEW if plan is None else _TOO_DEAR)
        model = routed.choice.option.model.id
        response = yield self._send_to(model, job)
        return Answered(
            model, response, was_escalated=False, reason=reason, billed=[response.metered]
        )

    def _cascade(self, job: Job, plan: CascadePlan) -> Calls:
        steps = cascade(plan, job.check, job.request)
        model = next(steps)
        billed: list[MeteredResponse] = []
        while True:
            try:
                response = yield self._send_to(model, job)
            except ProviderError as error:
                if error.metered is not None:
                    billed.append(error.metered)
                model = steps.throw(error)
                continue
            billed.append(response.metered)
            try:
                model = steps.send(response)
            except StopIteration as done:
                result: CascadeResult = done.value
                return Answered(
                    result.model,
                    result.response,
                    was_escalated=result.was_escalated,
                    reason=self._told(result.verdict),
                    billed=billed,
                )

    def _told(self, verdict: Verdict) -> str:
        reason = self._routing.translate(verdict.reason)
        return f"{reason} ({verdict.detail})" if verdict.detail else reason

    def _send_to(self, model: str, job: Job) -> Send:
        real = self._routing.book.real_model(model)
        return Send(model, {**job.request, "model": real}, job.on_text)

    def _result(
        self, job: Job, routed: Routed, answered: Answered, made: list[Made]
    ) -> RoutedMessage:
        self._routing.remember(job.session, answered.model, answered.response.metered)
        return RoutedMessage(
            response=text_of(answered.response.message),
            message=answered.response.message,
            model_used=answered.model,
            complexity=routed.explanation.complexity,
            reason=answered.reason,
            explanation=routed.explanation,
            actual_cost=self._routing.actual_cost(
                answered.model, [one.metered for one in made if one.purpose == "answer"]
            ),
            calls=[self._call_made(one) for one in made],
            was_escalated=answered.was_escalated,
        )

    def _call_made(self, made: Made) -> CallMade:
        cost = self._routing.actual_cost(made.model, [made.metered])
        return CallMade(
            model=made.model,
            purpose=made.purpose,
            cost=None if cost is None else cost["total_cost"],
            cost_nanos=None if cost is None else cost["total_cost_nanos"],
        )

    def _charged_to(self, routed: Routed) -> AttributionRecord:
        complexity = AttributionRecord(task_complexity=routed.explanation.complexity.value)
        return {**complexity, **self._attribution}


class Made(NamedTuple):
    """A call that was billed."""

    model: str
    purpose: Purpose
    metered: MeteredResponse


_TOO_DEAR = mark("a cascade would cost more than the strongest model alone")
_TOO_FEW = mark("too few cheaper models can take the request for a cascade")


def job_of(
    prompt: str | None,
    fields: dict[str, Any],
    *,
    budget_mode: bool | None,
    strategy: Strategy,
    check: Check | Callable[[Mapping[str, Any], str], bool] | None,
    session: str | None,
    requires: Sequence[str],
    on_text: OnText | None,
) -> Job:
    """Return what is asked of a router; raise InvalidInput for what makes no sense."""
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
    if strategy == "cascade" and budget_mode is not None:
        raise InvalidInput(
            "cannot be used with a cascade, which begins with a cheap model by itself",
            field="budget_mode",
            value=budget_mode,
            remedy='leave it out, or take strategy="direct"',
        )
    if on_text is not None and not callable(on_text):
        raise InvalidInput(
            "is no function",
            field="on_text",
            value=on_text,
            remedy="give a function of a text, or leave it out",
        )
    if session is not None and not isinstance(session, str):
        raise InvalidInput(
            "is no name", field="session", value=session, remedy="give a text, or leave it out"
        )
    messages = _messages(prompt, fields.pop("messages", None))
    request = {"max_tokens": DEFAULT_MAX_TOKENS, **fields, "messages": messages}
    return Job(request, budget_mode, strategy, _as_check(check), session, requires, on_text)


def _messages(prompt: object, before: object) -> list[Any]:
    """Return the messages to send: those before, and the prompt as the newest."""
    if before is not None and not isinstance(before, Iterable):
        raise InvalidInput(
            "is no list of messages",
            field="messages",
            value=before,
            remedy="give a list of messages of the Messages API",
        )
    messages = [] if before is None else list(before)
    if prompt is None and messages:
        return messages
    if prompt is not None and not isinstance(prompt, str):
        raise InvalidInput(
            "is no text", field="prompt", value=prompt, remedy="give a text, or messages"
        )
    if prompt is None or not prompt.strip():
        raise InvalidInput("is empty", field="prompt", value=prompt, remedy="give some text")
    return [*messages, {"role": "user", "content": prompt}]


def _check_names(options: Mapping[str, Any]) -> None:
    known = RouterOptions.__annotations__
    for name in options:
        if name not in known:
            raise InvalidInput(
                "is no option of a router",
                field=name,
                value=options[name],
                remedy=f"check the spelling; there are {', '.join(known)}",
            )


def _as_check(check: object) -> Check:
    if check is None:
        return SecondModel()
    if isinstance(check, Check) and not isinstance(check, type):  # a class has its methods too
        return check
    if callable(check) and not isinstance(check, type):
        return Verifier(check)
    raise InvalidInput(
        "is neither a check nor a function",
        field="check",
        value=check,
        remedy="give one of tuppence.model_router.checks, or a function of request and text",
    )
