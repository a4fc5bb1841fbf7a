"""A stand-in for the Messages API: an ASGI application that caches and bills by its rules.

docs/reference/fake-anthropic.md says what it imitates and what not.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tuppence.caching.request_blocks import Block, RequestBlocks
from tuppence.core.usage import Usage
from tuppence.testing.answers import Answer, Failure, Reset, Step, echo
from tuppence.testing.batch_results import BatchResults, errored, succeeded
from tuppence.testing.cache_store import CacheStore, Served
from tuppence.testing.diagnosis import Fingerprint, diagnose, fingerprint
from tuppence.testing.exchange import Exchange, Receive, Scope, Send
from tuppence.testing.models import Models
from tuppence.testing.responses import ApiError, billed_usage, message_body
from tuppence.testing.streaming import event_stream
from tuppence.testing.validation import (
    MOST_BODY_BYTES,
    api_key_of,
    check_output,
    checked_blocks,
    parsed,
)

ORGANIZATION = "00000000-0000-4000-8000-000000000000"
MOST_KEPT = 10_000
"""Requests and billed requests that are kept; the oldest go first."""


@dataclass(slots=True)
class BilledRequest:
    """A request that the provider takes money for; in the book from its beginning."""

    request_id: str
    message_id: str
    api_key: str
    model: str
    usage: Usage
    delivered: bool = False
    """Whether the answer was sent to its end, as far as the server can see."""


class ReceivedRequest(NamedTuple):
    """A request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class _Call(NamedTuple):
    """A valid request to the model, and what it gets."""

    api_key: str
    request: Mapping[str, Any]
    served: Served
    answer: Answer
    message: Mapping[str, Any]
    is_reset: bool = False
    """Whether the connection breaks before any of the answer."""


def quarter_of_bytes(block: Block) -> int:
    """Return the tokens of a block: a quarter of its size as JSON, rounded up."""
    return -(-block.size_bytes // 4)


class FakeAnthropic:
    """The stand-in. Run it with `tuppence.testing.serving.serve`, or any ASGI server.

    `api_keys`: those accepted; None accepts any. `clock` returns seconds, for the TTLs.
    `tokens_of` counts a block. `minimum_tokens` (by model: the smallest prefix that is cached) and
    `context_windows` (by model, in tokens) go before the known facts; a model that is named in
    `context_windows` exists. `output_tokens` are those of an answer that no script gives.

    `book` has the billed requests in their order, `requests` all that came in, `cache` the entries.
    """

    def __init__(
        self,
        *,
        api_keys: Collection[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        tokens_of: Callable[[Block], int] = quarter_of_bytes,
        minimum_tokens: Mapping[str, int] | None = None,
        context_windows: Mapping[str, int] | None = None,
        output_tokens: int = 16,
    ) -> None:
        self.cache = CacheStore()
        self.book: deque[BilledRequest] = deque(maxlen=MOST_KEPT)
        self.requests: deque[ReceivedRequest] = deque(maxlen=MOST_KEPT)
        self._api_keys = None if api_keys is None else frozenset(api_keys)
        self._clock = clock
        self._tokens_of = tokens_of
        self._models = Models(minimum_tokens, context_windows)
        self._output_tokens = output_tokens
        self._steps: deque[Step] = deque()
        self._numbers = itertools.count(1)
        self._fingerprints: dict[str, Fingerprint] = {}
        self._batches = BatchResults()
        self.cut_results_after_bytes: int | None = None
        """Breaks off the results of batches; None: they come whole."""

    def script(self, *steps: Step) -> None:
        """Say what the next valid requests get, one each; after them come echoes again."""
        self._steps.extend(steps)

    def clear(self) -> None:
        """Forget the book, the requests, the script and the cache."""
        self.book.clear()
        self.requests.clear()
        self._steps.clear()
        self._fingerprints.clear()
        self.cache.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        started_at = self._clock()
        exchange = Exchange(scope, receive, send, f"req_fake_{next(self._numbers):08d}")
        try:
            await self._route(exchange, started_at)
        except ApiError as error:
            body = error.body(exchange.request_id)
            await exchange.send_json(error.status, body, error.headers)
        finally:
            exchange.end()

    async def _route(self, exchange: Exchange, started_at: float) -> None:
        body = await exchange.body(MOST_BODY_BYTES)
        self.requests.append(
            ReceivedRequest(exchange.method, exchange.path, exchange.headers, body)
        )
        match exchange.method, exchange.path:
            case "HEAD" | "GET", "/":
                await exchange.send_json(200, {})
            case "POST", "/v1/messages":
                await self._create(exchange, self._key(exchange), body, started_at)
            case "POST", "/v1/messages/count_tokens":
                self._key(exchange)
                await self._count(exchange, body)
            case "GET", "/v1/models":
                self._key(exchange)
                await exchange.send_json(200, self._models.listing())
            case "POST", "/v1/messages/batches":
                await self._create_batch(exchange, self._key(exchange), parsed(body), started_at)
            case method, path if path.startswith("/v1/messages/batches"):
                self._key(exchange)
                await self._answer_batch(exchange, method, *path.split("/")[4:])
            case _, "/" | "/v1/messages" | "/v1/messages/count_tokens" | "/v1/models":
                raise ApiError(405, "Method Not Allowed")
            case _:
                raise ApiError(404, "Not Found")

    async def _count(self, exchange: Exchange, body: bytes) -> None:
        request = parsed(body)
        blocks = checked_blocks(request)
        self._check_model(request["model"])
        await exchange.send_json(200, {"input_tokens": sum(self._block_tokens(blocks))})

    async def _create(
        self, exchange: Exchange, api_key: str, body: bytes, started_at: float
    ) -> None:
        call = self._answered(api_key, parsed(body), started_at)
        if call is None:
            exchange.abort()
        elif call.is_reset:
            self._bill(exchange, call)
            exchange.abort()
        else:
            await self._deliver(exchange, call)

    def _answered(
        self, api_key: str, request: Mapping[str, Any], started_at: float
    ) -> _Call | None:
        """Return what a request gets, None for a broken connection; raise ApiError."""
        check_output(request)
        blocks = checked_blocks(request)
        model = request["model"]
        self._check_model(model)
        tokens = self._block_tokens(blocks)
        self._check_size(model, sum(tokens))
        step = self._steps.popleft() if self._steps else None
        if isinstance(step, Failure):
            raise ApiError(
                step.status, step.message, error_type=step.error_type, headers=step.headers
            )
        if isinstance(step, Reset) and step.billed is None:
            return None
        served = self.cache.serve(
            (api_key, model),
            blocks,
            tokens,
            minimum_tokens=self._models.minimum_cacheable(model),
            started_at=started_at,
        )
        if isinstance(step, Reset):
            call = self._call(api_key, request, blocks, served, step.billed)
            return call._replace(is_reset=True)
        return self._call(api_key, request, blocks, served, step)

    async def _create_batch(
        self, exchange: Exchange, api_key: str, request: Mapping[str, Any], started_at: float
    ) -> None:
        """Answer all requests of a batch at once, and bill them."""
        batch_id = f"msgbatch_fake_{next(self._numbers):08d}"
        rows = request.get("requests") or []
        results = [self._batch_result(exchange, api_key, row, started_at) for row in rows]
        self._batches.add(batch_id, results)
        await self._send_batch(exchange, batch_id)

    def _batch_result(
        self, exchange: Exchange, api_key: str, row: Mapping[str, Any], started_at: float
    ) -> Mapping[str, Any]:
        custom_id = str(row["custom_id"])
        try:
            call = self._answered(api_key, row["params"], started_at)
        except ApiError as error:
            return errored(custom_id, error.body(exchange.request_id))
        if call is None or call.is_reset:
            return errored(custom_id, ApiError(500, "reset").body(exchange.request_id))
        self._bill(exchange, call)
        self.cache.begin(call.served)
        return succeeded(custom_id, call.message)

    async def _answer_batch(
        self, exchange: Exchange, method: str, batch_id: str = "", part: str = ""
    ) -> None:
        if batch_id and batch_id not in self._batches:
            raise ApiError(404, f"Message Batch {batch_id} not found.")
        match method, bool(batch_id), part:
            case "GET", False, "":
                await exchange.send_json(200, self._batches.listing(_base_url(exchange)))
            case ("GET", True, "") | ("POST", True, "cancel"):  # which comes too late
                await self._send_batch(exchange, batch_id)
            case "DELETE", True, "":
                await exchange.send_json(200, self._batches.delete(batch_id))
            case "GET", True, "results":
                results = self._batches.lines(batch_id)
                await exchange.send_file(results, self.cut_results_after_bytes)
            case _:
                raise ApiError(405, "Method Not Allowed")

    async def _send_batch(self, exchange: Exchange, batch_id: str) -> None:
        await exchange.send_json(200, self._batches.body(batch_id, _base_url(exchange)))

    def _call(
        self,
        api_key: str,
        request: Mapping[str, Any],
        blocks: RequestBlocks,
        served: Served,
        step: Answer | None,
    ) -> _Call:
        prewarms = request["max_tokens"] == 0
        answer = echo(request, self._output_tokens) if step is None or prewarms else step
        message_id = f"msg_fake_{next(self._numbers):08d}"
        now = fingerprint(api_key, request, blocks, served.prompt_tokens - served.input_tokens)
        diagnostics = self._diagnose(request, now, served.read_tokens)
        self._remember(message_id, now)
        message = message_body(message_id, request, answer, served, diagnostics)
        return _Call(api_key, request, served, answer, message)

    async def _deliver(self, exchange: Exchange, call: _Call) -> None:
        """Book an answer, whatever becomes of its sending, and send it."""
        booked = self._bill(exchange, call)
        await self._pass_gate(exchange, call.answer, 0)
        if booked.usage != Usage():  # an unbilled refusal leaves nothing behind
            self.cache.begin(call.served)
        if call.request.get("stream"):
            await self._stream(exchange, call, booked)
        else:
            # Noted before the last byte, so that who has read the answer finds it noted.
            booked.delivered = not await exchange.client_is_gone()
            await exchange.send_json(200, call.message, _organization())

    def _bill(self, exchange: Exchange, call: _Call) -> BilledRequest:
        usage = billed_usage(call.served, call.answer)
        booked = BilledRequest(
            exchange.request_id, call.message["id"], call.api_key, call.request["model"], usage
        )
        self.book.append(booked)
        return booked

    async def _stream(self, exchange: Exchange, call: _Call, booked: BilledRequest) -> None:
        """Send the events, and note it when all of them go out."""
        answer, sent_bytes = call.answer, 0
        events = list(event_stream(call.message))
        await exchange.start_stream(_organization())
        for number, event in enumerate(events):
            if number:
                await self._pass_gate(exchange, answer, number)
            if number == answer.cut_after_events or await exchange.client_is_gone():
                return
            piece = _up_to(event, answer.cut_after_bytes, sent_bytes)
            sent_bytes += len(piece)
            booked.delivered = number == len(events) - 1 and len(piece) == len(event)
            await exchange.send_bytes(piece, more=True)
            if len(piece) < len(event):
                return
        await exchange.send_bytes(b"", more=False)

    async def _pass_gate(self, exchange: Exchange, answer: Answer, event_number: int) -> None:
        if answer.gate is not None and answer.gate_after_events == event_number:
            await exchange.wait(answer.gate.wait())

    def _diagnose(
        self, request: Mapping[str, Any], now: Fingerprint, read_tokens: int
    ) -> dict[str, Any] | None:
        asked = request.get("diagnostics")
        previous = asked.get("previous_message_id") if isinstance(asked, Mapping) else None
        if previous is None:
            return None
        return diagnose(self._fingerprints.get(previous), now, read_tokens)

    def _remember(self, message_id: str, now: Fingerprint) -> None:
        self._fingerprints[message_id] = now
        if len(self._fingerprints) > MOST_KEPT:
            del self._fingerprints[next(iter(self._fingerprints))]

    def _key(self, exchange: Exchange) -> str:
        return api_key_of(exchange.headers, self._api_keys)

    def _check_model(self, model: str) -> None:
        if model not in self._models:
            raise ApiError(404, f"model: {model}")

    def _check_size(self, model: str, tokens: int) -> None:
        most = self._models.context_window(model)
        if tokens > most:
            raise ApiError(400, f"prompt is too long: {tokens} tokens > {most} maximum")

    def _block_tokens(self, blocks: RequestBlocks) -> list[int]:
        return [self._tokens_of(block) for block in blocks.blocks]


def _base_url(exchange: Exchange) -> str:
    return f"http://{exchange.headers['host']}"


def _organization() -> dict[str, str]:
    return {"anthropic-organization-id": ORGANIZATION}


def _up_to(event: bytes, most_bytes: int | None, sent_bytes: int) -> bytes:
    return event if most_bytes is None else event[: max(0, most_bytes - sent_bytes)]


async def live(receive: Receive, send: Send) -> None:
    """Say to the server that there is nothing to start or to end (ASGI's lifespan)."""
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})
