"""Write the SQL that makes a new ledger, from the models: `make ddl` after each change of a table.

The command line creates its database from these files, because importing SQLAlchemy takes longer
than a whole import of logs. tests/integration/test_schema.py shows that they are what the models
and the migrations say.
"""

from __future__ import annotations

from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from tuppence.cost_tracking.models import Base
from tuppence.storage.opening import DDL_DIRECTORY, SCHEMA_REVISION
from tuppence.storage.schema import ALEMBIC_VERSION


def ddl(dialect: Dialect) -> str:
    """Return all statements for one engine, each ending in ";" at the end of a line."""
    statements = []
    for table in (*Base.metadata.sorted_tables, ALEMBIC_VERSION):
        statements.append(CreateTable(table).compile(dialect=dialect))
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [CreateIndex(index).compile(dialect=dialect) for index in indexes]
    statements.append(f"INSERT INTO alembic_version (version_num) VALUES ('{SCHEMA_REVISION}')")
    lines = ["-- Made by `make ddl` from the models. Do not edit."]
    for statement in statements:
        text = "\n".join(
            line.rstrip().replace("\t", "    ") for line in str(statement).strip().split("\n")
        )
        lines.append(f"{text};")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the files of both engines."""
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        (DDL_DIRECTORY / f"{dialect.name}.sql").write_text(ddl(dialect), encoding="utf-8")


if __name__ == "__main__":
    main()
