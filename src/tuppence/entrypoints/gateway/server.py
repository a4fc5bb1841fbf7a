"""Runs the gateway: one process."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import resource
import signal
import socket
import sys

from tuppence.entrypoints.gateway.application import Gateway
from tuppence.entrypoints.gateway.http_server import HttpServer, Limits
from tuppence.errors import InvalidInput

GRACE_SECONDS = 30
"""So long calls that run may go on after Ctrl-C; then they are cut off and left unresolved."""
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
    _raise_file_limit()
    asyncio.run(_serve_until_signal(gateway, listener))


async def _serve_until_signal(gateway: Gateway, listener: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = HttpServer(gateway.answer, Limits())
    await server.start(listener)
    await stop.wait()
    await server.close(GRACE_SECONDS)
    await gateway.close()


def _raise_file_limit() -> None:
    """Allow as many connections as the system allows: each is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
