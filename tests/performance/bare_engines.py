"""The bare engines: what a budget is at the least, one conditional UPDATE that is durable."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter

import psycopg
import redis

from tuppence.storage.sqlite import SETTINGS

Update = Callable[[], object]

TABLE = "bare (id INTEGER PRIMARY KEY, limit_nanos BIGINT, spent BIGINT, held BIGINT)"
ROW = "INSERT INTO bare VALUES (1, 1000000000000000, 0, 0)"
UPDATE = "UPDATE bare SET held = held + 5 WHERE id = 1 AND spent + held + 5 <= limit_nanos"


@contextmanager
def bare_sqlite(path: Path) -> Iterator[Update]:
    """Lend the update of a row in a file, committed with the ledger's own settings."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for setting in SETTINGS:
            connection.execute(setting)
        connection.execute(f"CREATE TABLE {TABLE}")
        connection.execute(ROW)
        yield lambda: connection.execute(UPDATE)


@contextmanager
def bare_postgresql(url: str) -> Iterator[Update]:
    """Lend the update of a row, a transaction each, on a connection of its own."""
    make_table(url)
    with psycopg.connect(url, autocommit=True) as connection:
        yield lambda: connection.execute(UPDATE, prepare=True)


def make_table(url: str) -> None:
    """Make the row in PostgreSQL."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {TABLE} WITH (fillfactor = 50)")
        connection.execute(ROW)


def updates_per_second(url: str, connections: int, each: int) -> float:
    """Return how many updates of one hot row PostgreSQL commits for so many connections."""
    opened = [psycopg.connect(url, autocommit=True) for _ in range(connections)]

    def update(connection: psycopg.Connection) -> None:
        for _ in range(each):
            connection.execute(UPDATE, prepare=True)

    try:
        with ThreadPoolExecutor(connections) as threads:
            start = perf_counter()
            list(threads.map(update, opened))
            return connections * each / (perf_counter() - start)
    finally:
        for connection in opened:
            connection.close()


def is_durable(url: str) -> bool:
    """Tell whether a commit on this server is on the disk when it returns."""
    with psycopg.connect(url) as connection:
        settings = [connection.execute(f"SHOW {name}") for name in ("fsync", "synchronous_commit")]
        return all(row == ("on",) for row in (setting.fetchone() for setting in settings))


RESERVE = """
local used = tonumber(redis.call('hget', KEYS[1], 'used') or '0')
if used + tonumber(ARGV[1]) > tonumber(ARGV[2]) then return -1 end
redis.call('hincrby', KEYS[1], 'used', ARGV[1])
return 1
"""


@contextmanager
def bare_redis(url: str) -> Iterator[Update]:
    """Lend the same as a script in Redis, which is not durable."""
    with closing(redis.Redis.from_url(url)) as connection:
        script = connection.script_load(RESERVE)
        yield lambda: connection.evalsha(script, 1, "bare", "5", "1000000000000000")
