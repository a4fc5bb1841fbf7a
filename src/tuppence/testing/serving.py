"""Runs a stand-in over real HTTP, on a port of this machine; needs the extra `testing`."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from asyncio import Transport
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tuppence.testing.exchange import ABORT_EXTENSION, Receive, Scope, Send

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
"""A stand-in, or any other ASGI application."""

HOST = "127.0.0.1"
PATIENCE_SECONDS = 10.0
"""How long a server may take to start, and to stop."""
_POLL_SECONDS = 0.005


class _AbortableProtocol(H11Protocol):
    """HTTP/1.1 whose application may break the connection."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Tell the application how to break this connection."""
        super().connection_made(transport)
        self.app: Any = functools.partial(_with_abort, self.app, transport)


@contextlib.contextmanager
def serve(app: Application, *, port: int = 0) -> Iterator[str]:
    """Serve a stand-in from a thread until the block ends; yields its base URL.

    Port 0 takes a free one. Raises SystemExit for a port that is taken, OSError where the server
    does not start.
    """
    server = uvicorn.Server(_configuration(app, port))
    listener = server.config.bind_socket()
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="fake-anthropic", daemon=True
    )
    thread.start()
    try:
        _await_start(server, thread)
        yield f"http://{HOST}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        listener.close()


def _configuration(app: Application, port: int) -> uvicorn.Config:
    """Return how to serve: quietly, since cut connections are meant."""
    return uvicorn.Config(
        app,
        host=HOST,
        port=port,
        http=_AbortableProtocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
    )


def _await_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise OSError("the stand-in did not start")
        time.sleep(_POLL_SECONDS)


async def _with_abort(
    app: Any, transport: Transport, scope: Scope, receive: Receive, send: Send
) -> None:
    extensions = {**(scope.get("extensions") or {}), ABORT_EXTENSION: transport.abort}
    await app({**scope, "extensions": extensions}, receive, send)
