"""What callers are told of their calls: headers of an answer, and a comment at a stream's end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from tuppence.budget.holds import AsyncHold
from tuppence.core.usage import MeteredResponse
from tuppence.entrypoints.gateway.replies import Headers
from tuppence.governing.governor import AsyncGovernor, GovernedCall
from tuppence.governing.metering import AsyncSettlement

COST_HEADER = "x-tuppence-stream-cost"
"""1: the stream of this request ends with a comment; 0: it does not."""
_SAFE = "-._~/:@"
_SAFE_IN_SENTENCES = f"{_SAFE} ,;()'"
_EVENT_ENDS = (b"\n\n", b"\n\r\n", b"\r\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What an operator lets callers know."""

    shows_amounts: bool = True
    ends_streams: bool = False
    """Whether streams end with what they cost, where their requests do not say otherwise."""

    def ends_stream(self, headers: Mapping[str, str]) -> bool:
        """Tell whether the stream of a request ends with what it cost."""
        asked = headers.get(COST_HEADER)
        return self.ends_streams if asked is None else asked.strip() == "1"

    def before(self, call: GovernedCall[AsyncHold]) -> Headers:
        """Return the headers of any answer: what is known before it."""
        prepared = call.prepared
        told = [(b"x-tuppence-model", quote(prepared.model, _SAFE).encode())]
        if prepared.reason:
            why = quote(prepared.reason, _SAFE_IN_SENTENCES).encode()
            told.append((b"x-tuppence-model-reason", why))
        return told

    def after(self, call: GovernedCall[AsyncHold], metered: MeteredResponse | None) -> Headers:
        """Return the headers of a whole answer: what is known when it is booked."""
        told: Headers = []
        if metered is not None:
            read, written = _cache_tokens(metered)
            told.append((b"x-tuppence-cache", f"read={read}, written={written}".encode()))
        amounts = self._amounts(call)
        return told + [(f"x-tuppence-{name}".encode(), one.encode()) for name, one in amounts]

    def comment(self, call: GovernedCall[AsyncHold], metered: MeteredResponse | None) -> bytes:
        """Return what goes behind a stream: a comment, which readers of events pass over."""
        told = [*self._amounts(call), ("model", quote(call.prepared.model, _SAFE))]
        if metered is not None:
            read, written = _cache_tokens(metered)
            told += [("cache-read", str(read)), ("cache-written", str(written))]
        words = " ".join(f"{name}={value}" for name, value in told)
        return f": tuppence {words}\n\n".encode()

    def _amounts(self, call: GovernedCall[AsyncHold]) -> list[tuple[str, str]]:
        """Return what a call cost and what is left, where that is known and may be told."""
        amounts = {"cost": call.cost_nanos, "budget-left": call.left_nanos}
        if not self.shows_amounts:
            return []
        return [(name, _dollars(nanos)) for name, nanos in amounts.items() if nanos is not None]


class ToldSettlement(AsyncSettlement):
    """The settlement of a stream, which remembers what was used."""

    def __init__(self, governor: AsyncGovernor, call: GovernedCall[AsyncHold]) -> None:
        super().__init__(governor, call)
        self.metered: MeteredResponse | None = None

    async def settle(self, metered: MeteredResponse | None) -> None:
        """See AsyncSettlement.settle."""
        self.metered = metered
        await super().settle(metered)


class LastBytes:
    """The end of what was sent of a stream: a comment belongs between events, not into one."""

    def __init__(self) -> None:
        self._bytes = b""

    def add(self, piece: bytes) -> None:
        """Take in what was sent."""
        self._bytes = (self._bytes + piece[-3:])[-3:]

    @property
    def end_an_event(self) -> bool:
        """Whether the last event is whole."""
        return self._bytes.endswith(_EVENT_ENDS)


def _cache_tokens(metered: MeteredResponse) -> tuple[int, int]:
    """Return the tokens read from the prompt cache, and those written to it."""
    usages = [part.usage for part in metered.parts]
    read = sum(one.cache_read_tokens for one in usages)
    written = sum(
        one.cache_write_5m_tokens + one.cache_write_1h_tokens + one.cache_write_other_tokens
        for one in usages
    )
    return read, written


def _dollars(nanos: int) -> str:
    return f"{nanos // 10**9}.{nanos % 10**9:09d}"
