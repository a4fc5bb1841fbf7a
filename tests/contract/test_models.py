"""The mapped classes: users read the ledger with SQLAlchemy, and write it through the service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from tests.contract.ledgers import NOON, UNPRICED, call, plain_measures, plain_sum
from tuppence.cost_tracking.budgets import NewBudget
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.models import (
    APIUsageLog,
    AppliedPrice,
    CostAlert,
    CostBudget,
    DailyProjectUsage,
    DailyUsage,
    HourlyProjectUsage,
    HourlyUsage,
)
from tuppence.errors import InvalidInput

FULL = call(
    key="full",
    counts={
        "cache_read_tokens": 7,
        "cache_write_5m_tokens": 5,
        "other_units": (("web_searches", 3),),
    },
    team_id="red",
    project_id="o'neil",
    user_id="王小明",
    task_type="review",
    task_complexity="simple",
    session_id="s1",
    agent_id="agent",
    tags=("x", "y"),
)
BARE = call(model=UNPRICED, team_id="", complete=False)


@pytest.fixture
def session(ledger: Ledger) -> Iterator[Session]:
    """Return a session of the user's own on a ledger with a full and a bare call."""
    ledger.book([FULL])
    ledger.book([BARE, call(team_id="blue")])
    engine = create_engine(ledger.database.url, poolclass=NullPool)
    with Session(engine) as opened:
        yield opened


def test_names_appear_on_a_row(session: Session) -> None:
    """A row must show the names that the call was booked with, not the numbers behind them."""
    row = session.scalars(select(APIUsageLog).order_by(APIUsageLog.id)).first()
    assert row is not None
    names = ("team_id", "project_id", "user_id", "task_type", "task_complexity", "session_id")
    assert [getattr(row, name) for name in names] == [*FULL.attribution[:5], "s1"]
    assert (row.agent_id, row.model, row.provider) == ("agent", "alpha", "acme")
    assert (row.timestamp, row.idempotency_key) == (NOON, FULL.idempotency_key)
    assert row.other_units == "web_searches=3"


def test_figures_appear_on_a_row(session: Session) -> None:
    """Costs must be there as exact integers, and in dollars beside them."""
    row = session.scalars(select(APIUsageLog).order_by(APIUsageLog.id)).first()
    assert row is not None
    measures = plain_measures(FULL)
    assert row.total_cost_nanos == measures.cost_nanos
    assert row.total_cost == measures.cost_nanos / 1e9
    assert (row.cached_tokens, row.cache_savings_nanos) == (7, measures.cache_savings_nanos)
    prompt = measures.input_cost_nanos + measures.cache_write_cost_nanos
    assert row.input_cost == (prompt + measures.cache_read_cost_nanos) / 1e9
    assert row.output_cost == measures.output_cost_nanos / 1e9


def test_a_bare_row_says_what_is_not_known(session: Session) -> None:
    """An unpriced call without a team must have no cost and no name, rather than 0 and ''."""
    row = session.scalars(select(APIUsageLog).where(APIUsageLog.unpriced_count > 0)).one()
    assert (row.unpriced, row.total_cost, row.input_cost, row.output_cost) == (True, *[None] * 3)
    assert row.cache_savings is None
    assert {row.team_id, row.project_id, row.user_id, row.session_id, row.price_ref} == {None}
    assert (row.model, row.provider, row.incomplete_count) == (UNPRICED, "unknown", 1)


def test_rows_can_be_filtered_by_name(session: Session) -> None:
    """Names must work in conditions, as the columns that they look like."""
    red = session.scalars(select(APIUsageLog).where(APIUsageLog.team_id == "red")).all()
    assert [row.project_id for row in red] == ["o'neil"]
    query = select(APIUsageLog).where(APIUsageLog.user_id == "王小明", APIUsageLog.model == "alpha")
    assert len(session.scalars(query).all()) == 1
    query = select(APIUsageLog).where(APIUsageLog.team_id == "'; DROP TABLE teams; --")
    assert session.scalars(query).all() == []
    assert len(session.scalars(select(APIUsageLog).where(APIUsageLog.team_id.is_(None))).all()) == 1


def test_names_can_be_selected_and_grouped_by(session: Session) -> None:
    """A query for the name alone, or for sums by name, must see each row's own name."""
    names = session.scalars(select(APIUsageLog.team_id).order_by(APIUsageLog.id)).all()
    assert names == ["red", None, "blue"]
    assert sorted(map(str, session.scalars(select(APIUsageLog.team_id)))) == ["None", "blue", "red"]
    totals = session.execute(
        select(APIUsageLog.team_id, func.sum(APIUsageLog.total_cost_nanos))
        .group_by(APIUsageLog.team_id)
        .order_by(APIUsageLog.team_id)
    ).all()
    costs = {name: int(nanos) for name, nanos in totals}
    assert costs["red"] == plain_measures(FULL).cost_nanos
    assert sum(costs.values()) == plain_sum([FULL, BARE, call()]).cost_nanos


def test_rows_cannot_be_inserted_past_the_ledger(session: Session) -> None:
    """A row that is added directly would bypass prices and roll-ups, and must be refused."""
    session.add(APIUsageLog(model="alpha", input_tokens=1, team_id="red"))
    with pytest.raises(InvalidInput) as refused:
        session.flush()
    assert "log_api_usage" in refused.value.remedy
    session.rollback()
    assert session.scalar(select(func.count()).select_from(APIUsageLog)) == 3


@pytest.mark.parametrize(
    "roll_up", [HourlyUsage, DailyUsage, HourlyProjectUsage, DailyProjectUsage]
)
def test_roll_ups_can_be_read(session: Session, roll_up: type[HourlyUsage]) -> None:
    """Each roll-up must add up to the whole when read through its class."""
    total = session.scalar(select(func.sum(roll_up.output_cost_nanos)))
    assert int(total or 0) == plain_sum([FULL, BARE, call()]).output_cost_nanos


def test_applied_prices_tell_the_rates(session: Session) -> None:
    """The price that a call was booked at must be found from its row, as it was then."""
    row = session.scalars(select(APIUsageLog).order_by(APIUsageLog.id)).first()
    assert row is not None
    price = session.get(AppliedPrice, row.price_ref)
    assert price is not None
    assert (price.provider, price.model) == ("acme", "alpha")
    assert "input_tokens=3;" in price.rates


def test_budgets_show_their_entity(ledger: Ledger, session: Session) -> None:
    """Each kind of budget must show the name of its entity and its limit in dollars."""
    for kind, name in (("team", "red"), ("project", "o'neil"), ("user", "王小明")):
        ledger.create_budget(NewBudget(kind, name, 1_500_000_000))
    rows = session.scalars(select(CostBudget).order_by(CostBudget.id)).all()
    assert [(row.entity_type, row.entity_id, row.monthly_limit) for row in rows] == [
        ("team", "red", 1.5),
        ("project", "o'neil", 1.5),
        ("user", "王小明", 1.5),
    ]
    assert [row.created_at for row in rows] == [NOON] * 3


def test_alerts_are_one_per_threshold_and_period(ledger: Ledger, session: Session) -> None:
    """A second alert for the same threshold and month must be refused by the database itself."""
    budget = ledger.create_budget(NewBudget("team", "red", 1_000))

    def alert() -> CostAlert:
        return CostAlert(
            budget_ref=budget.id,
            severity="warning",
            period_start=NOON.replace(day=1, hour=0),
            current_usage_nanos=900,
            limit_nanos=1_000,
            message="80%",
            created_at=NOON,
        )

    session.add(alert())
    session.commit()
    found = session.scalars(select(CostAlert)).one()
    assert (found.current_usage, found.budget_limit) == (9e-7, 1e-6)
    session.add(alert())
    with pytest.raises(Exception, match=r"(?i)unique"):
        session.commit()


def test_a_naive_moment_is_utc(session: Session) -> None:
    """A condition with a naive datetime must mean the same as with UTC."""
    at = APIUsageLog.timestamp
    naive, aware = (
        len(session.scalars(select(APIUsageLog).where(at == moment)).all())
        for moment in (NOON.replace(tzinfo=None), NOON)
    )
    assert (naive, aware) == (3, 3)
