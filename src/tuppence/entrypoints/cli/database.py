"""`tuppence database`: upgrade the schema, prove the sums, work them out anew, see the size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

import click

from tuppence.core.money import format_dollars, to_dollars
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.verification import ROLL_UPS, Verified, rebuild
from tuppence.entrypoints.cli.options import database_option, json_option
from tuppence.entrypoints.cli.tables import Column, draw
from tuppence.language import translator
from tuppence.settings import load_settings
from tuppence.storage.database import Database, Transaction, without_password
from tuppence.storage.opening import SCHEMA_REVISION, connect, refuse_unknown, revision_of

USAGE_LOG = "api_usage_log"


class Size(NamedTuple):
    """How large a ledger is: rows of the usage log, and bytes by what takes them."""

    rows: int
    parts: Mapping[str, int]
    """Bytes of "usage log", its "indexes", the "roll-ups", and "names and prices"."""
    total_bytes: int

    @property
    def bytes_per_row(self) -> float:
        """All bytes of the ledger for each row of the usage log; 0 for an empty log."""
        return self.total_bytes / self.rows if self.rows else 0.0


@click.group("database")
def command() -> None:
    """Upgrade the ledger's schema; prove that its sums are right."""


@command.command("upgrade")
@json_option
@database_option
def upgrade(database: str | None, *, as_json: bool) -> None:
    """Bring the schema to what this version of tuppence works with, whole or not at all."""
    from tuppence.storage import migrations  # noqa: PLC0415 - SQLAlchemy loads slowly

    url = database or load_settings().database_url
    with closing(connect(url)) as opened:
        before = revision_of(opened)
        if before is not None:
            refuse_unknown(url, before)
        if before != SCHEMA_REVISION:
            migrations.upgrade(opened.url)
        after = revision_of(opened)
    if as_json:
        document = {"database": without_password(url), "before": before, "after": after}
        click.echo(json.dumps(document, indent=2))
        return
    _ = translator(load_settings().language)
    if before == after:
        click.echo(_("The schema is {revision} already.").format(revision=after))
    else:
        click.echo(_("The schema is now {revision}.").format(revision=after))


@command.command("verify")
@json_option
@database_option
def verify(database: str | None, *, as_json: bool) -> None:
    """Compare every roll-up with the calls that it sums; exit code 1 where they differ."""
    with Ledger.open(database) as ledger:
        verified = ledger.verify()
    show_verified(verified, as_json=as_json)


@command.command("rebuild")
@json_option
@database_option
def rebuild_roll_ups(database: str | None, *, as_json: bool) -> None:
    """Work out all roll-ups anew from the calls, in one transaction, and verify them."""
    with Ledger.open(database) as ledger:
        ledger.database.run(rebuild)
        verified = ledger.verify()
    show_verified(verified, as_json=as_json)


@command.command("size")
@json_option
@database_option
def size(database: str | None, *, as_json: bool) -> None:
    """Show how much room the ledger takes, and how much for each row of the usage log."""
    with Ledger.open(database) as ledger:
        measured = size_of(ledger.database)
    if as_json:
        click.echo(json.dumps(size_document(measured), indent=2))
    else:
        draw_size(measured)


def show_verified(verified: Verified, *, as_json: bool) -> None:
    """Print what was compared."""
    if as_json:
        document = {
            "consistent": True,
            "rows": verified.rows,
            "roll_up_rows": verified.roll_up_rows,
            "cost_nanos": verified.cost_nanos,
            "cost": to_dollars(verified.cost_nanos),
        }
        click.echo(json.dumps(document, indent=2))
        return
    _ = translator(load_settings().language)
    click.echo(
        _("{rows} rows and {roll_ups} roll-up rows agree: {amount}.").format(
            rows=f"{verified.rows:,}",
            roll_ups=f"{verified.roll_up_rows:,}",
            amount=format_dollars(verified.cost_nanos, 9),
        )
    )


def size_of(database: Database) -> Size:
    """Return how large a ledger is; without SQLite's dbstat only the total is known."""
    return database.read(_size_on_sqlite if database.url.startswith("sqlite") else _size_on_server)


def size_document(measured: Size) -> dict[str, Any]:
    """Return a size as JSON."""
    return {
        "rows": measured.rows,
        "total_bytes": measured.total_bytes,
        "bytes_per_row": round(measured.bytes_per_row, 1),
        "bytes": {
            name.replace(" ", "_").replace("-", "_"): count
            for name, count in measured.parts.items()
        },
    }


def draw_size(measured: Size) -> None:
    """Print a size as a table."""
    _ = translator(load_settings().language)
    columns = [Column(_("Part"), numeric=False), Column(_("Bytes")), Column(_("Per row"))]
    lines = [_cells(_(name), count, measured.rows) for name, count in measured.parts.items()]
    draw(
        _("{rows} rows in the usage log").format(rows=f"{measured.rows:,}"),
        columns,
        lines,
        total=_cells(_("Total"), measured.total_bytes, measured.rows),
    )


def _cells(name: str, count: int, rows: int) -> list[str]:
    return [name, f"{count:,}", f"{count / rows:,.1f}" if rows else "-"]


def _size_on_sqlite(tx: Transaction) -> Size:
    rows = _count(tx)
    if not tx.rows("SELECT 1 FROM pragma_module_list WHERE name = 'dbstat'"):
        pages = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        return Size(rows, {}, int(tx.rows(pages)[0][0]))
    pages_of = tx.rows(
        "SELECT COALESCE(m.tbl_name, s.name), COALESCE(m.type, 'table') = 'index', SUM(s.pgsize) "
        "FROM dbstat s LEFT JOIN sqlite_master m ON m.name = s.name GROUP BY 1, 2"
    )
    return _summed(rows, pages_of)


def _size_on_server(tx: Transaction) -> Size:
    rows = _count(tx)
    relations = tx.rows(
        "SELECT c.relname::text, part.is_index, part.bytes FROM pg_class c "
        "JOIN pg_class log ON log.oid = to_regclass('api_usage_log') "
        "AND log.relnamespace = c.relnamespace "
        "CROSS JOIN LATERAL (VALUES (false, pg_table_size(c.oid)), (true, pg_indexes_size(c.oid))) "
        "AS part (is_index, bytes) WHERE c.relkind = 'r'"
    )
    return _summed(rows, relations)


def _summed(rows: int, relations: list[tuple[Any, ...]]) -> Size:
    parts = {"usage log": 0, "indexes": 0, "roll-ups": 0, "names and prices": 0}
    for table, is_index, count in relations:
        if table == USAGE_LOG:
            part = "indexes" if is_index else "usage log"
        else:
            part = "roll-ups" if table in ROLL_UPS else "names and prices"
        parts[part] += int(count)
    return Size(rows, parts, sum(parts.values()))


def _count(tx: Transaction) -> int:
    return int(tx.rows(f"SELECT COUNT(*) FROM {USAGE_LOG}")[0][0])
