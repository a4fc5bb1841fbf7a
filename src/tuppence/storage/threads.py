"""The bridge from asyncio to the ledger: blocking operations run in a few threads of their own.

The work is one database transaction per call, so threads cost nothing that matters: SQLite has one
writer anyway, and a PostgreSQL pool has as many connections as there are threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseThreads:
    """Runs functions for asyncio callers."""

    def __init__(self, count: int = 8) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="tuppence")

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function and await its result."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))

    def shutdown(self) -> None:
        """Wait for what runs and end the threads."""
        self._executor.shutdown()
