"""Runs the gateway: one process, uvicorn with httptools."""

from __future__ import annotations

import gc
import ipaddress
import socket
import sys

import uvicorn

from tuppence.entrypoints.gateway.application import Gateway
from tuppence.errors import InvalidInput

GRACE_SECONDS = 30
"""So long calls that run may go on after Ctrl-C; then they are cut off and left unresolved."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the pools of clients keep connections, so that none is closed under a request."""
_BACKLOG = 2_048
_ALLOCATIONS_PER_COLLECTION = 50_000
_SWITCH_SECONDS = 0.0005
"""How long the thread that commits waits for the one that serves when it comes from the disk."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one. Raises InvalidInput."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise InvalidInput(
            f"cannot be listened on ({error})",
            field="port",
            value=f"{host}:{port}",
            remedy="choose another with --host and --port",
        ) from error
    # asyncio sets this only for sockets whose protocol is named, which an accepted one's is not;
    # without it the body waits for the client to acknowledge the headers: 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def base_url_of(listener: socket.socket) -> str:
    """Return where clients on this machine find the gateway."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def own_urls(listener: socket.socket) -> frozenset[str]:
    """Return how a provider's base URL might name this gateway itself, by mistake."""
    port = listener.getsockname()[1]
    hosts = ("localhost", "127.0.0.1", "[::1]")
    return frozenset({base_url_of(listener), *(f"http://{host}:{port}" for host in hosts)})


def serve(gateway: Gateway, listener: socket.socket) -> None:
    """Serve a gateway until a signal comes."""
    gc.collect()
    gc.freeze()  # what is loaded by now stays: it is not looked through again and again
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION, 20, 50)
    sys.setswitchinterval(_SWITCH_SECONDS)
    server_of(gateway).run(sockets=[listener])


def server_of(gateway: Gateway) -> uvicorn.Server:
    """Return the server of a gateway: `run(sockets=[listener])` serves until a signal comes."""
    return uvicorn.Server(
        uvicorn.Config(
            gateway,
            http="httptools",
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="critical",  # the gateway says itself what went wrong
            access_log=False,
            proxy_headers=False,
            server_header=False,  # the provider's own are handed on
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
