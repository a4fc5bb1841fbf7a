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
from tuppence.testing.openai_batches import (
    RESULTS_PURPOSE,
    batch_body,
    batch_row,
    file_body,
    uploaded_file,
)
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
        """What `GET /v1/files/{id}/content` gives, by id: the results of batches, and uploads."""
        self.purposes: dict[str, str] = {}
        """What files were uploaded for; those without one are results of batches."""
        self.cut_files_after_bytes: int | None = None
        """Breaks off the contents of files; None: they come whole."""
        self._batches: dict[str, dict[str, Any]] = {}
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
        elif exchange.path.startswith("/v1/files"):
            await self._answer_file(exchange, body)
        elif exchange.path.startswith("/v1/batches"):
            await self._answer_batch(exchange, key, body)
        elif exchange.method == "POST" and exchange.path in _CONTENTS:
            await self._create(exchange, key, parsed(body))
        else:
            raise ApiError(404, f"Invalid URL ({exchange.method} {exchange.path})")

    async def _answer_file(self, exchange: Exchange, body: bytes) -> None:
        file_id, part = ([*exchange.path.split("/")[3:], "", ""])[:2]
        if file_id and file_id not in self.files:
            raise ApiError(404, f"No such File object: {file_id}")
        match exchange.method, bool(file_id), part:
            case "POST", False, "":
                uploaded = uploaded_file(exchange.headers.get("content-type", ""), body)
                file_id = f"file-fake-{next(self._numbers):08d}"
                self.files[file_id], self.purposes[file_id] = uploaded.content, uploaded.purpose
                await exchange.send_json(200, self._file(file_id))
            case "GET", False, "":
                rows = [self._file(one) for one in self.files]
                await exchange.send_json(200, {"object": "list", "data": rows, "has_more": False})
            case "GET", True, "":
                await exchange.send_json(200, self._file(file_id))
            case "GET", True, "content":
                await exchange.send_file(self.files[file_id], self.cut_files_after_bytes)
            case _:
                raise ApiError(404, f"Invalid URL ({exchange.method} {exchange.path})")

    def _file(self, file_id: str) -> dict[str, Any]:
        purpose = self.purposes.get(file_id, RESULTS_PURPOSE)
        return file_body(file_id, self.files[file_id], purpose)

    async def _answer_batch(self, exchange: Exchange, key: str, body: bytes) -> None:
        batch_id, part = ([*exchange.path.split("/")[3:], "", ""])[:2]
        if batch_id and batch_id not in self._batches:
            raise ApiError(404, f"No batch found with id '{batch_id}'.")
        match exchange.method, bool(batch_id), part:
            case "POST", False, "":
                batch = self._made_batch(exchange, key, parsed(body))
                await exchange.send_json(200, batch)
            case "GET", False, "":
                rows = list(self._batches.values())
                await exchange.send_json(200, {"object": "list", "data": rows, "has_more": False})
            case ("GET", True, "") | ("POST", True, "cancel"):  # which comes too late
                await exchange.send_json(200, self._batches[batch_id])
            case _:
                raise ApiError(404, f"Invalid URL ({exchange.method} {exchange.path})")

    def _made_batch(
        self, exchange: Exchange, key: str, request: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Answer all requests of a batch at once, and bill them."""
        input_id = str(request.get("input_file_id"))
        if input_id not in self.files:
            raise ApiError(400, f"No such File object: {input_id}")
        rows = [self._batch_row(exchange, key, line) for line in self.files[input_id].splitlines()]
        output_id = f"file-fake-{next(self._numbers):08d}"
        self.files[output_id] = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        self.purposes[output_id] = RESULTS_PURPOSE
        batch_id = f"batch_fake_{next(self._numbers):08d}"
        self._batches[batch_id] = batch_body(batch_id, request, output_id, len(rows))
        return self._batches[batch_id]

    def _batch_row(self, exchange: Exchange, key: str, line: bytes) -> dict[str, Any]:
        asked = parsed(line)
        path, request = str(asked["url"]), asked["body"]
        billed, answer = self._billed(exchange, key, path, request, None)
        return batch_row(asked, whole_body(path, request, answer, billed))

    async def _create(self, exchange: Exchange, key: str, request: dict[str, Any]) -> None:
        self._check(exchange.path, request)
        step = self._steps.popleft() if self._steps else None
        if isinstance(step, Failure):
            raise ApiError(step.status, step.message, headers=step.headers)
        if isinstance(step, Reset) and step.billed is None:
            exchange.abort()
            return
        made = step.billed if isinstance(step, Reset) else step
        billed, answer = self._billed(exchange, key, exchange.path, request, made)
        if isinstance(step, Reset):
            exchange.abort()
        else:
            await _deliver(exchange, request, answer, billed)

    def _check(self, path: str, request: Mapping[str, Any]) -> None:
        model, contents = request.get("model"), request.get(_CONTENTS[path])
        if not isinstance(model, str):
            raise ApiError(400, "you must provide a model parameter")
        if not contents:
            raise ApiError(400, f"Missing required parameter: '{_CONTENTS[path]}'.")
        if model not in MODELS:
            raise ApiError(404, f"The model `{model}` does not exist")
        if not isinstance(request.get("stream_options") or {}, dict):
            raise ApiError(400, "Invalid type for 'stream_options': expected an object.")

    def _billed(
        self,
        exchange: Exchange,
        key: str,
        path: str,
        request: Mapping[str, Any],
        made: Answer | None,
    ) -> tuple[BilledRequest, Answer]:
        """Take money for an answer, the fixed text where none was made."""
        answer = made or text_answer("ok " * 16, output_tokens=self._output_tokens)
        has_output = path != "/v1/embeddings"
        usage = self._usage(request[_CONTENTS[path]], answer if has_output else None)
        answer_id = f"fake_{next(self._numbers):08d}"
        billed = BilledRequest(exchange.request_id, answer_id, key, request["model"], usage)
        self.book.append(billed)
        return billed, answer

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
    body = whole_body(exchange.path, request, answer, billed)
    if not request.get("stream") or exchange.path == "/v1/embeddings":
        billed.delivered = True
        await exchange.send_json(200, body)
    elif exchange.path == "/v1/responses":
        await _send_events(exchange, response_events(body), answer, billed)
    else:
        options = request.get("stream_options") or {}
        wanted = bool(options.get("include_usage"))
        await _send_events(exchange, chat_events(body, include_usage=wanted), answer, billed)


def whole_body(
    path: str, request: Mapping[str, Any], answer: Answer, billed: BilledRequest
) -> dict[str, Any]:
    """Return an answer as one document."""
    usage = billed.usage
    if path == "/v1/embeddings":
        kind = str(request.get("encoding_format", "float"))
        inputs = request["input"] if isinstance(request["input"], list) else [request["input"]]
        return embeddings_body(billed.model, inputs, usage, kind)
    if path == "/v1/responses":
        return response_body(billed.message_id, billed.model, answer, usage)
    return chat_body(billed.message_id, billed.model, answer, usage)


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
