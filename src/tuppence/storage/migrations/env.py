"""Alembic's environment: migrates the connection or URL that `configuration` was given."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

from tuppence.storage.opening import SCHEMA_LOCK


def run() -> None:
    """Run the migrations in one transaction: a failure leaves the schema as it was."""
    database = context.config.attributes["database"]
    if isinstance(database, Connection):
        _migrate(database)
        return
    engine = create_engine(database, poolclass=NullPool)
    if engine.dialect.name == "sqlite":
        _begin_for_real(engine)
    with engine.begin() as connection:
        _migrate(connection)


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK})
    metadata = context.config.attributes.get("metadata")
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


def _begin_for_real(engine: Engine) -> None:
    """Put DDL into the transaction too: Python's sqlite3 would commit it statement by statement."""

    @event.listens_for(engine, "connect")
    def _leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


run()
