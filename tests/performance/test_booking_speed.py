"""Booking, beside the bare engines with the same durability."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from tests.performance.conftest import median_seconds
from tuppence.cost_tracking.booking import LOG_COLUMNS
from tuppence.cost_tracking.service import CostTrackingService
from tuppence.storage.sqlite import SETTINGS

START = datetime(2026, 11, 2, tzinfo=UTC)
ROWS = 50_000


@pytest.fixture
def tracker(database_url: str) -> Iterator[CostTrackingService]:
    """A service on an empty ledger, on both databases."""
    service = CostTrackingService(database_url)
    yield service
    service.close()


def record(number: int) -> Any:
    """A call of a company with 10 teams, 40 projects and 200 users, in the course of a day."""
    return {
        "team_id": f"team-{number % 10}",
        "project_id": f"project-{number % 40}",
        "user_id": f"user-{number % 200}",
        "model": ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5")[number % 3],
        "input_tokens": number % 1000,
        "cache_read_tokens": 5000 + number % 777,
        "output_tokens": number % 300,
        "timestamp": START + timedelta(seconds=number % 86_400),
        "response_id": f"msg_{number}",
    }


def bare_insert(path: Path, row: tuple[Any, ...]) -> Callable[[], None]:
    """Return the bare insert of a usage row, committed with the ledger's own settings."""
    connection = sqlite3.connect(path, isolation_level=None)
    for setting in SETTINGS:
        connection.execute(setting)
    columns = ", ".join(LOG_COLUMNS[1:])
    connection.execute(f"CREATE TABLE bare (id INTEGER PRIMARY KEY, {columns})")
    statement = f"INSERT INTO bare ({columns}) VALUES ({', '.join('?' * len(row))})"

    def insert() -> None:
        connection.execute(statement, row)

    return insert


def test_one_call_at_a_time(
    tmp_path: Path, sqlite_url: str, benchmark: Any, figure: Callable[..., None]
) -> None:
    """log_api_usage in a loop is within 3x of the bare durable insert of the same row."""
    service = CostTrackingService(sqlite_url)
    service.log_api_usage(**record(1))
    (row,) = service.ledger.database.read(
        lambda tx: tx.rows(f"SELECT {', '.join(LOG_COLUMNS[1:])} FROM api_usage_log")
    )
    insert = bare_insert(tmp_path / "bare.db", row)
    numbers = iter(range(2, 10**6))

    def book() -> None:
        service.log_api_usage(**record(next(numbers)))

    ratios = []
    for _ in range(7):  # in turn, so that a slow moment of the disk meets both
        own, bare = median_seconds(book, 200), median_seconds(insert, 200)
        ratios.append(own / bare)
    benchmark.pedantic(book, rounds=200)
    ratio = sorted(ratios)[len(ratios) // 2]
    figure(
        "log_api_usage / bare durable insert",
        f"{ratio:.2f}x",
        f"target 3x; {own * 1e6:.0f} us against {bare * 1e6:.0f} us",
    )
    service.close()


def test_many_calls(tracker: CostTrackingService, figure: Callable[..., None]) -> None:
    """log_many books at least 20,000 rows/s, priced and rolled up, on both databases."""
    kind = tracker.ledger.database.url.partition(":")[0].partition("+")[0]
    tracker.log_many([record(-1)])
    records = [record(number) for number in range(ROWS)]
    rates = []
    for part in range(0, ROWS, 10_000):
        some = records[part : part + 10_000]
        start = perf_counter()
        tracker.log_many(some)
        rates.append(len(some) / (perf_counter() - start))
    rate = sorted(rates)[len(rates) // 2]
    figure(f"log_many on {kind}", f"{rate:,.0f} rows/s", "target 20,000, aim 50,000")
    tracker.ledger.verify()
