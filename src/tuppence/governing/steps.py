"""What is decided about a call before anything is held, and what is booked after it.

Nothing here waits for a provider or holds money, so threads and coroutines share all of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import msgspec

from tuppence.budget.calls import Amounts, CallPrices, CallWish
from tuppence.budget.throttler import ThrottlerOptions
from tuppence.caching.history import CacheHistory
from tuppence.caching.planner import CachePlan, plan
from tuppence.core.admission import rank_of
from tuppence.core.money import Money
from tuppence.core.periods import to_micros
from tuppence.core.price_book import PriceBook
from tuppence.core.usage import STANDARD_TERMS, MeteredResponse, Terms
from tuppence.cost_tracking.booking import Call, key_of_caller
from tuppence.cost_tracking.records import call_of
from tuppence.errors import (
    BudgetExceeded,
    DatabaseUnreachable,
    InvalidInput,
    InvalidRequest,
    UnknownPrice,
)
from tuppence.governing.bounds import MOST_OUTPUT_TOKENS, InputSize, input_size
from tuppence.governing.endpoints import CHAT, COMPLETIONS, MESSAGES, Endpoint
from tuppence.governing.scope import NOBODY, Payment, payment_of
from tuppence.model_router.classifier import WEIGHTS_PATH
from tuppence.model_router.routing import DEFAULT_OUTPUT_TOKENS, DEFAULT_TURNS, Routing
from tuppence.model_router.steps import DEFAULT_QUALITY
from tuppence.settings import load_settings

AUTO = "auto"

CacheMode = Literal["off", "auto"]
OnRefusal = Literal["raise", "downgrade"]

BOOK_AGE_SECONDS = 0.1
"""How old the prices may be by which a call is bounded; its cost is booked by those in force."""
LONGEST_BOOK_AGE_SECONDS = 2.0
"""The same for calls of coroutines, while newer ones are being read in the background."""

QUICK_BYTES = 32 * 1024
"""Of a request that a model is chosen or a cache planned for: that takes half a millisecond."""

_DEARER_TIERS = {"priority": "priority", "fast": "priority", "ultrafast": "ultrafast"}
"""By the names that requests have for them, as prices know them."""


class GovernOptions(ThrottlerOptions, total=False):
    """How calls are governed; all of it by keyword, beside the options of a throttler."""

    monthly_budget: Money | None
    """Of the throttler's own, as `BudgetThrottler` takes it; DEFAULT_MONTHLY_BUDGET, or none."""
    team: str
    """Who pays, where no `scope` says otherwise; so the next six."""
    project: str
    user: str
    session: str
    agent: str
    task_type: str
    tags: Sequence[str]
    priority: str
    """"low", "normal", "high" or "critical"; "normal"."""
    wait_seconds: float
    """How long a call waits for money that calls in flight hold; 0."""
    minimum_max_tokens: int | None
    """Where less money is left, lower the request's limit of output, down to this; None: never."""
    on_refusal: OnRefusal
    """"raise" BudgetExceeded, or "downgrade" to a cheaper Claude model that fits; "raise"."""
    cache: CacheMode
    """"auto" plans the cache markers of Claude requests; "off"."""
    quality: float
    """Of model="auto": share of the strongest model's quality that is kept; 0.98."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A call as it will be sent, with what it can cost."""

    endpoint: Endpoint
    request: dict[str, Any]
    size: InputSize
    wish: CallWish
    payment: Payment
    started_at: datetime
    is_routed: bool = False
    reason: str = ""
    """Why the router chose the model; empty where it was named."""
    adds_usage: bool = False
    """Whether the stream is asked for usage that the caller did not ask for."""
    plan: CachePlan | None = None
    unplanned: Mapping[str, Any]
    """The request without the markers of `plan`, which are for one model only."""

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.wish.model

    @property
    def input_tokens(self) -> int:
        """About how many tokens are sent."""
        return self.size.about

    def fitted(self, max_tokens: int) -> Prepared:
        """Return the call with less output, where the hold is for less."""
        if max_tokens >= self.wish.max_tokens or not self.endpoint.max_tokens_fields:
            return self
        field = _limit_field(self.endpoint, self.request)
        return replace(self, request={**self.request, field: max_tokens})


class Steps:
    """The decisions about calls: who pays, which model, which markers, what it can cost."""

    def __init__(
        self,
        options: GovernOptions,
        calls: CallPrices,
        now: Callable[[], datetime],
        book_age_seconds: float = BOOK_AGE_SECONDS,
    ) -> None:
        self._options = options
        self._calls = calls
        self._now = now
        self._outer = payment_of(
            options.get("team", ""),
            options.get("project", ""),
            options.get("user", ""),
            options.get("session", ""),
            options.get("agent", ""),
            options.get("task_type", ""),
            options.get("tags", ()),
            options.get("priority", "normal"),
        )
        rank_of(self._outer.priority)
        _check_choice("cache", options.get("cache", "off"), ("off", "auto"))
        _check_choice("on_refusal", options.get("on_refusal", "raise"), ("raise", "downgrade"))
        self._lock = threading.Lock()
        self._routing: Routing | None = None
        self._history: CacheHistory | None = None
        self._last_book: PriceBook | None = None
        self._read_at_seconds = float("-inf")
        self._book_age_seconds = book_age_seconds
        unreachable = options.get("when_unreachable") or load_settings().when_unreachable
        self.journals = unreachable == "journal"
        """Whether calls go on while the database is away."""

    @property
    def wait_seconds(self) -> float:
        """How long a call waits for money."""
        return self._options.get("wait_seconds", 0.0)

    def is_quick(self, asked: Mapping[str, Any]) -> bool:
        """Tell whether `prepare` takes no longer than handing it to another thread."""
        if not self.is_fresh:
            return False
        is_routed = asked.get("model") == AUTO
        if self._options.get("cache", "off") == "off" and not is_routed:
            return True
        if is_routed and self._routing is None:
            return False
        try:
            return len(msgspec.json.encode(asked)) <= QUICK_BYTES
        except (TypeError, ValueError, RecursionError):
            return False

    @property
    def is_fresh(self) -> bool:
        """Whether the next call needs nothing from the database before its hold."""
        return time.monotonic() - self._read_at_seconds < self._book_age_seconds

    @property
    def is_aging(self) -> bool:
        """Whether it is time to read the prices again."""
        return time.monotonic() - self._read_at_seconds > BOOK_AGE_SECONDS

    def refresh(self) -> None:
        """Read the prices again; without the database, the next call tells of it."""
        with suppress(DatabaseUnreachable):
            self._last_book = self._calls.ledger.price_book()
            self._read_at_seconds = time.monotonic()

    def payment(self, inner: Payment = NOBODY) -> Payment:
        """Return who pays, by the options and by what the scopes around the call say."""
        return self._outer.within(inner)

    def prepare(self, endpoint: Endpoint, asked: Mapping[str, Any], payment: Payment) -> Prepared:
        """Return a request as it will be sent; the one that was asked stays as it is.

        Raises InvalidRequest, NoCapableModel, UnknownPrice, InvalidInput.
        """
        try:
            return self.prepare_quickly(endpoint, asked, payment)
        except UnknownPrice:  # it may just have been set
            self._read_at_seconds = float("-inf")
            return self.prepare_quickly(endpoint, asked, payment)

    def prepare_quickly(
        self, endpoint: Endpoint, asked: Mapping[str, Any], payment: Payment
    ) -> Prepared:
        """Do the same by prices of a moment ago, without asking the database if they are fresh."""
        now = self._now()
        request = dict(asked)
        book = self._book()
        is_routed = request.get("model") == AUTO and endpoint is MESSAGES
        reason = ""
        if is_routed:
            request["model"], reason = self._routed(request, payment, book)
        else:
            request["model"] = _real_model(request, book)
        unplanned = request
        planned = self._planned(endpoint, request, now, book)
        if planned is not None:
            request = planned.request
        adds_usage = endpoint in (CHAT, COMPLETIONS) and _lacks_usage(request)
        if adds_usage:
            more = request.get("stream_options") or {}
            request["stream_options"] = {**more, "include_usage": True}
        size = input_size(request, endpoint.provider, _window(book, request["model"]))
        return Prepared(
            endpoint=endpoint,
            request=request,
            size=size,
            wish=self._wish(endpoint, request, size, book),
            payment=payment,
            started_at=now,
            is_routed=is_routed,
            reason=reason,
            adds_usage=adds_usage,
            plan=planned,
            unplanned=unplanned,
        )

    def cheaper(self, prepared: Prepared, error: BudgetExceeded) -> Prepared | None:
        """Return a refused call on a cheaper model that fits, where that is wished."""
        with suppress(UnknownPrice):  # of another model: the refusal stands without offers
            error.offers = self._calls.offers(prepared.wish, error.available_nanos)
        if self._options.get("on_refusal") != "downgrade" or prepared.endpoint is not MESSAGES:
            return None
        for offer in error.offers:
            if offer.model != prepared.model and offer.max_tokens >= prepared.wish.max_tokens:
                with suppress(UnknownPrice):  # on the terms of this request
                    cheaper = self._moved(prepared, offer.model)
                    if cheaper.wish.amounts.bound_nanos <= error.available_nanos and self._takes(
                        cheaper
                    ):
                        return cheaper
        return None

    def batch_wish(self, provider: str, requests: Sequence[Mapping[str, Any]]) -> Amounts:
        """Return what a batch costs at most; the least there is where nobody can tell.

        Raises InvalidRequest, UnknownPrice.
        """
        book = self._book()
        wishes = [self._batched(provider, request, book).amounts for request in requests]
        bound_nanos = max(sum(one.bound_nanos for one in wishes), 1)
        return Amounts(bound_nanos, 0, bound_nanos, "")

    def sent(self, prepared: Prepared) -> None:
        """Note that a call is being sent."""
        if prepared.plan is not None and self._history is not None:
            self._history.record(prepared.plan)

    def unanswered(self, prepared: Prepared) -> None:
        """Note that a call had no answer."""
        if prepared.plan is not None and self._history is not None:
            self._history.unanswered(prepared.plan)

    def bill(self, prepared: Prepared, metered: MeteredResponse, hold_id: str) -> Call:
        """Return what is booked for an answer, and learn from its counts.

        An answer without an id is booked under its hold, so that trying again books it once.
        """
        usage = metered.parts[0].usage
        if prepared.plan is not None and self._history is not None:
            self._history.settle(prepared.plan, usage)
        if prepared.is_routed and self._routing is not None:
            session = prepared.payment.attribution.session_id or None
            self._routing.remember(session, prepared.model, metered)
        return call_of(
            metered,
            prepared.endpoint.provider,
            prepared.payment.attribution,
            to_micros(prepared.started_at),
            key=None if metered.response_id else key_of_caller(f"hold {hold_id}"),
            governed=True,
        )

    def bills(
        self, answers: Sequence[MeteredResponse], provider: str, inner: Payment
    ) -> list[Call]:
        """Return what is booked for answers that nothing was held for."""
        payer, now_micros = self.payment(inner).attribution, to_micros(self._now())
        return [call_of(metered, provider, payer, now_micros) for metered in answers]

    def _batched(self, provider: str, request: Mapping[str, Any], book: PriceBook) -> CallWish:
        """Return one request of a batch, at the prices of batches."""
        endpoint = MESSAGES if provider == MESSAGES.provider else CHAT
        model = _real_model(request, book)
        size = input_size(request, provider, _window(book, model))
        return self._wish(endpoint, {**request, "model": model}, size, book, "batch")

    def _moved(self, prepared: Prepared, model: str) -> Prepared:
        """Return a call on another model, its cache planned anew."""
        book, request = self._book(), {**prepared.unplanned, "model": model}
        planned = self._planned(prepared.endpoint, request, prepared.started_at, book)
        sent = request if planned is None else planned.request
        size = input_size(sent, prepared.endpoint.provider, _window(book, model))
        wish = self._wish(prepared.endpoint, sent, size, book)
        return replace(
            prepared, request=sent, unplanned=request, plan=planned, size=size, wish=wish
        )

    def _takes(self, prepared: Prepared) -> bool:
        """Tell whether a model has room for a call, and nothing in it is for another one only."""
        window = _window(self._book(), prepared.model)
        needed = prepared.size.about + prepared.wish.max_tokens
        return (window is None or needed <= window) and _is_portable(prepared.request)

    def _routed(
        self, request: Mapping[str, Any], payment: Payment, book: PriceBook
    ) -> tuple[str, str]:
        """Return the model that the router chooses, by the provider's own name, and why."""
        routing = self._router(book)
        session = payment.attribution.session_id or None
        told = routing.route(request, conversation=routing.conversation(session)).explanation
        _ = routing.translate
        reason = _("{complexity} ({confidence} sure), to {model}: {reason}").format(
            complexity=_(told.complexity.value),
            confidence=f"{told.confidence:.0%}",
            model=told.model,
            reason=told.reason,
        )
        return book.real_model(told.model), reason

    def _planned(
        self, endpoint: Endpoint, request: dict[str, Any], now: datetime, book: PriceBook
    ) -> CachePlan | None:
        if endpoint is not MESSAGES or self._options.get("cache", "off") == "off":
            return None
        with self._lock:
            if self._history is None:
                self._history = CacheHistory(book, now=self._now)
        return plan(request, request["model"], self._history, at=now)

    def _router(self, book: PriceBook) -> Routing:
        """Return the router, made for the first call that needs one: it is slow to load."""
        with self._lock:
            if self._routing is None:
                self._routing = Routing(
                    book=book,
                    tiers=self._options.get("tiers", "default"),
                    quality=self._options.get("quality", DEFAULT_QUALITY),
                    classifier=WEIGHTS_PATH,
                    output_tokens=DEFAULT_OUTPUT_TOKENS,
                    turns=DEFAULT_TURNS,
                    now=self._now,
                )
            return self._routing

    def _book(self) -> PriceBook:
        """Return the price book that was in force a moment ago; what is booked is never behind.

        Where calls go on without a database, the last known.
        """
        if self._last_book is None or not self.is_fresh:
            try:
                self._last_book = self._calls.ledger.price_book()
                self._read_at_seconds = time.monotonic()
            except DatabaseUnreachable:
                if not self.journals or self._last_book is None:
                    raise
        return self._last_book

    def _wish(
        self,
        endpoint: Endpoint,
        request: Mapping[str, Any],
        size: InputSize,
        book: PriceBook,
        processing: str = "",
    ) -> CallWish:
        minimum = self._options.get("minimum_max_tokens")
        max_tokens = _max_tokens(endpoint, request)
        if minimum is not None:
            minimum = max(minimum, _least_output(request))
            minimum = min(minimum, max_tokens) if endpoint.max_tokens_fields else None
        count = max(_number_at(request, "n"), _number_at(request, "best_of"), 1)
        terms = _terms(request)
        if processing:  # which has no tiers
            terms = Terms(processing=processing, inference_geo=terms.inference_geo)
        return self._calls.wish(
            request["model"],
            size.most,
            max_tokens * count,
            minimum if count == 1 else None,
            provider=endpoint.provider,
            terms=terms,
            book=book,
        )


def _real_model(request: Mapping[str, Any], book: PriceBook) -> str:
    """Return the model that is asked, by the provider's own name."""
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest(
            "is not the name of a model", field="model", value=model, remedy="name a model"
        )
    return book.real_model(model)


def _max_tokens(endpoint: Endpoint, request: Mapping[str, Any]) -> int:
    """Return the most output that a request allows."""
    if not endpoint.has_output:
        return 0
    if not endpoint.max_tokens_fields:
        return MOST_OUTPUT_TOKENS
    value = request.get(_limit_field(endpoint, request))
    return value if type(value) is int and value >= 0 else MOST_OUTPUT_TOKENS


def _limit_field(endpoint: Endpoint, request: Mapping[str, Any]) -> str:
    fields = endpoint.max_tokens_fields
    return next((name for name in fields if request.get(name) is not None), fields[0])


def _least_output(request: Mapping[str, Any]) -> int:
    """Return the lowest limit of output that a provider accepts: its thinking must fit into it."""
    thinking = request.get("thinking")
    if not isinstance(thinking, Mapping) or thinking.get("type") != "enabled":
        return 0
    return _number_at(thinking, "budget_tokens") + 1


def _is_portable(request: Mapping[str, Any]) -> bool:
    """Tell whether any model takes a request: which ways of thinking one knows is not on record."""
    thinking, output = request.get("thinking"), request.get("output_config")
    is_still = not thinking or (
        isinstance(thinking, Mapping) and thinking.get("type") == "disabled"
    )
    return is_still and not (isinstance(output, Mapping) and output.get("effort"))


def _number_at(holder: Mapping[str, Any], name: str) -> int:
    value = holder.get(name)
    return value if type(value) is int and value > 0 else 0


def _terms(request: Mapping[str, Any]) -> Terms:
    """Return the terms that a request asks for, where they can cost more than the standard."""
    tier, speed = request.get("service_tier"), request.get("speed")
    region = request.get("inference_geo")
    if not (tier or speed or region):
        return STANDARD_TERMS
    return Terms(
        speed="fast" if speed == "fast" else "",
        service_tier=_DEARER_TIERS.get(tier, "") if isinstance(tier, str) else "",
        inference_geo="us" if region == "us" else "",
    )


def _lacks_usage(request: Mapping[str, Any]) -> bool:
    """Tell whether a stream of chat completions would end without telling its usage."""
    if not request.get("stream"):
        return False
    options = request.get("stream_options")
    if isinstance(options, Mapping):
        return not options.get("include_usage")
    return not options  # what is no object is for the provider to refuse


def _window(book: PriceBook, model: str) -> int | None:
    timeline = book.timeline(model)
    return None if timeline is None else timeline.listed.context_window


def _check_choice(field: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidInput(
            "is no choice", field=field, value=value, remedy=f"choose one of {', '.join(known)}"
        )
