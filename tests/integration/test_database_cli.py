"""`tuppence database`: upgrade, verify, rebuild and size, on both databases."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.contract.ledgers import call, open_ledger
from tuppence.cost_tracking.verification import ROLL_UPS
from tuppence.entrypoints.cli import main
from tuppence.storage import migrations
from tuppence.storage.database import Transaction
from tuppence.storage.opening import connect, open_database

CALLS = 20


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs a command and tells (exit code, output, errors)."""
    monkeypatch.setenv("TUPPENCE_LANGUAGE", "en")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tuppence", "database", *arguments])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        output, errors = capsys.readouterr()
        return code, output, errors

    return run


def _book_some(url: str) -> int:
    """Book calls and return what they cost."""
    ledger = open_ledger(url)
    booked = ledger.book([call(user_id=f"user {number % 3}") for number in range(CALLS)])
    ledger.close()
    return booked.measures.cost_nanos


def _spoil(url: str, statement: str) -> None:
    def run(tx: Transaction) -> int:
        return tx.execute(statement)

    database = connect(url)
    database.run(run)
    database.close()


def test_upgrade_makes_a_new_ledger_and_says_so(database_url: str, told: Any) -> None:
    """Upgrading an empty database must make the schema; upgrading again must change nothing."""
    code, output, _ = told("upgrade", "--database", database_url, "--json")
    made = {"database": database_url, "before": None, "after": "0003"}
    assert (code, json.loads(output)) == (0, made)
    code, output, _ = told("upgrade", "--database", database_url)
    assert (code, output) == (0, "The schema is 0003 already.\n")
    open_database(database_url).close()


def test_upgrade_brings_an_older_schema_to_the_newest(database_url: str, told: Any) -> None:
    """A database that Alembic left at an earlier point must be upgraded from there."""
    migrations.upgrade(connect(database_url).url)
    migrations.downgrade(connect(database_url).url, "base")
    code, output, _ = told("upgrade", "--database", database_url)
    assert (code, output) == (0, "The schema is now 0003.\n")


def test_upgrade_refuses_a_newer_schema(database_url: str, told: Any) -> None:
    """An upgrade must not touch what a later version of tuppence has made."""
    _book_some(database_url)
    _spoil(database_url, "UPDATE alembic_version SET version_num = '9999'")
    code, output, errors = told("upgrade", "--database", database_url)
    assert (code, output) == (1, "")
    assert "install a newer tuppence" in errors


def test_verify_says_what_agrees(database_url: str, told: Any) -> None:
    """Verify must print rows, roll-up rows and the exact cost."""
    cost_nanos = _book_some(database_url)
    code, output, _ = told("verify", "--database", database_url, "--json")
    verified = json.loads(output)
    assert code == 0
    assert verified == {
        "consistent": True,
        "rows": CALLS,
        "roll_up_rows": 3 + 3 + 1 + 1,
        "cost_nanos": cost_nanos,
        "cost": cost_nanos / 1e9,
    }
    code, output, _ = told("verify", "--database", database_url)
    assert output == "20 rows and 8 roll-up rows agree: $0.090000000.\n"


@pytest.mark.parametrize("table", sorted(ROLL_UPS))
@pytest.mark.parametrize(
    "damage",
    ["UPDATE {} SET output_cost_nanos = output_cost_nanos + 1", "DELETE FROM {}"],
    ids=["one nano-dollar", "rows lost"],
)
def test_verify_finds_damage_and_rebuild_repairs_it(
    database_url: str, told: Any, table: str, damage: str
) -> None:
    """A roll-up wrong by a nano-dollar must end verify with exit code 1, and rebuild mends it."""
    _book_some(database_url)
    _spoil(database_url, damage.format(table))
    code, output, errors = told("verify", "--database", database_url)
    assert (code, output) == (1, "")
    assert table in errors
    assert "tuppence database rebuild" in errors
    assert told("rebuild", "--database", database_url)[0] == 0
    code, output, _ = told("verify", "--database", database_url, "--json")
    assert (code, json.loads(output)["rows"]) == (0, CALLS)


def test_size_counts_every_byte_once(database_url: str, told: Any) -> None:
    """The parts must add up to the total, and the total divided by the rows to bytes per row."""
    _book_some(database_url)
    code, output, _ = told("size", "--database", database_url, "--json")
    size = json.loads(output)
    assert (code, size["rows"]) == (0, CALLS)
    assert size["bytes"].keys() == {"usage_log", "indexes", "roll_ups", "names_and_prices"}
    assert min(size["bytes"].values()) > 0
    assert sum(size["bytes"].values()) == size["total_bytes"]
    assert size["bytes_per_row"] == pytest.approx(size["total_bytes"] / CALLS, abs=0.1)


def test_size_of_an_empty_ledger(database_url: str, told: Any) -> None:
    """A ledger without rows must have a size and no division by zero."""
    code, output, _ = told("size", "--database", database_url)
    assert code == 0
    assert "0 rows in the usage log" in output


def test_unreachable_ledger_is_one_line(told: Any) -> None:
    """Every command must say in one line that there is no such ledger, with exit code 1."""
    for name in ("upgrade", "verify", "rebuild", "size"):
        code, output, errors = told(name, "--database", "/dev/null/ledger.db")
        assert (code, output, len(errors.splitlines())) == (1, "", 1)
