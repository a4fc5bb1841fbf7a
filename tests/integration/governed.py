"""What tests of governed calls share: a ledger to look into, and clients of both colours."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import copy_context
from typing import Any

from tuppence.cost_tracking.service import CostTrackingService
from tuppence.testing.fake_anthropic import FakeAnthropic

MODEL = "claude-opus-5-5"  # $4 / $20
HELLO = [{"role": "user", "content": "hello there"}]


class Books:
    """The ledger of a test, seen from outside: what is committed, through another connection."""

    def __init__(self, database_url: str) -> None:
        self.url = database_url
        self._path = database_url.removeprefix("sqlite:///")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what is committed."""
        with closing(sqlite3.connect(self._path)) as connection:
            return connection.execute(query).fetchall()

    @property
    def holds(self) -> list[str]:
        """The states of all holds, the oldest first."""
        return [state for (state,) in self.rows("SELECT state FROM budget_holds ORDER BY id")]

    @property
    def settled_nanos(self) -> int:
        """What all holds were settled at."""
        ((total,),) = self.rows("SELECT coalesce(sum(settled_nanos), 0) FROM budget_holds")
        return int(total)

    @property
    def calls(self) -> list[tuple[int, int, int]]:
        """Input and output tokens of each booked call, and whether its output was incomplete."""
        return self.rows(
            "SELECT input_tokens, output_tokens, incomplete_count FROM api_usage_log ORDER BY id"
        )

    def summary(self, group_by: str | None = None) -> dict[str, tuple[int, int]]:
        """Return requests and costs by entity."""
        with closing(CostTrackingService(self.url)) as tracker:
            groups = tracker.get_cost_summary(group_by=group_by)
        return {one["entity"]: (one["request_count"], one["total_cost_nanos"]) for one in groups}

    def limit(self, kind: str, name: str, dollars: str) -> None:
        """Set a monthly budget."""
        with closing(CostTrackingService(self.url)) as tracker:
            tracker.create_budget(kind, name, dollars)


def billed(app: FakeAnthropic) -> list[tuple[int, int, int]]:
    """Return what the stand-in billed, as `Books.calls` has it."""
    return [(one.usage.input_tokens, one.usage.output_tokens, 0) for one in app.book]


class Sync:
    """Runs calls of a synchronous client."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def call(self, method: Callable[..., Any], **arguments: Any) -> Any:
        """Return what a method returns."""
        return method(**arguments)

    def events(self, stream: Any, seen: Callable[[Any], bool] = lambda _: False) -> list[Any]:
        """Return the events of a stream; it is closed after one for which `seen` is true."""
        events = []
        for event in stream:
            events.append(event)
            if seen(event):
                stream.close()
                break
        return events

    def close(self) -> None:
        """Close the client."""
        self.client.close()


class Async:
    """Runs calls of an asynchronous client, as `Sync` does."""

    def __init__(self, client: Any, runner: asyncio.Runner) -> None:
        self.client = client
        self._runner = runner

    def call(self, method: Callable[..., Any], **arguments: Any) -> Any:
        """See Sync.call."""

        async def awaited() -> Any:
            """Await the method."""
            return await method(**arguments)

        return self._runner.run(awaited(), context=copy_context())

    def events(self, stream: Any, seen: Callable[[Any], bool] = lambda _: False) -> list[Any]:
        """See Sync.events."""

        async def taken() -> list[Any]:
            """Take every event."""
            events = []
            async for event in stream:
                events.append(event)
                if seen(event):
                    await stream.close()
                    break
            return events

        return self._runner.run(taken())

    def close(self) -> None:
        """See Sync.close."""
        self._runner.run(self.client.close())


@contextmanager
def runners(colour: str) -> Iterator[Callable[[Any], Sync | Async]]:
    """Yield what wraps clients of a colour; they are closed at the end."""
    made: list[Sync | Async] = []
    with asyncio.Runner() as runner:

        def wrap(client: Any) -> Sync | Async:
            made.append(Sync(client) if colour == "sync" else Async(client, runner))
            return made[-1]

        yield wrap
        for one in made:
            one.close()


def unlike(governed: Any, plain: Any) -> list[str]:
    """Return the names of which a governed client has something else than a plain one, or nothing.

    Resources are of the same class and go through the governed client; methods that are its own
    take what those of the plain one take.
    """
    names = [name for name in dir(plain) if not name.startswith("_")]
    return [name for name in names if not _are_alike(governed, plain, name)]


def _are_alike(governed: Any, plain: Any, name: str) -> bool:
    there, here = getattr(plain, name), getattr(governed, name, None)
    client = getattr(here, "_client", governed)
    return type(here) is type(there) and (client is governed or not hasattr(there, "_post"))
