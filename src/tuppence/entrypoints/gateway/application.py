"""The gateway: checks who calls, finds the route, answers every error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.gateway.access import key_of, refuse_web_pages
from tuppence.entrypoints.gateway.batches import Batches
from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.exchange import Exchanges
from tuppence.entrypoints.gateway.forwarding import Forwarder
from tuppence.entrypoints.gateway.keys import GatewayKey, KeyRing
from tuppence.entrypoints.gateway.openapi import OPENAPI_PATH, openapi_document
from tuppence.entrypoints.gateway.replies import (
    LEDGER_UNREACHABLE,
    Provider,
    Refusal,
    json_reply,
    refusal_of,
)
from tuppence.entrypoints.gateway.routes import Duty, provider_of, route_of
from tuppence.entrypoints.gateway.secret import key_secret
from tuppence.entrypoints.gateway.telling import Telling
from tuppence.entrypoints.gateway.upstream import Place, places_of
from tuppence.entrypoints.gateway.upstreams import (
    UpstreamChoice,
    Upstreams,
    upstreams_of_places,
)
from tuppence.entrypoints.gateway.upstreams_file import read_upstreams
from tuppence.errors import InvalidInput, TuppenceError
from tuppence.governing.governor import AsyncGovernor
from tuppence.governing.steps import CacheMode
from tuppence.settings import Settings, load_settings
from tuppence.storage.threads import DatabaseThreads

MOST_BODY_BYTES = 32 * 1024 * 1024
"""As Anthropic limits its requests."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """How a gateway is run."""

    database_url: str | None = None
    """The ledger; the one of the settings by default."""
    needs_key: bool = True
    """False: whoever reaches it may call, and headers alone say who pays."""
    shows_amounts: bool = True
    """Whether answers tell what they cost and what is left."""
    tells_stream_costs: bool = False
    """Whether streams tell it too, in a comment at their end."""
    most_body_bytes: int = MOST_BODY_BYTES
    wait_seconds: float = 0.0
    """How long a call waits for money that calls in flight hold."""
    cache: CacheMode = "off"
    """"auto" plans the cache markers of Claude requests."""
    places: Mapping[Provider, Place] | None = None
    """The providers, one upstream each; those of `upstreams_path` or the settings by default."""
    upstreams_path: Path | None = None
    """A file with the upstreams; the one of the settings by default, which may be none."""
    own_urls: frozenset[str] = frozenset()
    """Where the gateway itself is: a provider there would be an endless loop."""
    seconds: Callable[[], float] = time.monotonic
    random: Random = field(default_factory=Random)
    """What shuffles upstreams of one order."""


class Gateway:
    """The application: answers requests, from whichever server.

    Raises InvalidInput where it could serve nobody, DatabaseUnreachable, SchemaMismatch.
    """

    def __init__(self, options: GatewayOptions) -> None:
        settings = load_settings()
        self._options = options
        self._upstreams = _upstreams(options, settings)
        _refuse_loop(self._upstreams, options.own_urls)
        self._choice = UpstreamChoice(self._upstreams, options.seconds, options.random)
        self._threads = DatabaseThreads(1)
        self._ledger = Ledger.open(options.database_url)
        try:
            self._ring = self._open_ring(key_secret(self._ledger.database, settings))
            self._governor = AsyncGovernor(
                database_url=self._ledger.database.url,
                wait_seconds=options.wait_seconds,
                cache=options.cache,
            )
        except BaseException:
            self._ledger.close()
            raise
        self._forwarder: Forwarder | None = None

    async def answer(self, connection: Connection) -> None:
        """Answer one request; may be cancelled, which is how a client who hangs up is known."""
        try:
            await self._route(connection)
        except Refusal as refused:
            await self._refuse(connection, refused)
        except TuppenceError as error:
            refusal = refusal_of(error, shows_amounts=self._options.shows_amounts)
            if refusal.status >= LEDGER_UNREACHABLE:
                _logger.warning("%s %s: %s", connection.method, connection.path, error)
            await self._refuse(connection, refusal)
        except Exception:
            _logger.exception("%s %s", connection.method, connection.path)
            failed = Refusal(500, "The gateway failed; its log says why", "gateway_failed")
            await self._refuse(connection, failed)

    async def _refuse(self, connection: Connection, refusal: Refusal) -> None:
        if connection.has_begun:  # an answer that is not ended is broken off by the server
            _logger.warning("%s %s: %s", connection.method, connection.path, refusal)
        else:
            provider = provider_of(connection.path, connection.headers)
            await connection.reply(refusal.reply(provider))

    async def _route(self, connection: Connection) -> None:
        method, path = connection.method, connection.path
        if method in ("GET", "HEAD") and path in ("/", "/health"):
            await connection.reply(json_reply(200, {"status": "ok"}))
            return
        if method in ("GET", "HEAD") and path == OPENAPI_PATH:
            await connection.reply(json_reply(200, openapi_document()))
            return
        route = route_of(method, path, connection.headers)
        if route is None:
            raise Refusal(404, f"The gateway does not serve {method} {path}", "not_found")
        key = await self._key_of(connection)
        if not self._upstreams.of(route.provider):
            problem = f"This gateway has no upstream with a key for {route.provider}"
            raise Refusal(404, problem, "provider_not_served")
        if "content-encoding" in connection.headers:
            raise Refusal(415, "Send the body without a content-encoding", "unsupported_encoding")
        body = await connection.body(self._options.most_body_bytes)
        if route.endpoint is not None:
            await self._exchanges().govern(route.provider, route.endpoint, connection, body, key)
        elif route.duty is Duty.FREE:
            await self._exchanges().pass_on(route.provider, connection, body)
        else:
            batches = Batches(self._governor, self._opened_forwarder(), self._upstreams)
            await batches.answer(route, connection, body, key)

    async def _key_of(self, connection: Connection) -> GatewayKey | None:
        if self._options.needs_key:
            return await key_of(connection.headers, self._ring)
        refuse_web_pages(connection.headers)
        return None

    def _exchanges(self) -> Exchanges:
        options = self._options
        telling = Telling(
            shows_amounts=options.shows_amounts, ends_streams=options.tells_stream_costs
        )
        return Exchanges(self._governor, self._opened_forwarder(), self._choice, telling)

    def _opened_forwarder(self) -> Forwarder:
        if self._forwarder is None:
            self._forwarder = Forwarder()  # belongs to the loop that serves
        return self._forwarder

    def _open_ring(self, secret: bytes) -> KeyRing:
        ring = KeyRing(self._ledger, secret, self._threads, self._options.seconds)
        if not self._options.needs_key:
            return ring
        if not len(ring):
            raise InvalidInput(
                "has no key: nobody could call",
                field="database",
                value=self._ledger.database.url,
                remedy="run: tuppence key create --team TEAM, or serve this machine alone "
                "with --no-keys",
            )
        if not self._upstreams.all:
            raise InvalidInput(
                "is not set: the gateway could call no provider",
                field="ANTHROPIC_API_KEY",
                value=None,
                remedy="set ANTHROPIC_API_KEY or OPENAI_API_KEY",
            )
        return ring

    async def close(self) -> None:
        """Close the ledger and the connections to providers; nothing may be answered any more."""
        if self._forwarder is not None:
            await self._forwarder.close()
        await self._governor.close()
        self._threads.shutdown()
        self._ledger.close()


def _upstreams(options: GatewayOptions, settings: Settings) -> Upstreams:
    """Return where calls go: as the options say, else a file, else the two of the environment."""
    path = options.upstreams_path or settings.upstreams_path
    if options.places is None and path is not None:
        return read_upstreams(path, needs_key=options.needs_key)
    places = places_of(settings) if options.places is None else options.places
    return upstreams_of_places(places, needs_key=options.needs_key)


def _refuse_loop(upstreams: Upstreams, own_urls: frozenset[str]) -> None:
    """Refuse to send on to the gateway itself: its clients' setting is easily in its own shell."""
    for upstream in upstreams.all:
        if upstream.base_url in own_urls:
            raise InvalidInput(
                "is the gateway itself",
                field=upstream.setting,
                value=upstream.base_url,
                remedy="name the provider's own URL; this one is for clients of the gateway",
            )
