"""Migrations of the ledger's schema with Alembic, shipped inside the package.

There is no alembic.ini: `configuration` says all. To start a new migration, call
`alembic.command.revision(configuration(url), "what it does", rev_id="0002")`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

DIRECTORY = Path(__file__).parent


def configuration(database: str | Connection) -> Config:
    """Return Alembic's configuration for a database.

    The database is a URL in SQLAlchemy's form, or an open connection, whose transaction the
    migrations then become part of.
    """
    config = Config()
    config.set_main_option("script_location", str(DIRECTORY).replace("%", "%%"))
    config.attributes["database"] = database
    return config


def upgrade(database: str | Connection, revision: str = "head") -> None:
    """Bring a database's schema to a revision, all of the way or not at all."""
    command.upgrade(configuration(database), revision)


def downgrade(database: str | Connection, revision: str) -> None:
    """Take a database's schema back to a revision ("base": no schema at all)."""
    command.downgrade(configuration(database), revision)
