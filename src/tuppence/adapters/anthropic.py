"""Calls to Anthropic through its official package, which is imported when the first is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from tuppence.core.usage import MeteredResponse
from tuppence.errors import (
    InvalidInput,
    InvalidRequest,
    MissingPackage,
    ProviderAuthenticationFailed,
    ProviderError,
    ProviderFailed,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRefusedRequest,
    ProviderUnreachable,
    StreamBroken,
)
from tuppence.providers.anthropic import read_response
from tuppence.providers.anthropic_stream import StreamedUsage

DEFAULT_TIMEOUT_SECONDS = 600.0
DEFAULT_MAX_RETRIES = 2

OLDER_FIELDS = frozenset({"temperature", "top_k", "top_p"})
"""Older models take them; the package has no arguments for them any more."""

OnText = Callable[[str], None]
OnMetered = Callable[[MeteredResponse], None]

ERRORS: Mapping[int, tuple[type[ProviderError], str]] = {
    400: (ProviderRefusedRequest, "change the request as the message says"),
    401: (ProviderAuthenticationFailed, "check the API key"),
    403: (ProviderAuthenticationFailed, "check what the API key may do"),
    404: (ProviderRefusedRequest, "check the model's id: `tuppence prices show` lists models"),
    413: (ProviderRefusedRequest, "send a smaller request"),
    422: (ProviderRefusedRequest, "change the request as the message says"),
    429: (ProviderRateLimited, "wait, then try again"),
    529: (ProviderOverloaded, "wait, then try again"),
}


class ProviderResponse(NamedTuple):
    """A provider's answer."""

    message: dict[str, Any]
    """As the API gives it."""
    metered: MeteredResponse


class AnthropicProvider:
    """Sends Messages API requests, given as plain dictionaries.

    `base_url` is another place to send them to, `timeout` seconds for one attempt, `max_retries`
    how often the package tries again after 408, 409, 429, 5xx and broken connections.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        max_retries: int = DEFAULT_MAX_RETRIES,
    ) -> None:
        self._sdk = _sdk()
        self._client = self._sdk.Anthropic(
            api_key=api_key, base_url=base_url, timeout=timeout, max_retries=max_retries
        )

    def send(
        self,
        request: Mapping[str, Any],
        on_text: OnText | None = None,
        on_metered: OnMetered | None = None,
    ) -> ProviderResponse:
        """Send a request; with `on_text`, as a stream whose text is handed over as it comes.

        `on_metered` is told once what was billed, however the call ends: with an answer, an error,
        or an exception that interrupts it (from `on_text`, KeyboardInterrupt). Not where nothing
        was. Raises a ProviderError, whose `metered` tells the same, and InvalidRequest for what
        cannot be sent.
        """
        if on_text is None:
            with _translated(self._sdk):
                message = self._client.messages.create(**_arguments(self._client, request))
            return _response(message.to_dict(mode="json"), on_metered)
        reading = _Reading(on_text)
        with (
            _metered(reading, on_metered),
            _translated(self._sdk, reading),
            self._client.messages.stream(**_arguments(self._client, request)) as stream,
        ):
            for event in stream:
                reading.add(event)
            return reading.response(stream.current_message_snapshot)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncAnthropicProvider:
    """The asynchronous twin of `AnthropicProvider`."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        max_retries: int = DEFAULT_MAX_RETRIES,
    ) -> None:
        self._sdk = _sdk()
        self._client = self._sdk.AsyncAnthropic(
            api_key=api_key, base_url=base_url, timeout=timeout, max_retries=max_retries
        )

    async def send(
        self,
        request: Mapping[str, Any],
        on_text: OnText | None = None,
        on_metered: OnMetered | None = None,
    ) -> ProviderResponse:
        """See `AnthropicProvider.send`; asyncio.CancelledError interrupts too."""
        if on_text is None:
            with _translated(self._sdk):
                message = await self._client.messages.create(**_arguments(self._client, request))
            return _response(message.to_dict(mode="json"), on_metered)
        reading = _Reading(on_text)
        with _metered(reading, on_metered), _translated(self._sdk, reading):
            async with self._client.messages.stream(**_arguments(self._client, request)) as stream:
                async for event in stream:
                    reading.add(event)
                return reading.response(stream.current_message_snapshot)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class _Reading:
    """What has arrived of a stream."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._usage = StreamedUsage()
        self._pieces: list[str] = []
        self._has_started = self._has_ended = False

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def metered(self) -> MeteredResponse | None:
        """Return what was counted so far, None before anything was."""
        return self._usage.response() if self._has_started else None

    def add(self, event: Any) -> None:
        """Take in an event of the package's stream."""
        if event.type == "text":
            self._pieces.append(event.text)
            self._on_text(event.text)
        elif event.type in {"message_start", "message_delta"}:
            self._usage.add(event.to_dict(mode="json"))
            self._has_started = True
        elif event.type == "message_stop":
            self._has_ended = True

    def response(self, message: Any) -> ProviderResponse:
        """Return the whole answer; raise StreamBroken where its end is missing."""
        if not self._has_ended:
            raise self.broken("the connection was closed before the end")
        metered = self.metered()
        assert metered is not None  # noqa: S101 - a stream that ended has started
        return ProviderResponse(message.to_dict(mode="json"), metered)

    def broken(self, why: str) -> StreamBroken:
        """Return the error that tells how far the stream came."""
        error = StreamBroken(
            f"broke off: {why}",
            field="stream",
            value=f"{len(self.text)} characters",
            remedy="`text` has what arrived, `metered` what was counted; ask again for the rest",
            provider_message=why,
            metered=self.metered(),
        )
        error.text = self.text
        return error


def _sdk() -> ModuleType:
    try:
        import anthropic  # noqa: PLC0415 - an extra, and slow to load
    except ModuleNotFoundError as error:
        raise MissingPackage(
            "is not installed",
            field="package",
            value="anthropic",
            remedy='install "tuppence[anthropic]"',
        ) from error
    return anthropic


def _arguments(client: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request as arguments of the package; raise InvalidRequest for unknown fields."""
    known = inspect.signature(client.messages.create).parameters
    arguments = {name: value for name, value in request.items() if name in known}
    others = {name: value for name, value in request.items() if name not in known}
    for name in others.keys() - OLDER_FIELDS:
        if name not in inspect.signature(client.beta.messages.create).parameters:
            raise InvalidRequest(
                "is no field of the Messages API",
                field=name,
                value=others[name],
                remedy="check the spelling; what the package does not know goes into extra_body",
            )
    arguments.pop("stream", None)
    body = {**others, **(arguments.pop("extra_body", None) or {})}
    return {**arguments, "extra_body": body} if body else arguments


def _response(message: dict[str, Any], on_metered: OnMetered | None) -> ProviderResponse:
    metered = read_response(message)
    if on_metered is not None:
        on_metered(metered)
    return ProviderResponse(message, metered)


@contextmanager
def _metered(reading: _Reading, on_metered: OnMetered | None) -> Iterator[None]:
    """Tell what was counted of a stream, whatever ends it."""
    try:
        yield
    finally:
        metered = reading.metered()
        if metered is not None and on_metered is not None:
            on_metered(metered)


@contextmanager
def _translated(sdk: ModuleType, reading: _Reading | None = None) -> Iterator[None]:
    """Turn the package's errors into ours, with what was billed of a stream until then."""
    import httpx2  # noqa: PLC0415 - comes with the package

    try:
        yield
    except sdk.APIStatusError as error:
        raise _status_error(error, reading) from error
    except (sdk.APIConnectionError, httpx2.TransportError) as error:
        if reading is not None and reading.metered() is not None:
            raise reading.broken(str(error) or type(error).__name__) from error
        raise _unreachable(error) from error
    except (TypeError, ValueError, RecursionError) as error:
        is_ours = isinstance(error, InvalidInput)
        if is_ours or (reading is not None and reading.metered() is not None):  # or of on_text
            raise
        raise _unsent(error) from error


def _status_error(error: Any, reading: _Reading | None) -> ProviderError:
    status = int(error.status_code)
    body = error.body if isinstance(error.body, Mapping) else {}
    told = body.get("error") if isinstance(body.get("error"), Mapping) else {}
    message = str((told or {}).get("message") or error.message)
    if reading is not None and reading.metered() is not None:
        return reading.broken(message)  # an error event in the middle of a stream
    kind, remedy = ERRORS.get(status, (ProviderFailed, "try again later"))
    return kind(
        f"was not answered: {message}",
        field="status",
        value=status,
        remedy=remedy,
        provider_message=message,
        status=status,
        error_type=str((told or {}).get("type") or ""),
        request_id=error.request_id,
        retry_after_seconds=_retry_after(error.response.headers),
    )


def _unsent(error: Exception) -> ProviderError | InvalidRequest:
    """Return the error for what the package raises before it sends anything."""
    if "authentication method" in str(error):
        return ProviderAuthenticationFailed(
            "is missing",
            field="api_key",
            value=None,
            remedy="set ANTHROPIC_API_KEY, or give api_key",
            provider_message=str(error),
        )
    return InvalidRequest(
        f"cannot be sent: {error}",
        field="request",
        value=type(error).__name__,
        remedy="give what the Messages API takes, as JSON without half characters",
    )


def _unreachable(error: Exception) -> ProviderUnreachable:
    cause = error.__cause__ or error
    return ProviderUnreachable(
        f"cannot be reached: {cause}",
        field="provider",
        value="anthropic",
        remedy="check the network and base_url, then try again",
        provider_message=str(cause),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after")
    try:
        return None if text is None else float(text)
    except ValueError:  # a date: nobody sends one
        return None
