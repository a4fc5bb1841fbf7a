"""CostTrackingService: the ledger as the specification shows it, and its async twin.

Dollars are floats here, each the correctly rounded value of the exact integer beside it
(`..._nanos`). Errors are those of `tuppence.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack

from tuppence.core.money import Money, round_half_even, to_dollars, to_nanos
from tuppence.core.periods import Span, from_micros, load_zone
from tuppence.core.usage import MeteredResponse
from tuppence.cost_tracking.booking import LOG_COLUMNS, Booked, Call
from tuppence.cost_tracking.budgets import Budget, NewBudget, encode_shares
from tuppence.cost_tracking.collector import paused_collector
from tuppence.cost_tracking.ledger import Ledger, utc_now
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.models import APIUsageLog, CostBudget
from tuppence.cost_tracking.records import (
    AttributionRecord,
    UsageRecord,
    call_of_record,
    call_of_response,
)
from tuppence.cost_tracking.summary import SummaryQuery
from tuppence.errors import InvalidInput, InvalidPeriod
from tuppence.insights.suggestion import SuggestionDict
from tuppence.insights.suggestions import suggest
from tuppence.providers import read_response
from tuppence.settings import load_settings
from tuppence.storage.database import Row
from tuppence.storage.threads import DatabaseThreads

MAX_DAYS = 36_500


class CostSummary(TypedDict):
    """Costs of one group."""

    entity: str
    total_cost: float
    total_cost_nanos: int
    request_count: int
    avg_cost_per_request: float
    """Over the requests that have a price."""
    cache_savings: float
    cache_savings_nanos: int
    input_tokens: int
    cache_write_tokens: int
    cache_read_tokens: int
    output_tokens: int
    unpriced_requests: int
    output_incomplete_requests: int


class CostTrackingService:
    """Books what model calls cost and answers who spent what.

    Without `database_url` the ledger is the one that DATABASE_URL names, or a SQLite file in the
    user's data directory. Raises DatabaseUnreachable or SchemaMismatch where it cannot be used.
    """

    def __init__(
        self, database_url: str | None = None, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.ledger = Ledger.open(database_url, now)

    def log_api_usage(self, **usage: Unpack[UsageRecord]) -> APIUsageLog:
        """Book one call, durably, and return its row.

        The same idempotency key or response id with the same arguments returns the row that is
        there. `hold_id` names the hold that pays for the call: its settlement counts against
        budgets, and the call does not count again.

        Raises InvalidUsage, InvalidInput, IdempotencyConflict; then nothing was written.
        """
        return self._log(self._call(usage))[0]

    def log_response(
        self,
        response: object,
        *,
        provider: str,
        model: str = "",
        **attribution: Unpack[AttributionRecord],
    ) -> list[APIUsageLog]:
        """Book a provider's response (a dictionary or an SDK's object), all parts of it.

        Counts are read by the provider's own convention. `model` is for responses that do not name
        theirs (Bedrock Converse). Raises as `log_api_usage`.
        """
        metered = read_response(response, provider, model=model)
        return self.log_metered(metered, provider=provider, **attribution)

    def log_metered(
        self, metered: MeteredResponse, *, provider: str, **attribution: Unpack[AttributionRecord]
    ) -> list[APIUsageLog]:
        """Book what was read of a response before, such as `ProviderError.metered`.

        Raises as `log_api_usage`.
        """
        return self._log(call_of_response(metered, provider, attribution, self.ledger.now()))

    def log_many(self, records: Iterable[UsageRecord]) -> Booked:
        """Book many calls in one transaction: all of them or, on an error, none."""
        with paused_collector():
            return self.ledger.book([self._call(record) for record in records])

    def get_cost_summary(
        self,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        group_by: str | None = None,
        allowed_teams: Sequence[str] | None = None,
        time_zone: str = "UTC",
    ) -> list[CostSummary]:
        """Return the costs in [start_date, end_date), the largest first.

        Without `group_by` the list has one entry, for "all". `allowed_teams` restricts to these
        teams; None is for a caller that may see everything. Raises UnknownGrouping, InvalidPeriod.
        """
        if isinstance(allowed_teams, str):
            raise InvalidInput(
                "is one text, not a list of teams",
                field="allowed_teams",
                value=allowed_teams,
                remedy='give ["a", "b"]',
            )
        only = (("team", tuple(allowed_teams)),) if allowed_teams is not None else ()
        query = SummaryQuery(
            (group_by,) if group_by is not None else (),
            Span.between(start_date, end_date),
            load_zone(time_zone),
            only,
        ).check()
        if allowed_teams is not None and not allowed_teams:
            return []
        rows, total = self.ledger.summary(query)
        if group_by is None:
            return [_summary("all", total)]
        return [_summary(row.keys[0], row.measures) for row in rows]

    def create_budget(
        self,
        entity_type: str,
        entity_id: str,
        monthly_limit: Money,
        warning_threshold: float | None = None,
        critical_threshold: float | None = None,
        time_zone: str = "UTC",
    ) -> CostBudget:
        """Create the monthly budget of an entity; an existing one gets the new limit.

        `entity_type` is organisation ("default" for all calls), team, project, user, session,
        agent or tag. The budget begins with what its month has seen.

        Raises InvalidMoney for a limit that is no amount, InvalidInput for an unknown entity type.
        """
        settings = load_settings()
        budget = NewBudget(
            entity_type,
            entity_id,
            to_nanos(monthly_limit, field="monthly_limit"),
            settings.warning_threshold if warning_threshold is None else warning_threshold,
            settings.critical_threshold if critical_threshold is None else critical_threshold,
            time_zone,
        )
        return _budget_row(self.ledger.create_budget(budget))

    def get_optimization_suggestions(
        self, team_id: str | None = None, days: int = 30, language: str | None = None
    ) -> list[SuggestionDict]:
        """Return what would save money, by the calls of the last `days` days.

        `language` is "en" or "zh_TW"; by default that of the settings.
        """
        if days not in range(1, MAX_DAYS + 1):
            raise InvalidPeriod(
                "is not a usable number of days",
                field="days",
                value=days,
                remedy=f"give a whole number from 1 to {MAX_DAYS}",
            )
        now = self.ledger.now()
        span = Span.between(now - timedelta(days=days), now)
        book = self.ledger.price_book()
        found = self.ledger.database.read(suggest, book, span=span, team_id=team_id)
        return [one.to_dict(language or load_settings().language) for one in found]

    def close(self) -> None:
        """Close the database."""
        self.ledger.close()

    def _call(self, record: UsageRecord) -> Call:
        return call_of_record(record, self.ledger.now(), self.ledger.provider_of)

    def _log(self, call: Call) -> list[APIUsageLog]:
        rows, _ = self.ledger.book_one(call)
        return [_log_row(row, call) for row in rows]


class AsyncCostTrackingService:
    """The same for asyncio: every method as in CostTrackingService, to be awaited."""

    def __init__(
        self, database_url: str | None = None, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._service = CostTrackingService(database_url, now=now)
        self._threads = DatabaseThreads()

    async def log_api_usage(self, **usage: Unpack[UsageRecord]) -> APIUsageLog:
        """See CostTrackingService.log_api_usage."""
        return await self._threads.call(self._service.log_api_usage, **usage)

    async def log_response(
        self,
        response: object,
        *,
        provider: str,
        model: str = "",
        **attribution: Unpack[AttributionRecord],
    ) -> list[APIUsageLog]:
        """See CostTrackingService.log_response."""
        return await self._threads.call(
            self._service.log_response, response, provider=provider, model=model, **attribution
        )

    async def log_metered(
        self, metered: MeteredResponse, *, provider: str, **attribution: Unpack[AttributionRecord]
    ) -> list[APIUsageLog]:
        """See CostTrackingService.log_metered."""
        return await self._threads.call(
            self._service.log_metered, metered, provider=provider, **attribution
        )

    async def log_many(self, records: Iterable[UsageRecord]) -> Booked:
        """See CostTrackingService.log_many."""
        return await self._threads.call(self._service.log_many, records)

    async def get_cost_summary(
        self,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        group_by: str | None = None,
        allowed_teams: Sequence[str] | None = None,
        time_zone: str = "UTC",
    ) -> list[CostSummary]:
        """See CostTrackingService.get_cost_summary."""
        return await self._threads.call(
            self._service.get_cost_summary, start_date, end_date, group_by, allowed_teams, time_zone
        )

    async def create_budget(
        self,
        entity_type: str,
        entity_id: str,
        monthly_limit: Money,
        warning_threshold: float | None = None,
        critical_threshold: float | None = None,
        time_zone: str = "UTC",
    ) -> CostBudget:
        """See CostTrackingService.create_budget."""
        return await self._threads.call(
            self._service.create_budget,
            entity_type,
            entity_id,
            monthly_limit,
            warning_threshold,
            critical_threshold,
            time_zone,
        )

    async def get_optimization_suggestions(
        self, team_id: str | None = None, days: int = 30, language: str | None = None
    ) -> list[SuggestionDict]:
        """See CostTrackingService.get_optimization_suggestions."""
        return await self._threads.call(
            self._service.get_optimization_suggestions, team_id, days, language
        )

    async def close(self) -> None:
        """Close the database and end the threads."""
        await self._threads.call(self._service.close)
        self._threads.shutdown()


def _summary(entity: str, measures: Measures) -> CostSummary:
    # A request of several parts may have several without a price.
    priced = max(measures.request_count - measures.unpriced_count, 0) or measures.request_count
    average = round_half_even(measures.cost_nanos, priced) if priced else 0
    return CostSummary(
        entity=entity,
        total_cost=to_dollars(measures.cost_nanos),
        total_cost_nanos=measures.cost_nanos,
        request_count=measures.request_count,
        avg_cost_per_request=to_dollars(average),
        cache_savings=to_dollars(measures.cache_savings_nanos),
        cache_savings_nanos=measures.cache_savings_nanos,
        input_tokens=measures.input_tokens,
        cache_write_tokens=measures.cache_write_tokens,
        cache_read_tokens=measures.cache_read_tokens,
        output_tokens=measures.output_tokens,
        unpriced_requests=measures.unpriced_count,
        output_incomplete_requests=measures.incomplete_count,
    )


def _log_row(row: Row, call: Call) -> APIUsageLog:
    """Return a mapped row as SQLAlchemy would load it, without asking the database again."""
    provider, model, *values = row
    columns: Mapping[str, Any] = dict(zip(LOG_COLUMNS, values, strict=True))
    attribution = call.attribution
    names = {name: value or None for name, value in attribution._asdict().items() if name != "tags"}
    timestamp = from_micros(columns["occurred_at_micros"])
    total = sum(columns[name] for name in LOG_COLUMNS if name.endswith("_cost_nanos"))
    return APIUsageLog(
        timestamp=timestamp,
        model=model,
        provider=provider,
        total_cost_nanos=total,
        **names,
        **{name: value for name, value in columns.items() if name != "occurred_at_micros"},
    )


def _budget_row(budget: Budget) -> CostBudget:
    return CostBudget(
        id=budget.id,
        entity_type=budget.entity_type,
        entity_id=budget.entity_id,
        period=budget.period,
        window_seconds=budget.window_seconds,
        time_zone=budget.time_zone,
        limit_nanos=budget.limit_nanos,
        mode=budget.terms.mode,
        warning_threshold=budget.terms.warning_threshold,
        critical_threshold=budget.terms.critical_threshold,
        critical_ceiling=budget.terms.critical_ceiling,
        overdraft_share=budget.terms.overdraft_share,
        reserved_shares=encode_shares(budget.terms.reserved_shares),
        paused=int(budget.terms.paused),
        created_at=from_micros(budget.created_at_micros),
    )
