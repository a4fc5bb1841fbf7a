"""The base of all mapped classes, column types, and the mark that says which schema it is.

Only this file, the models and the migrations import SQLAlchemy.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    TypeDecorator,
    event,
)
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.orm import DeclarativeBase

from tuppence.core.periods import from_micros, to_micros
from tuppence.storage.opening import SCHEMA_REVISION

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of the mapped classes; `Base.metadata.create_all(engine)` makes the whole ledger."""

    metadata = MetaData(naming_convention=NAMING)


RowId = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit primary key that both engines number by themselves."""


class UtcMicros(TypeDecorator[datetime]):
    """A moment, kept as microseconds since 1970 and read as an aware datetime in UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Return what is stored; a naive datetime is taken as UTC."""
        del dialect
        return None if value is None else to_micros(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Return the moment that was stored."""
        del dialect
        return None if value is None else from_micros(value)


ALEMBIC_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""The table in which Alembic keeps the schema's revision; made together with the other tables."""


@event.listens_for(Base.metadata, "after_create")
def _stamp(target: MetaData, connection: Connection, **_: Any) -> None:
    """Mark a schema made by `create_all` with its revision, as Alembic would."""
    del target
    ALEMBIC_VERSION.create(connection, checkfirst=True)
    if connection.execute(ALEMBIC_VERSION.select()).first() is None:
        connection.execute(ALEMBIC_VERSION.insert().values(version_num=SCHEMA_REVISION))
