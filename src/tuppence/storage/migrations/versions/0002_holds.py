"""Hard budgets: scopes, periods and modes of budgets, their counters, holds, audit trail.

Written out and frozen: a later change of the models is a migration of its own.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME_OF_ENTITY = """
    CASE entity_type
        WHEN 'team' THEN (SELECT name FROM teams WHERE teams.id = entity_ref)
        WHEN 'project' THEN (SELECT name FROM projects WHERE projects.id = entity_ref)
        ELSE (SELECT name FROM people WHERE people.id = entity_ref)
    END
"""


def upgrade() -> None:
    """Give budgets names of their own and what hard limits need; add the other tables."""
    op.rename_table("cost_budgets", "old_budgets")
    op.rename_table("cost_alerts", "old_alerts")
    if op.get_bind().dialect.name == "postgresql":
        _free_names_of_old_tables()
    _create_budgets()
    _create_alerts()
    op.execute(
        "INSERT INTO cost_budgets (id, entity_type, entity_id, period, window_seconds, time_zone, "
        "limit_nanos, mode, warning_threshold, critical_threshold, critical_ceiling, "
        "overdraft_share, reserved_shares, paused, created_at_micros) "
        f"SELECT id, entity_type, {NAME_OF_ENTITY}, period, 0, time_zone, limit_nanos, 'strict', "
        "warning_threshold, critical_threshold, 0.1, 0.01, '', 0, created_at_micros "
        "FROM old_budgets"
    )
    op.execute("INSERT INTO cost_alerts SELECT * FROM old_alerts")
    op.drop_table("old_alerts")
    op.drop_table("old_budgets")
    if op.get_bind().dialect.name == "postgresql":
        for table in ("cost_budgets", "cost_alerts"):
            op.execute(
                f"SELECT setval('{table}_id_seq', (SELECT coalesce(max(id), 0) + 1 FROM {table}), "
                "false)"
            )
    _create_counters_and_holds()
    _create_records()


def downgrade() -> None:
    """Drop what was added; budgets of scopes that the first version did not have are lost."""
    for table in ("budget_changes", "budget_version", "budget_workers", "budget_holds"):
        op.drop_table(table)
    op.drop_table("budget_counters")
    op.drop_table("budget_paces")
    op.rename_table("cost_budgets", "new_budgets")
    op.drop_table("cost_alerts")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE new_budgets DROP CONSTRAINT pk_cost_budgets")
        op.execute("ALTER SEQUENCE cost_budgets_id_seq RENAME TO new_budgets_id_seq")
    op.create_table(
        "cost_budgets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("entity_type", sa.String(16), nullable=False),
        sa.Column("entity_ref", sa.Integer(), nullable=False),
        *_unchanged_columns(),
        sa.PrimaryKeyConstraint("id", name="pk_cost_budgets"),
        sa.UniqueConstraint(
            "entity_type",
            "entity_ref",
            "period",
            name="uq_cost_budgets_entity_type_entity_ref_period",
        ),
    )
    for kind, table in (("team", "teams"), ("project", "projects"), ("user", "people")):
        op.execute(
            "INSERT INTO cost_budgets (id, entity_type, entity_ref, period, time_zone, "
            "limit_nanos, warning_threshold, critical_threshold, created_at_micros) "
            "SELECT b.id, b.entity_type, n.id, b.period, b.time_zone, b.limit_nanos, "
            "b.warning_threshold, b.critical_threshold, b.created_at_micros FROM new_budgets b "
            f"JOIN {table} n ON n.name = b.entity_id "
            f"WHERE b.entity_type = '{kind}' AND b.period = 'month'"
        )
    op.drop_table("new_budgets")
    _create_alerts()


def _free_names_of_old_tables() -> None:
    """Constraints and sequences keep their names when a table gets another one."""
    for table in ("cost_budgets", "cost_alerts"):
        old = table.replace("cost", "old")
        op.execute(f"ALTER SEQUENCE {table}_id_seq RENAME TO {old}_id_seq")
    op.execute("ALTER TABLE old_alerts DROP CONSTRAINT fk_cost_alerts_budget_ref_cost_budgets")
    op.execute(
        "ALTER TABLE old_alerts "
        "DROP CONSTRAINT uq_cost_alerts_budget_ref_severity_period_start_micros"
    )
    op.execute("ALTER TABLE old_alerts DROP CONSTRAINT pk_cost_alerts")
    op.execute("ALTER TABLE old_budgets DROP CONSTRAINT pk_cost_budgets")


def _unchanged_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("period", sa.String(16), nullable=False),
        sa.Column("time_zone", sa.String(64), nullable=False),
        sa.Column("limit_nanos", sa.BigInteger(), nullable=False),
        sa.Column("warning_threshold", sa.Float(), nullable=False),
        sa.Column("critical_threshold", sa.Float(), nullable=False),
        sa.Column("created_at_micros", sa.BigInteger(), nullable=False),
    ]


def _create_budgets() -> None:
    op.create_table(
        "cost_budgets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("entity_type", sa.String(16), nullable=False),
        sa.Column("entity_id", sa.String(255), nullable=False),
        sa.Column("period", sa.String(16), nullable=False),
        sa.Column("window_seconds", sa.BigInteger(), nullable=False),
        sa.Column("time_zone", sa.String(64), nullable=False),
        sa.Column("limit_nanos", sa.BigInteger(), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("warning_threshold", sa.Float(), nullable=False),
        sa.Column("critical_threshold", sa.Float(), nullable=False),
        sa.Column("critical_ceiling", sa.Float(), nullable=False),
        sa.Column("overdraft_share", sa.Float(), nullable=False),
        sa.Column("reserved_shares", sa.String(64), nullable=False),
        sa.Column("paused", sa.SmallInteger(), nullable=False),
        sa.Column("created_at_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cost_budgets"),
        sa.UniqueConstraint(
            "entity_type",
            "entity_id",
            "period",
            "window_seconds",
            name="uq_cost_budgets_entity_type_entity_id_period_window_seconds",
        ),
    )


def _create_alerts() -> None:
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


def _create_counters_and_holds() -> None:
    op.create_table(
        "budget_counters",
        sa.Column("budget_ref", sa.Integer(), nullable=False),
        sa.Column("period_start_micros", sa.BigInteger(), nullable=False),
        sa.Column("used_low_nanos", sa.BigInteger(), nullable=False),
        sa.Column("used_normal_nanos", sa.BigInteger(), nullable=False),
        sa.Column("used_high_nanos", sa.BigInteger(), nullable=False),
        sa.Column("used_critical_nanos", sa.BigInteger(), nullable=False),
        sa.Column("held_nanos", sa.BigInteger(), nullable=False),
        sa.Column("unresolved_nanos", sa.BigInteger(), nullable=False),
        sa.Column("raised_nanos", sa.BigInteger(), nullable=False),
        sa.Column("settled_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("budget_ref", "period_start_micros", name="pk_budget_counters"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "budget_paces",
        sa.Column("budget_ref", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("due_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("budget_ref", "priority", name="pk_budget_paces"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "budget_holds",
        sa.Column("id", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("idempotency_key", sa.LargeBinary(16)),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("bound_nanos", sa.BigInteger(), nullable=False),
        sa.Column("certain_nanos", sa.BigInteger(), nullable=False),
        sa.Column("amounts", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("throttler_ref", sa.Integer()),
        sa.Column("waits_on_ref", sa.Integer()),
        sa.Column("created_at_micros", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_micros", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_micros", sa.BigInteger()),
        sa.Column("settled_nanos", sa.BigInteger()),
        sa.Column("corrects_ref", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_budget_holds"),
    )
    _index("uq_budget_holds_key", ["idempotency_key"], "idempotency_key IS NOT NULL", unique=True)
    _index("ix_budget_holds_open", ["expires_at_micros"], "ended_at_micros IS NULL")
    _index(
        "ix_budget_holds_waiting",
        ["waits_on_ref", "priority", "created_at_micros"],
        "waits_on_ref IS NOT NULL",
    )
    _index("ix_budget_holds_corrects", ["corrects_ref"], "corrects_ref IS NOT NULL")
    _index("ix_budget_holds_ended", ["ended_at_micros"], "ended_at_micros IS NOT NULL")


def _index(name: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(
        name,
        "budget_holds",
        columns,
        unique=unique,
        sqlite_where=where,
        postgresql_where=where,
    )


def _create_records() -> None:
    op.create_table(
        "budget_changes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("budget_ref", sa.Integer(), nullable=False),
        sa.Column("changed_at_micros", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.String(255), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_budget_changes"),
        sa.ForeignKeyConstraint(
            ["budget_ref"], ["cost_budgets.id"], name="fk_budget_changes_budget_ref_cost_budgets"
        ),
    )
    op.create_index("ix_budget_changes_budget_ref", "budget_changes", ["budget_ref"])
    op.create_table(
        "budget_version",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_budget_version"),
    )
    op.create_table(
        "budget_workers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("started_at_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_budget_workers"),
    )
