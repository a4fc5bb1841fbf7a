"""A mock provider, and the gateway's own server and client with nothing between them.

python bare.py provider PORT | python bare.py gateway PORT PROVIDER_URL
"""

from __future__ import annotations

import asyncio
import itertools
import sys

import msgspec

from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.http_server import HttpServer, Limits
from tuppence.entrypoints.gateway.replies import json_reply
from tuppence.entrypoints.gateway.server import listen
from tuppence.entrypoints.gateway.transport import Transport

MOST_BYTES = 1_000_000
USAGE = {"prompt_tokens": 1200, "completion_tokens": 64, "total_tokens": 1264}
MESSAGE = {"index": 0, "message": {"role": "assistant", "content": "word " * 64}}


async def _serve(answer: object, port: int) -> None:
    server = HttpServer(answer, Limits())  # type: ignore[arg-type]
    await server.start(listen("127.0.0.1", port))
    await asyncio.Event().wait()


async def _provide(port: int) -> None:
    numbers = itertools.count()

    async def answer(connection: Connection) -> None:
        """Answer a chat completion, each time with another id."""
        await connection.body(MOST_BYTES)
        document = {
            "id": f"chatcmpl-{next(numbers)}",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": "gpt-5.4-mini",
            "choices": [{**MESSAGE, "finish_reason": "stop"}],
            "usage": USAGE,
        }
        await connection.reply(json_reply(200, document))

    await _serve(answer, port)


async def _pass_on(port: int, provider_url: str) -> None:
    transport = Transport()

    async def answer(connection: Connection) -> None:
        """Hand a request on, and its answer; read both as a gateway has to."""
        body = await connection.body(MOST_BYTES)
        msgspec.json.decode(body)
        url = provider_url + connection.path
        headers = [one for one in connection.raw_headers if one[0] == b"content-type"]
        async with transport.send("POST", url, headers, body, 10, 60) as response:
            whole = msgspec.json.decode(await response.read())
        await connection.reply(json_reply(response.status, whole))

    await _serve(answer, port)


if __name__ == "__main__":
    if sys.argv[1] == "provider":
        asyncio.run(_provide(int(sys.argv[2])))
    else:
        asyncio.run(_pass_on(int(sys.argv[2]), sys.argv[3]))
