"""From a URL to a ready database: the right engine, the schema there and of this version."""

from __future__ import annotations

import re
from pathlib import Path

from tuppence.errors import InvalidInput, SchemaMismatch
from tuppence.storage.database import Database, Transaction, without_password
from tuppence.storage.sqlite import SqliteDatabase

SCHEMA_REVISION = "0003"
"""The migration that this version of tuppence works with (storage/migrations/versions)."""

SCHEMA_LOCK = 7_488_116
"""The advisory lock under which a PostgreSQL schema is made or changed."""

DDL_DIRECTORY = Path(__file__).parent / "ddl"
MIGRATIONS_DIRECTORY = Path(__file__).parent / "migrations" / "versions"

_POSTGRESQL = re.compile(r"^postgres(ql)?(\+\w+)?://")
_SQLITE = re.compile(r"^sqlite(\+\w+)?://")


def open_database(url: str) -> Database:
    """Return the database that a URL or a file path names, its schema made where it was missing.

    Raises InvalidInput for a URL of another kind of database, DatabaseUnreachable, SchemaMismatch.
    """
    database = connect(url)
    try:
        prepare(database, url)
    except BaseException:
        database.close()
        raise
    return database


def prepare(database: Database, url: str) -> None:
    """Make the schema of a database where it is missing; raise SchemaMismatch for another one."""
    revision = revision_of(database)
    if revision is None:
        database.run(_create_schema, dialect_of(database))
    else:
        _refuse_other(url, revision)


def revision_of(database: Database) -> str | None:
    """Return the revision of a database's schema; None for a database without one."""
    return database.read(_revision, dialect_of(database))


def refuse_unknown(url: str, revision: str) -> None:
    """Raise SchemaMismatch for a revision that this version of tuppence cannot upgrade from."""
    if revision not in _known_revisions():
        raise _mismatch(url, revision)


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
            value=without_password(url),
            remedy="give sqlite:///path, a file's path, or postgresql://user@host/name",
        )
    return SqliteDatabase(url)


def dialect_of(database: Database) -> str:
    """Return "sqlite" or "postgresql"."""
    return "sqlite" if database.url.startswith("sqlite") else "postgresql"


_VERSION_TABLE = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'",
    # Not to_regclass: it may answer from a cache older than another process's commit.
    "postgresql": "SELECT 1 FROM pg_class WHERE relname = 'alembic_version' AND relkind = 'r' "
    "AND pg_table_is_visible(oid)",
}


def _revision(transaction: Transaction, dialect: str) -> str | None:
    """Return the schema's revision; None in an empty database."""
    if not transaction.rows(_VERSION_TABLE[dialect]):
        return None
    revisions = transaction.rows("SELECT version_num FROM alembic_version")
    return str(revisions[0][0]) if revisions else None


def _create_schema(transaction: Transaction, dialect: str) -> None:
    """Create all tables; do nothing where another process has just done so."""
    if dialect == "postgresql":
        transaction.rows(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})::text")
    if _revision(transaction, dialect) is not None:
        return
    script = (DDL_DIRECTORY / f"{dialect}.sql").read_text(encoding="utf-8")
    for statement in script.split(";\n"):
        if statement.strip():
            transaction.execute(statement)


def _refuse_other(url: str, revision: str) -> None:
    if revision != SCHEMA_REVISION:
        raise _mismatch(url, revision)


def _mismatch(url: str, revision: str) -> SchemaMismatch:
    newer = revision not in _known_revisions()
    return SchemaMismatch(
        f"has the schema {revision}, this version works with {SCHEMA_REVISION}",
        field="database",
        value=without_password(url),
        remedy="install a newer tuppence" if newer else "run: tuppence database upgrade",
    )


def _known_revisions() -> set[str]:
    return {path.stem[:4] for path in MIGRATIONS_DIRECTORY.glob("[0-9]*.py")}
