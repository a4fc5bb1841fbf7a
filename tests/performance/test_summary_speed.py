"""Reports over a month of many rows. TUPPENCE_BENCH_ROWS=10000000 makes it the full size."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime

from tests.performance.conftest import p95_seconds
from tuppence.cost_tracking.booking import LOG_COLUMNS
from tuppence.cost_tracking.measures import COLUMNS
from tuppence.cost_tracking.service import CostTrackingService
from tuppence.cost_tracking.verification import rebuild
from tuppence.storage.database import Transaction

ROWS = int(os.environ.get("TUPPENCE_BENCH_ROWS", "1000000"))
MONTH = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
MONTH_START_MICROS = int(MONTH[0].timestamp()) * 10**6
MONTH_MICROS = 30 * 86_400 * 10**6
ATTRIBUTIONS = 2000
"""20 teams with 200 projects and 2,000 users."""


def fill(tx: Transaction) -> None:
    """Make rows as booking would, spread over a month, by SQL alone."""
    for kind, count in (("teams", 20), ("projects", 200), ("people", ATTRIBUTIONS)):
        for number in range(1, count + 1):
            tx.execute(f"INSERT INTO {kind} (id, name) VALUES (?, ?)", (number, f"{kind}-{number}"))
    for number in range(1, ATTRIBUTIONS + 1):
        tx.execute(
            "INSERT INTO attributions (id, digest, team_ref, project_ref, person_ref) "
            "VALUES (?, ?, ?, ?, ?)",
            (number, number.to_bytes(16, "big"), number % 20 + 1, number % 200 + 1, number),
        )
    for number in range(1, 6):
        tx.execute("INSERT INTO models VALUES (?, 'anthropic', ?)", (number, f"model-{number}"))
    values = {"request_count": "1", "unpriced_count": "0", "incomplete_count": "0"}
    values |= {name: "n % 1000" for name in COLUMNS if name not in values}
    fixed = {"id": "n", "price_ref": "1", "part": "0", "fingerprint": "0"}
    empty = ("session_ref", "terms", "other_units", "corrects_ref", "idempotency_key")
    fixed |= dict.fromkeys(empty, "NULL")
    values |= fixed | {
        "occurred_at_micros": f"{MONTH_START_MICROS} + n * ({MONTH_MICROS} / {ROWS})",
        "attribution_ref": f"(n * 7919) % {ATTRIBUTIONS} + 1",
        "model_ref": "n % 5 + 1",
    }
    chosen = ", ".join(values[name] for name in LOG_COLUMNS)
    tx.execute(
        f"INSERT INTO api_usage_log ({', '.join(LOG_COLUMNS)}) "
        "WITH RECURSIVE a(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM a WHERE n < 999), "
        f"b(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM b WHERE n < {ROWS // 1000 - 1}) "
        f"SELECT {chosen} FROM (SELECT CAST(b.n AS BIGINT) * 1000 + a.n AS n FROM b, a) s"
    )
    rebuild(tx)


def test_a_month_by_team(database_url: str, figure: Callable[..., None]) -> None:
    """get_cost_summary over a month by team: p95 at most 100 ms on both databases."""
    service = CostTrackingService(database_url)
    service.ledger.database.run(fill)
    kind = service.ledger.database.url.partition(":")[0].partition("+")[0]
    for start, end, what in (
        (*MONTH, "a month"),
        (datetime(2026, 11, 1), datetime(2026, 11, 30), "29 days"),
        (datetime(2026, 11, 1, 7, 30), datetime(2026, 11, 30, 9, 15), "odd hours"),
    ):
        for by in ("team", "user"):
            seconds = p95_seconds(
                lambda by=by, s=start, e=end: service.get_cost_summary(s, e, group_by=by), 25
            )
            goal = "target 100 ms" if by == "team" else ""
            figure(f"{kind}: {ROWS:,} rows, {what} by {by}, p95", f"{seconds * 1e3:.0f} ms", goal)
    assert service.get_cost_summary(*MONTH)[0]["request_count"] == ROWS
    service.close()
