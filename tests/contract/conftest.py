"""A ledger on each of the two databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.ledgers import open_ledger
from tuppence.cost_tracking.ledger import Ledger


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """Return an empty ledger; the test runs on SQLite and on PostgreSQL."""
    opened = open_ledger(database_url)
    yield opened
    opened.close()
