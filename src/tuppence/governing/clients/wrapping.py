"""`govern`: a user's client, as an instance of a subclass of its own class.

The packages of Anthropic and OpenAI send everything through one method, `_request` of the one and
`request` of the other, which makes the attempts, hand each answer to `_process_response`, and wait
in `_sleep_for_retry` between two attempts. Those, `copy` and `close` are all that is overridden, so
that whatever a client offers is governed or works as before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple, TypeVar, Unpack

import msgspec

from tuppence.errors import InvalidInput, InvalidRequest
from tuppence.governing.attempts import may_be_billed
from tuppence.governing.batches import results_provider
from tuppence.governing.clients.exchanges import (
    AsyncExchange,
    AsyncResultsExchange,
    Exchange,
    ResultsExchange,
)
from tuppence.governing.endpoints import Endpoint, batch_provider_of, endpoint_of
from tuppence.governing.governor import AsyncGovernor, Governor
from tuppence.governing.steps import GovernOptions

C = TypeVar("C")

_CLIENTS = ("Anthropic", "AsyncAnthropic", "OpenAI", "AsyncOpenAI")
_SENDING = {"anthropic": "_request", "openai": "request"}
"""The method of each package that makes the attempts of one request."""
_NEVER_CONNECTED = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
_current: ContextVar[Any] = ContextVar("tuppence_exchange", default=None)
"""The exchange whose answer the package is about to process, in this thread or task."""


class _Asked(NamedTuple):
    """A request of a client that is governed."""

    endpoint: Endpoint
    body: Mapping[str, Any]


class _Batch(NamedTuple):
    """A batch that a client is about to have made."""

    provider: str
    requests: Sequence[Mapping[str, Any]]
    """Empty where the provider has them in a file."""


def govern(client: C, **options: Unpack[GovernOptions]) -> C:
    """Return the same client, with every call attributed, held for, booked and settled.

    `client` is an `Anthropic`, `AsyncAnthropic`, `OpenAI` or `AsyncOpenAI`, which stays as it is;
    the two share their connections, so closing the one closes them for the other. Options are those
    of `GovernOptions`. A call that does not fit a budget raises BudgetExceeded before anything is
    sent.

    Raises InvalidInput, InvalidMoney, DatabaseUnreachable, SchemaMismatch.
    """
    package = _package_of(client)
    if "_governor" in vars(client):
        raise InvalidInput(
            "is governed already",
            field="client",
            value=type(client).__name__,
            remedy="govern the client that it was made of, or use tuppence.scope",
        )
    is_async = hasattr(client, "__aenter__")
    governor = AsyncGovernor(**options) if is_async else Governor(**options)
    base: type = type(client)
    governed: C = client.copy()  # type: ignore[attr-defined]
    return _made(governed, _governed_class(base, package, is_async=is_async), governor)


def _made(client: C, kind: type, governor: Governor | AsyncGovernor) -> C:
    client.__class__ = kind
    vars(client)["_governor"] = governor
    return client


def _package_of(client: object) -> ModuleType:
    """Return the package of a client; raise InvalidInput for what cannot be governed."""
    modules = [kind.__module__ for kind in type(client).__mro__]
    names = [kind.__name__ for kind in type(client).__mro__]
    package = next((name.partition(".")[0] for name in modules if _is_of_package(name)), "")
    other_cloud = any(_is_of_package(name) and ".lib." in name for name in modules)
    if package and not other_cloud and any(name in _CLIENTS for name in names):
        return sys.modules[package]
    raise InvalidInput(
        "is billed by another cloud, which is not governed"
        if other_cloud
        else "is no client that can be governed",
        field="client",
        value=type(client).__name__,
        remedy=f"give one of {', '.join(_CLIENTS)}; book other answers with log_response",
    )


def _is_of_package(module: str) -> bool:
    return module.partition(".")[0] in _SENDING


@cache
def _governed_class(base: type, package: ModuleType, *, is_async: bool) -> type:
    """Return a subclass of a client's class whose calls are governed."""
    own = _async_methods(base, package) if is_async else _methods(base, package)
    about = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (base,), {**about, "__doc__": base.__doc__, **own})


@contextmanager
def _processed_by(exchange: object) -> Iterator[None]:
    """Let an exchange, or nothing, have the answer to the request that is sent inside."""
    token = _current.set(exchange)
    try:
        yield
    finally:
        _current.reset(token)


def _asked(options: Any) -> _Asked | None:
    """Return what a client is about to send, None where it is not governed.

    Raises InvalidRequest where nobody can tell what would be billed.
    """
    endpoint = endpoint_of(options.method, str(options.url))
    return None if endpoint is None else _Asked(endpoint, _body_of(options))


def _body_of(options: Any) -> Mapping[str, Any]:
    """Return the request in whichever of its forms the client was given it."""
    body = options.json_data if options.content is None else options.content
    if isinstance(body, bytes | bytearray | str):
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            body = msgspec.json.decode(body)
    if body is None:
        body = {}
    if not isinstance(body, Mapping):
        raise InvalidRequest(
            "is no JSON object, so nothing bounds what it costs",
            field="request",
            value=type(body).__name__,
            remedy="give the body as a dictionary",
        )
    return {**body, **options.extra_json} if options.extra_json else body


def _to_send(options: Any, asked: _Asked, request: dict[str, Any]) -> Any:
    """Return the options with a request that was changed; the very same ones where it was not."""
    if request == asked.body:
        return options
    changed = {"json_data": request, "extra_json": None, "content": None}
    return options.model_copy(update=changed)


def _batch_of(options: Any) -> _Batch | None:
    """Return the batch that a request makes, None for another request."""
    provider = batch_provider_of(options.method, str(options.url))
    if provider is None:
        return None
    items = _body_of(options).get("requests")
    rows = items if isinstance(items, list | tuple) else ()
    asked = [one.get("params") for one in rows if isinstance(one, Mapping)]
    return _Batch(provider, [one for one in asked if isinstance(one, Mapping)])


def _may_be_billed(response: Any, error: BaseException | None, package: ModuleType) -> bool:
    """Tell of an attempt without an answer of the model whether there may have been one."""
    if response is not None:
        return may_be_billed(package.__name__, response.status_code)
    while error is not None:
        if type(error).__name__ in _NEVER_CONNECTED:
            return False
        error = error.__cause__
    return True


def _copy_of(client: Any, base: type, options: Mapping[str, Any]) -> Any:
    """Return a governed copy; it is made by the base class, which asks for its own exact type."""
    plain: Any = object.__new__(base)
    vars(plain).update(vars(client))
    return _made(plain.copy(**options), type(client), client._governor)  # noqa: SLF001 - ours


def _methods(base: Any, package: ModuleType) -> dict[str, Any]:
    sending = _SENDING[package.__name__]
    send = getattr(base, sending)

    def request(self: Any, cast_to: Any, options: Any, **more: Any) -> Any:
        governor: Governor = self._governor
        asked = _asked(options)
        if asked is None:
            batch = _batch_of(options)
            if batch is not None:
                governor.check_batch(*batch)
            results = results_provider(options.method, str(options.url))
            with _processed_by(results and ResultsExchange(governor, results)):
                return send(self, cast_to, options, **more)
        call = governor.open(asked.endpoint, asked.body)
        exchange = Exchange(governor, call)
        try:
            with _processed_by(exchange):
                answer = send(self, cast_to, _to_send(options, asked, call.request), **more)
        except BaseException as error:
            exchange.failed(error, package)
            raise
        exchange.answered()
        return answer

    def process_response(self: Any, *, response: Any, **more: Any) -> Any:
        exchange: Exchange | ResultsExchange | None = _current.get()
        if exchange is not None and response.is_success:
            exchange.received(response)
        return base._process_response(self, response=response, **more)  # noqa: SLF001

    def copy(self: Any, **options: Any) -> Any:
        return _copy_of(self, base, options)

    def close(self: Any) -> None:
        base.close(self)
        self._governor.close()

    own = {sending: request, "_process_response": process_response, "close": close}
    return {
        **own,
        "_sleep_for_retry": _sleep_for_retry(base, package),
        "copy": copy,
        "with_options": copy,
    }


def _async_methods(base: Any, package: ModuleType) -> dict[str, Any]:
    sending = _SENDING[package.__name__]
    send = getattr(base, sending)

    async def request(self: Any, cast_to: Any, options: Any, **more: Any) -> Any:
        governor: AsyncGovernor = self._governor
        asked = _asked(options)
        if asked is None:
            batch = _batch_of(options)
            if batch is not None:
                await governor.check_batch(*batch)
            results = results_provider(options.method, str(options.url))
            with _processed_by(results and AsyncResultsExchange(governor, results)):
                return await send(self, cast_to, options, **more)
        call = await governor.open(asked.endpoint, asked.body)
        exchange = AsyncExchange(governor, call)
        try:
            with _processed_by(exchange):
                answer = await send(self, cast_to, _to_send(options, asked, call.request), **more)
        except BaseException as error:
            await exchange.failed(error, package)
            raise
        await exchange.answered()
        return answer

    async def process_response(self: Any, *, response: Any, **more: Any) -> Any:
        exchange: AsyncExchange | AsyncResultsExchange | None = _current.get()
        if exchange is not None and response.is_success:
            await exchange.received(response)
        return await base._process_response(self, response=response, **more)  # noqa: SLF001

    def copy(self: Any, **options: Any) -> Any:
        return _copy_of(self, base, options)

    async def close(self: Any) -> None:
        await base.close(self)
        await self._governor.close()

    own = {sending: request, "_process_response": process_response, "close": close}
    return {
        **own,
        "_sleep_for_retry": _async_sleep_for_retry(base, package),
        "copy": copy,
        "with_options": copy,
    }


def _sleep_for_retry(base: Any, package: ModuleType) -> Any:
    """Return what a client does between attempts: hold anew where the last one may be billed."""

    def sleep_for_retry(self: Any, *, response: Any, **more: Any) -> None:
        exchange = _current.get()
        if isinstance(exchange, Exchange) and _may_be_billed(response, sys.exc_info()[1], package):
            self._governor.attempt_again(exchange.call)
        base._sleep_for_retry(self, response=response, **more)  # noqa: SLF001

    return sleep_for_retry


def _async_sleep_for_retry(base: Any, package: ModuleType) -> Any:
    """Return the same for asyncio."""

    async def sleep_for_retry(self: Any, *, response: Any, **more: Any) -> None:
        exchange = _current.get()
        if isinstance(exchange, AsyncExchange) and _may_be_billed(
            response, sys.exc_info()[1], package
        ):
            await self._governor.attempt_again(exchange.call)
        await base._sleep_for_retry(self, response=response, **more)  # noqa: SLF001

    return sleep_for_retry
