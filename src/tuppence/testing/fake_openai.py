"""A stand-in for OpenAI: chat completions, responses and embeddings, with its own book.

It bills a quarter of the input's bytes, of which the first `cached_tokens` count as read from the
cache. docs/reference/fake-openai.md says what it imitates and what not.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tuppence.core.usage import Usage
from tuppence.testing.answers import Answer, Failure, Reset, Step, text_answer
from tuppence.testing.exchange import Exchange, Receive, Scope, Send
from tuppence.testing.fake_anthropic import MOST_KEPT, BilledRequest, ReceivedRequest, live
from tuppence.testing.openai_bodies import (
    chat_body,
    chat_events,
    embeddings_body,
    response_body,
    response_events,
)
from tuppence.testing.responses import ApiError
from tuppence.testing.validation import MOST_BODY_BYTES, parsed

MODELS = ("gpt-6-sol", "text-embedding-3-small")
_CONTENTS = {
    "/v1/chat/completions": "messages",
    "/v1/responses": "input",
    "/v1/embeddings": "input",
}


class FakeOpenAI:
    """The stand-in. Run it with `tuppence.testing.serving.serve`, or any ASGI server.

    `book` has the billed requests in their order, `requests` all that came in. An answer that no
    script gives has `output_tokens` of output.
    """

    def __init__(self, *, output_tokens: int = 16, cached_tokens: int = 0) -> None:
        self.book: deque[BilledRequest] = deque(maxlen=MOST_KEPT)
        self.requests: deque[ReceivedRequest] = deque(maxlen=MOST_KEPT)
        self.files: dict[str, bytes] = {}
        """What `GET /v1/files/{id}/content` gives, by id: the results of batches."""
        self._output_tokens = output_tokens
        self._cached_tokens = cached_tokens
        self._steps: deque[Step] = deque()
        self._numbers = itertools.count(1)

    def script(self, *steps: Step) -> None:
        """Say what the next valid requests get, one each; after them come fixed texts again."""
        self._steps.extend(steps)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        exchange = Exchange(scope, receive, send, f"req_fake_{next(self._numbers):08d}")
        try:
            await self._route(exchange)
        except ApiError as error:
            await exchange.send_json(error.status, _error_body(error), error.headers)
        finally:
            exchange.end()

    async def _route(self, exchange: Exchange) -> None:
        body = await exchange.body(MOST_BODY_BYTES)
        self.requests.append(
            ReceivedRequest(exchange.method, exchange.path, exchange.headers, body)
        )
        scheme, _, key = exchange.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "You didn't provide an API key.")
        if (exchange.method, exchange.path) == ("GET", "/v1/models"):
            rows = [{"id": one, "object": "model", "created": 0, "owned_by": ""} for one in MODELS]
            await exchange.send_json(200, {"object": "list", "data": rows})
        elif exchange.method == "GET" and exchange.path.startswith("/v1/files/"):
            await self._send_file(exchange, exchange.path.split("/")[3])
        elif exchange.method == "POST" and exchange.path in _CONTENTS:
            await self._create(exchange, key, parsed(body))
        else:
            raise ApiError(404, f"Invalid URL ({exchange.method} {exchange.path})")

    async def _send_file(self, exchange: Exchange, file_id: str) -> None:
        if file_id not in self.files:
            raise ApiError(404, f"No such File object: {file_id}")
        await exchange.send_file(self.files[file_id])

    async def _create(self, exchange: Exchange, key: str, request: dict[str, Any]) -> None:
        model, contents = request.get("model"), request.get(_CONTENTS[exchange.path])
        if not isinstance(model, str):
            raise ApiError(400, "you must provide a model parameter")
        if not contents:
            raise ApiError(400, f"Missing required parameter: '{_CONTENTS[exchange.path]}'.")
        if model not in MODELS:
            raise ApiError(404, f"The model `{model}` does not exist")
        if not isinstance(request.get("stream_options") or {}, dict):
            raise ApiError(400, "Invalid type for 'stream_options': expected an object.")
        step = self._steps.popleft() if self._steps else None
        if isinstance(step, Failure):
            raise ApiError(step.status, step.message, headers=step.headers)
        if isinstance(step, Reset) and step.billed is None:
            exchange.abort()
            return
        is_reset = isinstance(step, Reset)
        made = step.billed if isinstance(step, Reset) else step
        answer = made or text_answer("ok " * 16, output_tokens=self._output_tokens)
        has_output = exchange.path != "/v1/embeddings"
        usage = self._usage(contents, answer if has_output else None)
        answer_id = f"fake_{next(self._numbers):08d}"
        billed = BilledRequest(exchange.request_id, answer_id, key, model, usage)
        self.book.append(billed)
        if is_reset:
            exchange.abort()
        else:
            await _deliver(exchange, request, answer, billed)

    def _usage(self, contents: object, answer: Answer | None) -> Usage:
        tokens = -(-len(msgspec.json.encode(contents)) // 4)
        cached = min(self._cached_tokens, tokens)
        if answer is None:
            return Usage(input_tokens=tokens)
        return Usage(
            input_tokens=tokens - cached,
            cache_read_tokens=cached,
            output_tokens=answer.output_tokens,
            reasoning_tokens=answer.thinking_tokens,
        )


async def _deliver(
    exchange: Exchange, request: Mapping[str, Any], answer: Answer, billed: BilledRequest
) -> None:
    """Send an answer, and note it when all of it goes out."""
    if answer.gate is not None and answer.gate_after_events == 0:
        await exchange.wait(answer.gate.wait())
    stream, usage = bool(request.get("stream")), billed.usage
    if exchange.path == "/v1/embeddings":
        kind = str(request.get("encoding_format", "float"))
        inputs = request["input"] if isinstance(request["input"], list) else [request["input"]]
        body = embeddings_body(billed.model, inputs, usage, kind)
        stream = False
    elif exchange.path == "/v1/responses":
        body = response_body(billed.message_id, billed.model, answer, usage)
    else:
        body = chat_body(billed.message_id, billed.model, answer, usage)
    if not stream:
        billed.delivered = True
        await exchange.send_json(200, body)
    elif exchange.path == "/v1/responses":
        await _send_events(exchange, response_events(body), answer, billed)
    else:
        options = request.get("stream_options") or {}
        wanted = bool(options.get("include_usage"))
        await _send_events(exchange, chat_events(body, include_usage=wanted), answer, billed)


async def _send_events(
    exchange: Exchange, events: Iterable[bytes], answer: Answer, billed: BilledRequest
) -> None:
    await exchange.start_stream({})
    for number, event in enumerate(events):
        if number and answer.gate is not None and answer.gate_after_events == number:
            await exchange.wait(answer.gate.wait())
        if number == answer.cut_after_events or await exchange.client_is_gone():
            return
        await exchange.send_bytes(event, more=True)
    billed.delivered = True
    await exchange.send_bytes(b"", more=False)


def _error_body(error: ApiError) -> dict[str, Any]:
    """Return an error as OpenAI writes it."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": error.message, "type": kind, "param": None, "code": None}}
