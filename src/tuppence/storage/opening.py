"""From a URL to a ready database: the right engine, the schema there and of this version."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from tuppence.errors import InvalidInput, SchemaMismatch
from tuppence.storage.database import Database, Transaction
from tuppence.storage.sqlite import SqliteDatabase

SCHEMA_REVISION = "0001"
"""The migration that this version of tuppence works with (storage/migrations/versions)."""

DDL_DIRECTORY = Path(__file__).parent / "ddl"

_POSTGRESQL = re.compile(r"^postgres(ql)?(\+\w+)?://")
_SQLITE = re.compile(r"^sqlite(\+\w+)?://")


def open_database(url: str) -> Database:
    """Return the database that a URL or a file path names, its schema made where it was missing.

    Raises InvalidInput for a URL of another kind of database, DatabaseUnreachable, SchemaMismatch.
    """
    database = connect(url)
    revision = database.read(partial(_revision, dialect=dialect_of(database)))
    if revision is None:
        database.run(_create_schema, dialect_of(database))
    elif revision != SCHEMA_REVISION:
        database.close()
        raise _mismatch(url, revision)
    return database


def connect(url: str) -> Database:
    """Return the database of a URL without looking at its schema."""
    if _POSTGRESQL.match(url):
        from tuppence.storage.postgresql import PostgresqlDatabase  # noqa: PLC0415 - 0.2 s

        return PostgresqlDatabase(_POSTGRESQL.sub("postgresql://", url))
    if _SQLITE.match(url):
        path = _SQLITE.sub("", url)
        return SqliteDatabase(path[1:] if len(path) > 1 else ":memory:")
    if "://" in url:
        raise InvalidInput(
            "is not a database that tuppence keeps its ledger in",
            field="database",
            value=url,
            remedy="give sqlite:///path, a file's path, or postgresql://user@host/name",
        )
    return SqliteDatabase(url)


def dialect_of(database: Database) -> str:
    """Return "sqlite" or "postgresql"."""
    return "sqlite" if database.url.startswith("sqlite") else "postgresql"


def _revision(transaction: Transaction, dialect: str) -> str | None:
    """Return the schema's revision; None in an empty database."""
    catalogue = (
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
        if dialect == "sqlite"
        else "SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL"
    )
    if not transaction.rows(catalogue):
        return None
    revisions = transaction.rows("SELECT version_num FROM alembic_version")
    return str(revisions[0][0]) if revisions else None


def _create_schema(transaction: Transaction, dialect: str) -> None:
    """Create all tables; do nothing where another process has just done so."""
    if dialect == "postgresql":
        transaction.rows("SELECT pg_advisory_xact_lock(7488116)::text")
    if _revision(transaction, dialect) is not None:
        return
    script = (DDL_DIRECTORY / f"{dialect}.sql").read_text(encoding="utf-8")
    for statement in script.split(";\n"):
        if statement.strip():
            transaction.execute(statement)


def _mismatch(url: str, revision: str) -> SchemaMismatch:
    known = sorted(path.stem[:4] for path in (Path(__file__).parent / "migrations" / "versions").glob("0*.py"))
    newer = revision not in known
    return SchemaMismatch(
        f"has the schema {revision}, this version works with {SCHEMA_REVISION}",
        field="database",
        value=url,
        remedy="install a newer tuppence" if newer else "run: tuppence database upgrade",
    )
