"""The ledger of the first version: usage log, roll-ups, dictionaries, prices, budgets.

Written out and frozen: a later change of the models is a migration of its own.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "cost_alerts",
    "cost_budgets",
    "contract_prices",
    "usage_daily_by_project",
    "usage_daily",
    "usage_hourly_by_project",
    "usage_hourly",
    "api_usage_log",
    "applied_prices",
    "attribution_tags",
    "attributions",
    "sessions",
    "models",
    "teams",
    "tags",
    "projects",
    "people",
)
"""In an order in which they can be dropped."""

SUMS = (
    "request_count",
    "unpriced_count",
    "incomplete_count",
    "input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_write_other_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
    "input_cost_nanos",
    "cache_write_cost_nanos",
    "cache_read_cost_nanos",
    "output_cost_nanos",
    "other_cost_nanos",
    "cache_savings_nanos",
)
"""What every roll-up sums."""


def upgrade() -> None:
    """Create all tables."""
    _create_dictionaries()
    _create_attributions()
    _create_usage_log()
    _create_roll_ups()
    _create_prices()
    _create_budgets()


def downgrade() -> None:
    """Drop all tables and what is in them."""
    for table in TABLES:
        op.drop_table(table)


def _create_dictionaries() -> None:
    for table in ("people", "projects", "tags", "teams"):
        op.create_table(
            table,
            sa.Column("id", sa.Integer(), nullable=False),
            sa.Column("name", sa.String(255), nullable=False),
            sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
            sa.UniqueConstraint("name", name=f"uq_{table}_name"),
        )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("provider", "name", name="uq_models_provider_name"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("agent", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("name", "agent", name="uq_sessions_name_agent"),
    )


def _create_attributions() -> None:
    op.create_table(
        "attributions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.Column("team_ref", sa.Integer(), nullable=True),
        sa.Column("project_ref", sa.Integer(), nullable=True),
        sa.Column("person_ref", sa.Integer(), nullable=True),
        sa.Column("task_type", sa.String(255), nullable=True),
        sa.Column("task_complexity", sa.String(255), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_attributions"),
        sa.UniqueConstraint("digest", name="uq_attributions_digest"),
        sa.ForeignKeyConstraint(
            ["person_ref"], ["people.id"], name="fk_attributions_person_ref_people"
        ),
        sa.ForeignKeyConstraint(
            ["project_ref"], ["projects.id"], name="fk_attributions_project_ref_projects"
        ),
        sa.ForeignKeyConstraint(["team_ref"], ["teams.id"], name="fk_attributions_team_ref_teams"),
    )
    op.create_table(
        "attribution_tags",
        sa.Column("attribution_ref", sa.Integer(), nullable=False),
        sa.Column("tag_ref", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("attribution_ref", "tag_ref", name="pk_attribution_tags"),
        sa.ForeignKeyConstraint(
            ["attribution_ref"],
            ["attributions.id"],
            name="fk_attribution_tags_attribution_ref_attributions",
        ),
        sa.ForeignKeyConstraint(["tag_ref"], ["tags.id"], name="fk_attribution_tags_tag_ref_tags"),
    )


def _create_usage_log() -> None:
    op.create_table(
        "api_usage_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("occurred_at_micros", sa.BigInteger(), nullable=False),
        sa.Column("attribution_ref", sa.Integer(), nullable=False),
        sa.Column("session_ref", sa.Integer(), nullable=True),
        sa.Column("model_ref", sa.Integer(), nullable=False),
        sa.Column("price_ref", sa.Integer(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=False),
        sa.Column("cache_write_5m_tokens", sa.Integer(), nullable=False),
        sa.Column("cache_write_1h_tokens", sa.Integer(), nullable=False),
        sa.Column("cache_write_other_tokens", sa.Integer(), nullable=False),
        sa.Column("cache_read_tokens", sa.Integer(), nullable=False),
        sa.Column("output_tokens", sa.Integer(), nullable=False),
        sa.Column("reasoning_tokens", sa.Integer(), nullable=False),
        sa.Column("input_cost_nanos", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_cost_nanos", sa.BigInteger(), nullable=False),
        sa.Column("cache_read_cost_nanos", sa.BigInteger(), nullable=False),
        sa.Column("output_cost_nanos", sa.BigInteger(), nullable=False),
        sa.Column("other_cost_nanos", sa.BigInteger(), nullable=False),
        sa.Column("cache_savings_nanos", sa.BigInteger(), nullable=False),
        sa.Column("request_count", sa.SmallInteger(), nullable=False),
        sa.Column("unpriced_count", sa.SmallInteger(), nullable=False),
        sa.Column("incomplete_count", sa.SmallInteger(), nullable=False),
        sa.Column("terms", sa.String(255), nullable=True),
        sa.Column("other_units", sa.Text(), nullable=True),
        sa.Column("corrects_ref", sa.BigInteger(), nullable=True),
        sa.Column("idempotency_key", sa.LargeBinary(16), nullable=True),
        sa.Column("part", sa.SmallInteger(), nullable=False),
        sa.Column("fingerprint", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_usage_log"),
    )
    op.create_index("ix_api_usage_log_occurred_at_micros", "api_usage_log", ["occurred_at_micros"])
    _create_partial_index(
        "uq_api_usage_log_key",
        ["idempotency_key", "part"],
        "idempotency_key IS NOT NULL",
        unique=True,
    )
    _create_partial_index("ix_api_usage_log_unpriced", ["model_ref"], "unpriced_count > 0")
    _create_partial_index("ix_api_usage_log_corrects", ["corrects_ref"], "corrects_ref IS NOT NULL")


def _create_partial_index(
    name: str, columns: list[str], condition: str, *, unique: bool = False
) -> None:
    where = sa.text(condition)
    op.create_index(
        name, "api_usage_log", columns, unique=unique, sqlite_where=where, postgresql_where=where
    )


def _create_roll_ups() -> None:
    op.create_table(
        "usage_hourly",
        sa.Column("hour", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attribution_ref", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model_ref", sa.Integer(), autoincrement=False, nullable=False),
        *_sums(),
        sa.PrimaryKeyConstraint("hour", "attribution_ref", "model_ref", name="pk_usage_hourly"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_daily",
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attribution_ref", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model_ref", sa.Integer(), autoincrement=False, nullable=False),
        *_sums(),
        sa.PrimaryKeyConstraint("day", "attribution_ref", "model_ref", name="pk_usage_daily"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_daily_by_project",
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("team_ref", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("project_ref", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model_ref", sa.Integer(), autoincrement=False, nullable=False),
        *_sums(),
        sa.PrimaryKeyConstraint(
            "day", "team_ref", "project_ref", "model_ref", name="pk_usage_daily_by_project"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_hourly_by_project",
        sa.Column("hour", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("team_ref", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("project_ref", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model_ref", sa.Integer(), autoincrement=False, nullable=False),
        *_sums(),
        sa.PrimaryKeyConstraint(
            "hour", "team_ref", "project_ref", "model_ref", name="pk_usage_hourly_by_project"
        ),
        sqlite_with_rowid=False,
    )


def _create_prices() -> None:
    op.create_table(
        "applied_prices",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("terms", sa.String(255), nullable=False),
        sa.Column("rates", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_applied_prices"),
        sa.UniqueConstraint("digest", name="uq_applied_prices_digest"),
    )
    op.create_table(
        "contract_prices",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("price_key", sa.String(64), nullable=False),
        sa.Column("dollars", sa.String(40), nullable=False),
        sa.Column("starts_at_micros", sa.BigInteger(), nullable=False),
        sa.Column("created_at_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_contract_prices"),
    )


def _create_budgets() -> None:
    op.create_table(
        "cost_budgets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("entity_type", sa.String(16), nullable=False),
        sa.Column("entity_ref", sa.Integer(), nullable=False),
        sa.Column("period", sa.String(16), nullable=False),
        sa.Column("time_zone", sa.String(64), nullable=False),
        sa.Column("limit_nanos", sa.BigInteger(), nullable=False),
        sa.Column("warning_threshold", sa.Float(), nullable=False),
        sa.Column("critical_threshold", sa.Float(), nullable=False),
        sa.Column("created_at_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cost_budgets"),
        sa.UniqueConstraint(
            "entity_type",
            "entity_ref",
            "period",
            name="uq_cost_budgets_entity_type_entity_ref_period",
        ),
    )
    op.create_table(
        "cost_alerts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("budget_ref", sa.Integer(), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("period_start_micros", sa.BigInteger(), nullable=False),
        sa.Column("current_usage_nanos", sa.BigInteger(), nullable=False),
        sa.Column("limit_nanos", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cost_alerts"),
        sa.UniqueConstraint(
            "budget_ref",
            "severity",
            "period_start_micros",
            name="uq_cost_alerts_budget_ref_severity_period_start_micros",
        ),
        sa.ForeignKeyConstraint(
            ["budget_ref"], ["cost_budgets.id"], name="fk_cost_alerts_budget_ref_cost_budgets"
        ),
    )


def _sums() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in SUMS]
