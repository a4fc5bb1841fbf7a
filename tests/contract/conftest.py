"""A ledger on each of the two databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.ledgers import empty, open_and_verify, open_ledger
from tests.postgresql import PostgresqlServer
from tuppence.cost_tracking.ledger import Ledger


@pytest.fixture(scope="session")
def shared_database(postgresql_server: PostgresqlServer) -> str:
    """One PostgreSQL ledger for many tests: emptying it is quicker than making another one."""
    url = postgresql_server.url(postgresql_server.create_database())
    open_and_verify(url)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """Return an empty ledger; the test runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        url: str = request.getfixturevalue("sqlite_url")
    else:
        url = request.getfixturevalue("shared_database")
        empty(url)
    made = open_ledger(url)
    yield made
    made.close()
