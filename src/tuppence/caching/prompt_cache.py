"""PromptCache: cached calls as the specification shows them, and its async twin.

Dollars are floats, each the correctly rounded value of the exact integer beside it (`..._nanos`).
Errors are those of `tuppence.errors`; a ProviderError tells in `metered` what was billed all the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypedDict, Unpack

from tuppence.adapters.anthropic import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT_SECONDS,
    AnthropicProvider,
    AsyncAnthropicProvider,
    OnText,
    ProviderResponse,
)
from tuppence.caching.efficiency import CacheEfficiency, analyze_cache_efficiency
from tuppence.caching.history import CacheHistory
from tuppence.caching.kept_prompts import KeptPrompts
from tuppence.caching.planner import TTLS, CachePlan, check_choice, plan
from tuppence.core.money import to_dollars
from tuppence.core.price_book import PriceBook
from tuppence.core.usage import MeteredResponse, Usage
from tuppence.errors import InvalidInput, ProviderError
from tuppence.language import translator
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

DEFAULT_MODEL = "claude-sonnet-5-5"
DEFAULT_MAX_TOKENS = 1024
PROVIDER = "anthropic"


class CacheOptions(TypedDict, total=False):
    """What a cache can be told beside its key; all of it by keyword."""

    model: str
    """For requests that name none; claude-sonnet-5-5."""
    max_tokens: int
    """For requests that do not say; 1,024."""
    ttl: str
    """"auto" (default), "5m" or "1h"."""
    base_url: str | None
    """Another place to send requests to; what ANTHROPIC_BASE_URL names."""
    history: CacheHistory | None
    """What was learned, to be shared by caches of one workspace; one of its own."""
    keep_alive: bool
    """Remember prompts, so that `keep_alive()` can read them again; False."""
    timeout: float
    """Seconds for one attempt; 600."""
    max_retries: int
    """How often the provider's package tries again; 2."""
    now: Callable[[], datetime]
    """A clock, for tests."""


class CachedUsage(TypedDict):
    """Tokens of a call, in classes that never overlap."""

    input_tokens: int
    """Neither read nor written."""
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    """All that was written; the next two are its parts."""
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int


class CachedMessage(TypedDict):
    """An answer with what it cost and what the cache saved."""

    response: str
    """The text of the answer."""
    message: dict[str, Any]
    """The whole answer, as the provider gives it."""
    usage: CachedUsage
    cache_hit: bool
    """Whether anything was read from the cache."""
    estimated_savings: float | None
    """What the same tokens would have cost uncached, minus what they cost; below zero where
    something was written that was not read yet. None where the model has no known price."""
    estimated_savings_nanos: int | None
    actual_cost: float | None
    """None where the model has no known price."""
    actual_cost_nanos: int | None
    plan: CachePlan
    """Where the markers were put, and why."""


class KeptAlive(NamedTuple):
    """A cached prompt that was read again before it expired."""

    read_tokens: int
    cost_nanos: int | None


class _Wiring(NamedTuple):
    """What both facades share."""

    book: PriceBook
    history: CacheHistory
    now: Callable[[], datetime]
    model: str
    max_tokens: int
    ttl: str
    kept: KeptPrompts | None

    def plan(self, request: Mapping[str, Any], *, expect_reuse: str = "learned") -> CachePlan:
        """Return the request as it will be sent."""
        asked = {"model": self.model, "max_tokens": self.max_tokens, **request}
        model = self.book.real_model(str(asked["model"]))
        asked["model"] = model
        return plan(
            asked, model, self.history, at=self.now(), ttl=self.ttl, expect_reuse=expect_reuse
        )

    def record(self, planned: CachePlan) -> None:
        """Note that a request is being sent."""
        self.history.record(planned)
        if self.kept is not None:
            self.kept.watch(planned, self.history)

    def result(self, planned: CachePlan, response: ProviderResponse) -> CachedMessage:
        """Return what the caller gets."""
        metered = response.metered
        self.history.settle(planned, metered.parts[0].usage)
        return cached_message(response.message, metered, planned, self.book, self.now())

    def failed(self, planned: CachePlan, error: ProviderError) -> None:
        """Note that a request was not answered to its end."""
        if error.metered is None:
            self.history.unanswered(planned)
        else:
            self.history.settle(planned, error.metered.parts[0].usage)

    def efficiency(
        self,
        static_content_length: int,
        expected_requests: int,
        model: str | None,
        expected_spacing_seconds: float,
    ) -> CacheEfficiency:
        """Return what caching would save."""
        return analyze_cache_efficiency(
            self.book,
            self.book.real_model(model or self.model),
            static_content_length,
            expected_requests,
            at=self.now(),
            expected_spacing_seconds=expected_spacing_seconds,
            ttl=self.ttl,
            translate=translator(load_settings().language),
        )

    def due(self) -> list[dict[str, Any]]:
        """Return the requests that keep prompts alive and are due now."""
        return [] if self.kept is None else self.kept.due(self.now().timestamp())

    def kept_alive(self, response: ProviderResponse) -> KeptAlive:
        """Return what keeping a prompt alive has cost."""
        read = sum(part.usage.cache_read_tokens for part in response.metered.parts)
        return KeptAlive(read, cost_nanos(response.metered, self.book, self.now()))


class PromptCache:
    """Calls Anthropic models with cache markers where they are expected to save most.

    `api_key` is that of the settings by default; the options are those of `CacheOptions`. Raises
    MissingPackage without the package `anthropic`, InvalidInput for an unknown `ttl`.
    """

    def __init__(self, api_key: str | None = None, **options: Unpack[CacheOptions]) -> None:
        self._wiring = _wire(options)
        self._provider = AnthropicProvider(**_connection(api_key, options))

    @property
    def history(self) -> CacheHistory:
        """What was learned; another cache of the same API key may share it."""
        return self._wiring.history

    def create_cached_message(
        self,
        static_context: str,
        dynamic_query: str,
        *,
        on_text: OnText | None = None,
        **request_fields: Any,
    ) -> CachedMessage:
        """Ask about a context that stays the same: it is cached from the first call on.

        `request_fields` are fields of the Messages API (`model`, `max_tokens`, `temperature` ...).
        With `on_text` the answer is streamed. Raises InvalidInput for an empty context or query,
        InvalidRequest, ProviderError.
        """
        request = context_request(static_context, dynamic_query, request_fields)
        return self._send(self._wiring.plan(request, expect_reuse="static"), on_text)

    def create_multi_turn_conversation(
        self,
        system_prompt: str,
        conversation_history: Sequence[Mapping[str, Any]],
        new_message: str,
        *,
        on_text: OnText | None = None,
        **request_fields: Any,
    ) -> CachedMessage:
        """Go on with a conversation: system prompt and history are cached for the next turn.

        See `create_cached_message` for the other arguments and errors.
        """
        request = conversation_request(
            system_prompt, conversation_history, new_message, request_fields
        )
        return self._send(self._wiring.plan(request, expect_reuse="all"), on_text)

    def send(self, request: Mapping[str, Any], *, on_text: OnText | None = None) -> CachedMessage:
        """Send any Messages API request, with markers where they are expected to pay.

        Markers in the request stay as they are. Raises InvalidRequest, ProviderError.
        """
        return self._send(self._wiring.plan(request), on_text)

    def analyze_cache_efficiency(
        self,
        static_content_length: int,
        expected_requests: int,
        *,
        model: str | None = None,
        expected_spacing_seconds: float = 60.0,
    ) -> CacheEfficiency:
        """Return what caching a content of so many characters would save.

        See `tuppence.caching.efficiency.analyze_cache_efficiency`.
        """
        return self._wiring.efficiency(
            static_content_length, expected_requests, model, expected_spacing_seconds
        )

    def keep_alive(self) -> list[KeptAlive]:
        """Read again the cached prompts that expire soon, where that is expected to pay.

        Call it every few seconds; it returns what was read and what that cost.
        """
        wiring = self._wiring
        return [wiring.kept_alive(self._provider.send(request)) for request in wiring.due()]

    def close(self) -> None:
        """Close the connections."""
        self._provider.close()

    def _send(self, planned: CachePlan, on_text: OnText | None) -> CachedMessage:
        self._wiring.record(planned)
        try:
            response = self._provider.send(planned.request, on_text)
        except ProviderError as error:
            self._wiring.failed(planned, error)
            raise
        return self._wiring.result(planned, response)


class AsyncPromptCache:
    """The asynchronous twin of `PromptCache`: same arguments, same results."""

    def __init__(self, api_key: str | None = None, **options: Unpack[CacheOptions]) -> None:
        self._wiring = _wire(options)
        self._provider = AsyncAnthropicProvider(**_connection(api_key, options))

    @property
    def history(self) -> CacheHistory:
        """See `PromptCache.history`."""
        return self._wiring.history

    async def create_cached_message(
        self,
        static_context: str,
        dynamic_query: str,
        *,
        on_text: OnText | None = None,
        **request_fields: Any,
    ) -> CachedMessage:
        """See `PromptCache.create_cached_message`."""
        request = context_request(static_context, dynamic_query, request_fields)
        return await self._send(self._wiring.plan(request, expect_reuse="static"), on_text)

    async def create_multi_turn_conversation(
        self,
        system_prompt: str,
        conversation_history: Sequence[Mapping[str, Any]],
        new_message: str,
        *,
        on_text: OnText | None = None,
        **request_fields: Any,
    ) -> CachedMessage:
        """See `PromptCache.create_multi_turn_conversation`."""
        request = conversation_request(
            system_prompt, conversation_history, new_message, request_fields
        )
        return await self._send(self._wiring.plan(request, expect_reuse="all"), on_text)

    async def send(
        self, request: Mapping[str, Any], *, on_text: OnText | None = None
    ) -> CachedMessage:
        """See `PromptCache.send`."""
        return await self._send(self._wiring.plan(request), on_text)

    def analyze_cache_efficiency(
        self,
        static_content_length: int,
        expected_requests: int,
        *,
        model: str | None = None,
        expected_spacing_seconds: float = 60.0,
    ) -> CacheEfficiency:
        """See `PromptCache.analyze_cache_efficiency`."""
        return self._wiring.efficiency(
            static_content_length, expected_requests, model, expected_spacing_seconds
        )

    async def keep_alive(self) -> list[KeptAlive]:
        """See `PromptCache.keep_alive`."""
        wiring = self._wiring
        return [wiring.kept_alive(await self._provider.send(request)) for request in wiring.due()]

    async def close(self) -> None:
        """Close the connections."""
        await self._provider.close()

    async def _send(self, planned: CachePlan, on_text: OnText | None) -> CachedMessage:
        self._wiring.record(planned)
        try:
            response = await self._provider.send(planned.request, on_text)
        except ProviderError as error:
            self._wiring.failed(planned, error)
            raise
        return self._wiring.result(planned, response)


def context_request(
    static_context: str, dynamic_query: str, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a request that has the context as its system prompt; raise InvalidInput."""
    _check_text("static_context", static_context)
    _check_text("dynamic_query", dynamic_query)
    system: list[Any] = _blocks(fields.get("system"))
    system.append({"type": "text", "text": static_context})
    messages = [{"role": "user", "content": dynamic_query}]
    return {**fields, "system": system, "messages": messages}


def conversation_request(
    system_prompt: str,
    history: Sequence[Mapping[str, Any]],
    new_message: str,
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a request that goes on with a conversation; raise InvalidInput."""
    _check_text("new_message", new_message)
    messages = [*history, {"role": "user", "content": new_message}]
    system = _blocks(system_prompt)
    return {**fields, **({"system": system} if system else {}), "messages": messages}


def cached_message(
    message: dict[str, Any],
    metered: MeteredResponse,
    planned: CachePlan,
    book: PriceBook,
    at: datetime,
) -> CachedMessage:
    """Return an answer with its costs and savings at the prices of a moment."""
    cost = cost_nanos(metered, book, at)
    plain = cost_nanos(metered, book, at, uncached=True)
    savings = None if cost is None or plain is None else plain - cost
    usages = [part.usage for part in metered.parts]
    read = sum(usage.cache_read_tokens for usage in usages)
    written_5m = sum(usage.cache_write_5m_tokens for usage in usages)
    written_1h = sum(usage.cache_write_1h_tokens for usage in usages)
    return CachedMessage(
        response="".join(
            block["text"] for block in message["content"] if block.get("type") == "text"
        ),
        message=message,
        usage=CachedUsage(
            input_tokens=sum(usage.input_tokens for usage in usages),
            output_tokens=sum(usage.output_tokens for usage in usages),
            cache_read_tokens=read,
            cache_write_tokens=written_5m + written_1h,
            cache_write_5m_tokens=written_5m,
            cache_write_1h_tokens=written_1h,
        ),
        cache_hit=read > 0,
        estimated_savings=None if savings is None else to_dollars(savings),
        estimated_savings_nanos=savings,
        actual_cost=None if cost is None else to_dollars(cost),
        actual_cost_nanos=cost,
        plan=planned,
    )


def cost_nanos(
    metered: MeteredResponse, book: PriceBook, at: datetime, *, uncached: bool = False
) -> int | None:
    """Return what a response costs, or would have cost without caching; None if unpriced."""
    total = 0
    for part in metered.parts:
        usage = _uncached(part.usage) if uncached else part.usage
        cost = book.cost(
            usage, part.model, int(at.timestamp()), provider=PROVIDER, terms=part.terms
        )
        if cost is None:
            return None
        total += cost.total_nanos
    return total


def _uncached(usage: Usage) -> Usage:
    return Usage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        other_units=usage.other_units,
    )


def _wire(options: CacheOptions) -> _Wiring:
    ttl = options.get("ttl", "auto")
    check_choice("ttl", ttl, TTLS)
    history = options.get("history")
    clock = options.get("now", _utc_now)
    if history is None:
        history = CacheHistory(load_price_book(load_settings().cache_directory), now=clock)
    return _Wiring(
        book=history.book,
        history=history,
        now=clock,
        model=options.get("model", DEFAULT_MODEL),
        max_tokens=options.get("max_tokens", DEFAULT_MAX_TOKENS),
        ttl=ttl,
        kept=KeptPrompts() if options.get("keep_alive") else None,
    )


def _connection(api_key: str | None, options: CacheOptions) -> dict[str, Any]:
    """Return how the provider is reached; what is not given comes from the settings."""
    settings = load_settings()
    return {
        "api_key": api_key or settings.anthropic_api_key,
        "base_url": options.get("base_url") or settings.anthropic_base_url,
        "timeout": options.get("timeout", DEFAULT_TIMEOUT_SECONDS),
        "max_retries": options.get("max_retries", DEFAULT_MAX_RETRIES),
    }


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _check_text(field: str, text: object) -> None:
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput("is empty", field=field, value=text, remedy="give some text")


def _blocks(system: object) -> list[Any]:
    """Return a system prompt as a new list of blocks."""
    if isinstance(system, str):
        return [{"type": "text", "text": system}] if system.strip() else []
    return list(system) if isinstance(system, Sequence) else []
