"""Runs the gateway in this process; `workers` runs it in several."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import resource
import signal
import socket
import sys
from typing import NamedTuple

from tuppence.entrypoints.gateway.application import Gateway
from tuppence.entrypoints.gateway.http_server import HttpServer, Limits
from tuppence.errors import InvalidInput

GRACE_SECONDS = 30
"""So long calls that run may go on after Ctrl-C; then they are cut off and left unresolved."""
_BACKLOG = 2_048
_ALLOCATIONS_PER_COLLECTION = 50_000
_SWITCH_SECONDS = 0.0005
"""How long the thread that commits waits for the one that serves when it comes from the disk."""


class Lifeline(NamedTuple):
    """What a worker has of the process that started it: two pipes."""

    parent_fd: int
    """Comes to its end when the parent has gone, in whichever way."""
    ready_fd: int
    """Gets a byte when the worker can answer."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one. Raises InvalidInput."""
    return _bound(host, port, shares_port=False)


def join(host: str, port: int) -> socket.socket:
    """Return a socket that shares a port with others and does not listen yet. Raises InvalidInput.

    The system shares out connections among those of them that listen.
    """
    return _bound(host, port, shares_port=True)


def _bound(host: str, port: int, *, shares_port: bool) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio sets this only for sockets whose protocol is named, which an accepted one's is
        # not; without it the body waits for the client to acknowledge the headers: 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if shares_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        if not shares_port:
            listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InvalidInput(
            f"cannot be listened on ({error})",
            field="port",
            value=f"{host}:{port}",
            remedy="choose another with --host and --port",
        ) from error
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


def serve(gateway: Gateway, listener: socket.socket, lifeline: Lifeline | None = None) -> None:
    """Serve a gateway until a signal comes, or the parent of a worker has gone."""
    gc.collect()
    gc.freeze()  # what is loaded by now stays: it is not looked through again and again
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION, 20, 50)
    sys.setswitchinterval(_SWITCH_SECONDS)
    _raise_file_limit()
    asyncio.run(_serve_until_told(gateway, listener, lifeline))


async def _serve_until_told(
    gateway: Gateway, listener: socket.socket, lifeline: Lifeline | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = HttpServer(gateway.answer, Limits())
    await server.start(listener)
    if lifeline is not None:
        loop.add_reader(lifeline.parent_fd, stop.set)
        os.write(lifeline.ready_fd, b"r")
    await stop.wait()
    if lifeline is not None:
        loop.remove_reader(lifeline.parent_fd)
    await server.close(GRACE_SECONDS)
    await gateway.close()


def _raise_file_limit() -> None:
    """Allow as many connections as the system allows: each is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
