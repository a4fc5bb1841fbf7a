"""One race and one clock for all: what small libraries that claim budgets let through, and ours.

Runs in an environment that has the library, and needs nothing else:

    python tests/performance/peers_budgets.py LIBRARY REDIS_URL

prints, as JSON, how many calls were made of the 20 that the budget has room for, by kind of caller,
and the time that the library takes per call. Each is used as its own documentation has it: it is
asked before the call, with the call's cost, where there is something to ask; then it is told.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import secrets
import sys
import tempfile
import threading
import time
import types
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from statistics import median
from typing import Any, NamedTuple

LIMIT, CALL = 2.00, 0.10
AMPLE = 1_000_000.0
CALLERS, PROCESSES = 200, 4
CALL_SECONDS = 0.02
"""How long a call is under way, between the question and the record: a very quick provider."""
TIMED_CALLS = 500

Work = Callable[[], None]
AsyncWork = Callable[[], Awaitable[None]]


class Store(NamedTuple):
    """Where a budget's state may live."""

    database_url: str
    redis_url: str


class Guard:
    """A budget as a library has it: asked before a call, told after it."""

    def __init__(self, name: str, limit: float, store: Store) -> None:
        """Make the budget, or reach the one of this name that other processes have too."""

    def check(self) -> Any:
        """Return something if the call may be made, None if not."""

    def record(self, allowed: Any) -> None:
        """Tell what the call has cost."""

    def call(self, work: Work) -> None:
        """Make a call if the budget allows it."""
        allowed = self.check()
        if allowed is not None:
            work()
            self.record(allowed)

    async def call_async(self, work: AsyncWork) -> None:
        """Do the same from a coroutine."""
        allowed = self.check()
        if allowed is not None:
            await work()
            self.record(allowed)

    def close(self) -> None:
        """Let go of everything."""


class AgentBudget(Guard):
    """A session's `would_exceed` and `track`."""

    def __init__(self, name: str, limit: float, store: Store) -> None:
        del name, store
        library = import_module("agentbudget")
        self._session = library.AgentBudget(max_spend=limit).session()
        self._refusal = library.BudgetExhausted

    def check(self) -> Any:
        """Ask the session; see the base class."""
        return None if self._session.would_exceed(CALL) else True

    def record(self, allowed: Any) -> None:
        """Track the cost; the refusal comes after the call."""
        with suppress(self._refusal):
            self._session.track(allowed, cost=CALL)


class ShekelTool(Guard):
    """A tool with a price, in a budget that is asked before it runs; in the caller's context."""

    def __init__(self, name: str, limit: float, store: Store) -> None:
        del store
        library = import_module("shekel")
        self._tool = library.tool
        self._refusal = library.ToolBudgetExceededError
        prices = {"paid": CALL, "paid_async": CALL}
        self._budget = library.budget(max_usd=limit, name=name, tool_prices=prices)
        self._budget.__enter__()

    def call(self, work: Work) -> None:
        """Make a call as a tool."""

        def paid() -> None:
            work()

        with suppress(self._refusal):
            self._tool(paid)()

    async def call_async(self, work: AsyncWork) -> None:
        """Do the same from a coroutine."""

        async def paid_async() -> None:
            """Pay for one call."""
            await work()

        with suppress(self._refusal):
            await self._tool(paid_async)()

    def close(self) -> None:
        """Leave the budget."""
        self._budget.__exit__(None, None, None)


class ShekelRedis(Guard):
    """Calls of a client that it patches, in a budget that processes share through Redis."""

    def __init__(self, name: str, limit: float, store: Store) -> None:
        self._client = _client_to_patch()
        library, backends = import_module("shekel"), import_module("shekel.backends.redis")
        self._refusal = library.BudgetExceededError
        self._name, self._limit = name, limit
        self._backend = backends.RedisBackend(url=store.redis_url)
        self._budget = library.budget(
            f"${limit:.2f}/hr",
            name=name,
            backend=self._backend,
            price_per_1k_tokens={"input": CALL, "output": 0.0},
        )
        self._budget.__enter__()

    def check(self) -> Any:
        """Ask what all processes have spent, which the library's own way leaves out."""
        spent = self._backend.get_state(self._name).get("usd", 0.0)
        return True if spent + CALL <= self._limit else None

    def call(self, work: Work) -> None:
        """Call the client; the library counts what it answers."""
        if self.check() is not None:
            with suppress(self._refusal):
                self._client.create(work)

    def close(self) -> None:
        """Leave the budget."""
        self._budget.__exit__(None, None, None)


def _client_to_patch() -> Any:
    """Return a client of the form that the library patches: a call of 1,000 tokens."""
    usage = types.SimpleNamespace(prompt_tokens=1_000, completion_tokens=0)
    answer = types.SimpleNamespace(usage=usage, model="model")

    class Completions:
        def create(self, work: Work) -> Any:
            work()
            return answer

    class AsyncCompletions(Completions):
        pass

    module: Any = types.ModuleType("openai.resources.chat.completions")
    module.Completions, module.AsyncCompletions = Completions, AsyncCompletions
    sys.modules[module.__name__] = module
    for package in ("openai.resources.chat", "openai.resources", "openai"):
        parent: Any = types.ModuleType(package)
        parent.__path__ = []
        sys.modules[package] = parent
    sys.modules["openai.resources.chat"].completions = module  # type: ignore[attr-defined]
    sys.modules["openai.resources"].chat = sys.modules["openai.resources.chat"]  # type: ignore[attr-defined]
    sys.modules["openai"].resources = sys.modules["openai.resources"]  # type: ignore[attr-defined]
    return Completions()


class CostGuard(Guard):
    """A tracker with a budget that blocks: what is used is asked for, then the call recorded."""

    def __init__(self, name: str, limit: float, store: Store) -> None:
        library = import_module("llm_cost_guard")
        self._refusal = library.BudgetExceededError
        self._name, self._limit = name, limit
        block = library.BudgetAction.BLOCK
        self._tracker = library.CostTracker(
            budgets=[library.Budget(name=name, limit=limit, period="month", action=block)],
            pricing_overrides={"openai/gpt-4": {"input_cost_per_1k": CALL}},
            **self._shared(store),
        )

    def _shared(self, store: Store) -> dict[str, str]:
        del store
        return {}

    def check(self) -> Any:
        """Ask how much of the budget is used."""
        used = self._tracker.get_budget_utilization(self._name)
        return True if used + 100 * CALL / self._limit <= 100 + 1e-6 else None

    def record(self, allowed: Any) -> None:
        """Record the tokens; the refusal comes after the call."""
        del allowed
        with suppress(self._refusal):
            self._tracker.record("openai", "gpt-4", input_tokens=1_000, output_tokens=0)


class CostGuardShared(CostGuard):
    """The same tracker as several processes are to have it: Redis, distributed."""

    def _shared(self, store: Store) -> dict[str, str]:
        return {"backend": store.redis_url, "budget_mode": "distributed"}


class CostGuardByHand(Guard):
    """Reservations in its Redis backend, made by hand: its tracker does not make them."""

    def __init__(self, name: str, limit: float, store: Store) -> None:
        backends = import_module("llm_cost_guard.backends.redis_backend")
        self._backend = backends.RedisBackend(url=store.redis_url)
        self._name, self._limit = name, limit

    def check(self) -> Any:
        """Reserve the cost."""
        mark = secrets.token_hex(8)
        allowed, _ = self._backend.reserve_budget(self._name, CALL, self._limit, mark, 3600)
        return mark if allowed else None

    def record(self, allowed: Any) -> None:
        """Turn the reservation into spending."""
        self._backend.finalize_budget(self._name, CALL, CALL, allowed, 3600)


class Tuppence(Guard):
    """A hold before the call, settled after it, each durable in a SQLite file."""

    def __init__(self, name: str, limit: float, store: Store) -> None:
        library = import_module("tuppence.budget.throttler")
        self._refusal = import_module("tuppence.errors").BudgetExceeded
        options = {"name": name, "database_url": store.database_url, **self._shared(store)}
        self._throttler = library.BudgetThrottler(limit, **options)
        self._twin = library.AsyncBudgetThrottler(limit, **options)

    def _shared(self, store: Store) -> dict[str, str]:
        del store
        return {"redis_url": ""}

    def check(self) -> Any:
        """Hold the cost."""
        with suppress(self._refusal):
            return self._throttler.hold(CALL)

    def record(self, allowed: Any) -> None:
        """Settle the hold."""
        allowed.settle(CALL)

    async def call_async(self, work: AsyncWork) -> None:
        """Hold, call and settle from a coroutine."""
        with suppress(self._refusal):
            async with await self._twin.hold(CALL) as hold:
                await work()
                await hold.settle(CALL)

    def close(self) -> None:
        """Close both throttlers."""
        self._throttler.close()
        asyncio.run(self._twin.close())


class TuppenceShared(Tuppence):
    """The same with Redis to decide and SQLite to settle in."""

    def _shared(self, store: Store) -> dict[str, str]:
        return {"redis_url": store.redis_url}


GUARDS: dict[str, tuple[type[Guard], tuple[str, ...]]] = {
    "agentbudget": (AgentBudget, ("threads", "tasks")),
    "shekel": (ShekelTool, ("threads", "tasks")),
    "shekel, Redis": (ShekelRedis, ("processes",)),
    "llm-cost-guard": (CostGuard, ("threads", "tasks")),
    "llm-cost-guard, Redis": (CostGuardShared, ("processes",)),
    "llm-cost-guard, by hand": (CostGuardByHand, ("processes",)),
    "tuppence": (Tuppence, ("threads", "tasks", "processes")),
    "tuppence, Redis": (TuppenceShared, ("threads", "tasks", "processes")),
}
"""Which kinds of callers each is made for."""


def race_of_threads(guard: Guard, callers: int, ready: Callable[[], object]) -> int:
    """Let threads call all at once; return how many calls were made."""
    made: list[None] = []
    start = threading.Barrier(callers, action=ready)

    def work() -> None:
        made.append(None)
        time.sleep(CALL_SECONDS)

    def call() -> None:
        start.wait()
        guard.call(work)

    with ThreadPoolExecutor(callers) as threads:
        # The budget of the caller's context is that of its threads.
        calls = [threads.submit(contextvars.copy_context().run, call) for _ in range(callers)]
        for one in calls:
            one.result()
    return len(made)


async def race_of_tasks(guard: Guard) -> int:
    """Let tasks call all at once; return how many calls were made."""
    made: list[None] = []

    async def work() -> None:
        """Make one call among many."""
        made.append(None)
        await asyncio.sleep(CALL_SECONDS)

    await asyncio.gather(*(guard.call_async(work) for _ in range(CALLERS)))
    return len(made)


def race_of_processes(library: str, name: str, store: Store) -> int:
    """Let the threads of some processes call all at once; return how many calls were made."""
    context = get_context("spawn")
    start, made = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=_run_process, args=(library, name, store, start, made))
        for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    total = sum(made.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return total


def _run_process(library: str, name: str, store: Store, start: Any, made: Any) -> None:
    guard = GUARDS[library][0](name, LIMIT, store)
    made.put(race_of_threads(guard, CALLERS // PROCESSES, start.wait))
    guard.close()


def race(library: str, callers: str, store: Store) -> int:
    """Return how many calls were made on a new budget."""
    name = f"race-{secrets.token_hex(4)}"
    if callers == "processes":
        return race_of_processes(library, name, store)
    guard = GUARDS[library][0](name, LIMIT, store)
    try:
        if callers == "tasks":
            return asyncio.run(race_of_tasks(guard))
        return race_of_threads(guard, CALLERS, lambda: None)
    finally:
        guard.close()


def micros_per_call(library: str, store: Store) -> float:
    """Return the median time that a lone caller spends on the budget per call."""
    guard = GUARDS[library][0](f"alone-{secrets.token_hex(4)}", AMPLE, store)
    taken = []
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        guard.call(lambda: None)
        taken.append(time.perf_counter() - start)
    guard.close()
    return median(taken) * 1e6


def main(library: str, redis_url: str) -> None:
    """Measure one library."""
    with tempfile.TemporaryDirectory() as directory:
        store = Store(f"sqlite:///{directory}/budgets.db", redis_url)
        ways = GUARDS[library][1]
        made = {callers: race(library, callers, store) for callers in ways}
        json.dump({"made": made, "micros": micros_per_call(library, store)}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
