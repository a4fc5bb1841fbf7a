"""The schema: three ways to make it give one database; every other database is refused in words."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Inspector, create_engine, inspect
from sqlalchemy.pool import NullPool

from tests.contract.ledgers import open_and_verify
from tools.write_ddl import ddl
from tuppence.cost_tracking.budgets import NewBudget, all_budgets, set_budget
from tuppence.cost_tracking.models import Base
from tuppence.errors import DatabaseUnreachable, InvalidInput, SchemaMismatch
from tuppence.storage import migrations
from tuppence.storage.opening import DDL_DIRECTORY, SCHEMA_REVISION, connect, open_database

Shape = Mapping[str, Any]


def _engine(url: str) -> Engine:
    return create_engine(connect(url).url, poolclass=NullPool)


def _by_ddl_file(url: str) -> None:
    open_database(url).close()


def _by_migrations(url: str) -> None:
    migrations.upgrade(connect(url).url)


def _by_metadata(url: str) -> None:
    Base.metadata.create_all(_engine(url))


def _shape(url: str) -> Shape:
    """Return everything that two databases must have in common."""
    engine = _engine(url)
    with engine.connect() as connection:
        inspector = inspect(connection)
        versions = connection.exec_driver_sql("SELECT version_num FROM alembic_version").fetchall()
        return {
            "versions": [tuple(row) for row in versions],
            "columns": _columns(inspector),
            "primary keys": _by_table(inspector.get_multi_pk_constraint()),
            "unique constraints": _by_table(inspector.get_multi_unique_constraints()),
            "indexes": _by_table(inspector.get_multi_indexes()),
            "foreign keys": _by_table(inspector.get_multi_foreign_keys()),
            "options": _by_table(inspector.get_multi_table_options()),
        }


def _by_table(reflected: Mapping[Any, Any]) -> Mapping[str, Any]:
    """Return what was reflected by table, in an order that does not depend on its making."""
    return {
        table: sorted(map(_text, found)) if isinstance(found, list) else found
        for (_, table), found in reflected.items()
    }


def _text(reflected: Mapping[str, Any]) -> str:
    options = {name: str(value) for name, value in reflected.get("dialect_options", {}).items()}
    return str({**reflected, "dialect_options": options})


def _columns(inspector: Inspector) -> Mapping[str, list[str]]:
    return {
        table: [str({**one, "type": one["type"].compile(inspector.dialect)}) for one in columns]
        for (_, table), columns in inspector.get_multi_columns().items()
    }


@pytest.mark.parametrize("make", [_by_migrations, _by_metadata], ids=["migrations", "create_all"])
def test_every_way_makes_the_same_database(
    database_url: str, tmp_path: Path, request: pytest.FixtureRequest, make: Callable[[str], None]
) -> None:
    """Migrations, create_all and the shipped SQL must give the same tables to the last detail."""
    if database_url.startswith("sqlite"):
        other_url = f"sqlite:///{tmp_path / 'other.db'}"
    else:
        server = request.getfixturevalue("postgresql_server")
        other_url = server.url(server.create_database())
    _by_ddl_file(database_url)
    make(other_url)
    shipped, made = _shape(database_url), _shape(other_url)
    assert made["columns"].keys() == {*Base.metadata.tables, "alembic_version"}
    assert shipped == made


def test_the_comparison_sees_conditions_of_indexes(database_url: str) -> None:
    """Partial indexes must be compared with their conditions, or the test above proves less."""
    _by_ddl_file(database_url)
    indexes = _shape(database_url)["indexes"]["api_usage_log"]
    assert sum("unpriced_count > 0" in one or "IS NOT NULL" in one for one in indexes) == 3


def test_shipped_sql_is_what_the_models_say(database_url: str) -> None:
    """A change of the models without `make ddl` must not get through."""
    dialect = _engine(database_url).dialect
    shipped = (DDL_DIRECTORY / f"{dialect.name}.sql").read_text(encoding="utf-8")
    assert ddl(dialect) == shipped


def test_every_way_makes_a_ledger_that_works(database_url: str) -> None:
    """A database made by Alembic must open as a ledger without another word."""
    _by_migrations(database_url)
    assert open_and_verify(database_url) == 0


def test_create_all_twice_stamps_once(database_url: str) -> None:
    """create_all on a finished ledger must change nothing, as users call it at each start."""
    _by_metadata(database_url)
    _by_metadata(database_url)
    assert _shape(database_url)["versions"] == [(SCHEMA_REVISION,)]


def test_migrations_can_be_taken_back(database_url: str) -> None:
    """Downgrading to nothing must leave no table but Alembic's own."""
    _by_migrations(database_url)
    migrations.downgrade(connect(database_url).url, "base")
    assert inspect(_engine(database_url)).get_table_names() == ["alembic_version"]
    _by_migrations(database_url)
    assert open_and_verify(database_url) == 0


def test_an_upgrade_keeps_budgets(database_url: str) -> None:
    """Budgets of the first version must keep id, name, limit and thresholds."""
    migrations.upgrade(connect(database_url).url, "0001")
    with _engine(database_url).begin() as connection:
        for table, name in (("teams", "red"), ("people", "red"), ("projects", "x")):
            connection.exec_driver_sql(f"INSERT INTO {table} (name) VALUES ('{name}')")
        for number, kind in ((7, "team"), (8, "user"), (9, "project")):
            connection.exec_driver_sql(
                "INSERT INTO cost_budgets (id, entity_type, entity_ref, period, time_zone, "
                "limit_nanos, warning_threshold, critical_threshold, created_at_micros) "
                f"VALUES ({number}, '{kind}', 1, 'month', 'Asia/Taipei', {number}, 0.5, 0.6, 1)"
            )
    migrations.upgrade(connect(database_url).url)
    with closing(open_database(database_url)) as database:
        found = [
            (one.id, *one.scope, one.limit_nanos, one.time_zone, one.terms.warning_threshold)
            for one in database.read(all_budgets)
        ]
        assert found == [
            (7, "team", "red", 7, "Asia/Taipei", 0.5),
            (8, "user", "red", 8, "Asia/Taipei", 0.5),
            (9, "project", "x", 9, "Asia/Taipei", 0.5),
        ]
        new = NewBudget("tag", "a", 1)
        assert database.run(set_budget, new, at=datetime.now(UTC), by="me").id == 10


def test_migrations_join_the_transaction_of_a_connection(postgresql_url: str) -> None:
    """Migrations on a given connection must be undone with its transaction."""
    engine = _engine(postgresql_url)
    with engine.connect() as connection:
        migrations.upgrade(connection)
        connection.rollback()
    assert inspect(engine).get_table_names() == []


def test_a_failed_migration_leaves_nothing(database_url: str) -> None:
    """A migration that fails half-way must leave the database as it was."""
    engine = _engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE cost_alerts (id INTEGER)")
    with pytest.raises(Exception, match="already exists"):
        _by_migrations(database_url)
    assert inspect(engine).get_table_names() == ["cost_alerts"]


def _stamp(url: str, revision: str) -> None:
    with _engine(url).begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")


def test_newer_schema_is_refused(database_url: str) -> None:
    """A ledger of a later version must not be written to, and the error says what helps."""
    _by_ddl_file(database_url)
    _stamp(database_url, "9999")
    with pytest.raises(SchemaMismatch) as refused:
        open_database(database_url)
    assert ("database", database_url) == (refused.value.field, refused.value.value)
    assert refused.value.remedy == "install a newer tuppence"
    assert "9999" in str(refused.value)


def test_older_schema_is_refused(database_url: str) -> None:
    """A ledger of an earlier version must be upgraded by its owner, never in passing."""
    _by_ddl_file(database_url)
    _stamp(database_url, "0001")
    with pytest.raises(SchemaMismatch) as refused:
        open_database(database_url)
    assert refused.value.remedy == "run: tuppence database upgrade"


def test_passwords_stay_out_of_errors(postgresql_url: str) -> None:
    """An error about a schema must name the database but not its password."""
    _by_ddl_file(postgresql_url)
    _stamp(postgresql_url, "9999")
    with pytest.raises(SchemaMismatch) as refused:
        open_database(postgresql_url.replace("tuppence@", "tuppence:s3cret@"))
    assert "s3cr" not in str(refused.value)


@pytest.mark.parametrize("path_is", ["a directory", "no database", "below a file"])
def test_path_that_cannot_be_a_ledger(tmp_path: Path, path_is: str) -> None:
    """A path that is something else must be refused in one line and left as it was."""
    path = tmp_path / "thing"
    if path_is == "a directory":
        path.mkdir()
    else:
        path.write_text("not a database, but long enough to be read as the header of one" * 9)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(DatabaseUnreachable) as refused:
        open_database(str(path / "ledger.db" if path_is == "below a file" else path))
    assert len(str(refused.value).splitlines()) == 1
    assert before == (None if path.is_dir() else path.read_bytes())


def test_other_sqlite_file_is_not_touched(tmp_path: Path) -> None:
    """Somebody else's SQLite file keeps its own tables when a ledger is put into it."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
        other.execute("INSERT INTO mine VALUES (7)")
    other.close()
    open_database(str(path)).close()
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT x FROM mine").fetchall() == [(7,)]
    other.close()


@pytest.fixture
def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SECRET_URLS = (
    "postgresql://someone:s3cret@127.0.0.1:{port}/ledger",
    "postgresql://someone:s3c@ret@127.0.0.1:{port}/ledger",
    "postgresql://127.0.0.1:{port}/ledger?user=someone&password=s3cret",
    "postgresql+psycopg://:s3cret@127.0.0.1:{port}/ledger",
    "postgresql://someone:s3cret@127.0.0.1:no-port/ledger",
    "postgresql://someone:s3cret@127.0.0.1:{port}/ledger?no_option=1",
)


@pytest.mark.parametrize("url", SECRET_URLS)
def test_unreachable_server(closed_port: int, url: str) -> None:
    """A server that does not answer gives one line, which keeps the password to itself."""
    with pytest.raises((DatabaseUnreachable, InvalidInput)) as refused:
        open_database(url.format(port=closed_port))
    text = str(refused.value)
    assert len(text.splitlines()) == 1
    assert "127.0.0.1" in text
    assert "s3c" not in text


def test_other_kinds_of_database_are_refused() -> None:
    """A URL of a database that holds no ledger must be refused without showing its password."""
    with pytest.raises(InvalidInput) as refused:
        open_database("mysql://root:s3cret@localhost/ledger")
    assert "sqlite:///path" in refused.value.remedy
    assert "s3cret" not in str(refused.value)


def test_processes_that_create_one_database_at_once(database_url: str) -> None:
    """Two processes that start on a new database at the same time must both get a ledger."""
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as processes:
        verified = list(processes.map(open_and_verify, [database_url] * 4, chunksize=1))
    assert verified == [0] * 4
