"""Databases for state machines: an empty one for each example."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.contract.ledgers import empty, open_and_verify


@pytest.fixture
def new_sqlite_url(tmp_path: Path) -> Callable[[], str]:
    """Return what makes the address of one new SQLite file after the other."""
    return lambda: f"sqlite:///{mkdtemp(dir=tmp_path)}/ledger.db"


@pytest.fixture
def emptied_postgresql_url(postgresql_url: str) -> Callable[[], str]:
    """Return what empties the PostgreSQL database and gives its address."""
    open_and_verify(postgresql_url)

    def make() -> str:
        empty(postgresql_url)
        return postgresql_url

    return make
