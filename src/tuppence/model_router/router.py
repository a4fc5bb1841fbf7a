"""ModelRouter: chooses the model of each call as the specification shows it, and its async twin.

Dollars are floats, each the correctly rounded value of the exact integer beside it (`..._nanos`).
Errors are those of `tuppence.errors`; what a failed call was billed is booked all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from tuppence.adapters.anthropic import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT_SECONDS,
    AnthropicProvider,
    AsyncAnthropicProvider,
    OnText,
)
from tuppence.core.usage import MeteredResponse
from tuppence.cost_tracking.service import AsyncCostTrackingService, CostTrackingService
from tuppence.errors import ProviderError
from tuppence.model_router.checks import Check
from tuppence.model_router.complexity import TaskComplexity
from tuppence.model_router.routing import Routed
from tuppence.model_router.steps import (
    PROVIDER,
    Made,
    Reply,
    RoutedCalls,
    RoutedMessage,
    RouterOptions,
    Send,
    Strategy,
    advance,
    job_of,
)
from tuppence.settings import load_settings

__all__ = ["AsyncModelRouter", "ModelRouter", "RoutedMessage", "TaskComplexity"]


class ModelRouter(RoutedCalls):
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
        job = job_of(
            prompt,
            request_fields,
            budget_mode=budget_mode,
            strategy=strategy,
            check=check,
            session=session,
            requires=requires,
            on_text=on_text,
        )
        routed = self._route(job)
        made: list[Made] = []
        calls = self._calls(job, routed)
        step = advance(calls, None)
        while isinstance(step, Send):
            step = advance(calls, self._reply(step, routed, made))
        return self._result(job, routed, step, made)

    def close(self) -> None:
        """Close the connections; the tracker stays open."""
        self._provider.close()

    def _reply(self, call: Send, routed: Routed, made: list[Made]) -> Reply:
        """Make a call and book what it is billed, whatever interrupts it."""
        billed: list[MeteredResponse] = []
        try:
            return self._provider.send(call.request, call.on_text, billed.append)
        except ProviderError as error:
            return error
        finally:
            for metered in billed:
                made.append(Made(call.model, call.purpose, metered))
                self._book(metered, routed)

    def _book(self, metered: MeteredResponse, routed: Routed) -> None:
        if self._tracker is not None:
            self._tracker.log_metered(metered, provider=PROVIDER, **self._charged_to(routed))


class AsyncModelRouter(RoutedCalls):
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
        job = job_of(
            prompt,
            request_fields,
            budget_mode=budget_mode,
            strategy=strategy,
            check=check,
            session=session,
            requires=requires,
            on_text=on_text,
        )
        routed = self._route(job)
        made: list[Made] = []
        calls = self._calls(job, routed)
        step = advance(calls, None)
        while isinstance(step, Send):
            step = advance(calls, await self._reply(step, routed, made))
        return self._result(job, routed, step, made)

    async def close(self) -> None:
        """Close the connections; the tracker stays open."""
        await self._provider.close()

    async def _reply(self, call: Send, routed: Routed, made: list[Made]) -> Reply:
        """See `ModelRouter._reply`; booking goes on where it is cancelled itself."""
        billed: list[MeteredResponse] = []
        try:
            return await self._provider.send(call.request, call.on_text, billed.append)
        except ProviderError as error:
            return error
        finally:
            for metered in billed:
                made.append(Made(call.model, call.purpose, metered))
                await asyncio.shield(self._book(metered, routed))

    async def _book(self, metered: MeteredResponse, routed: Routed) -> None:
        if self._tracker is not None:
            await self._tracker.log_metered(metered, provider=PROVIDER, **self._charged_to(routed))


def _connection(api_key: str | None, options: RouterOptions) -> dict[str, Any]:
    """Return how the provider is reached; what is not given comes from the settings."""
    settings = load_settings()
    return {
        "api_key": api_key or settings.anthropic_api_key,
        "base_url": options.get("base_url") or settings.anthropic_base_url,
        "timeout": options.get("timeout", DEFAULT_TIMEOUT_SECONDS),
        "max_retries": options.get("max_retries", DEFAULT_MAX_RETRIES),
    }
