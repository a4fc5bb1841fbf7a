"""`tuppence budget unresolved`: abandoned holds, and their true cost once it is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import click

from tuppence.budget.engine import BudgetEngine
from tuppence.budget.unresolved import UnresolvedHold, resolve, unresolved_holds
from tuppence.core.money import to_nanos
from tuppence.core.periods import from_micros
from tuppence.cost_tracking.budgets import DEFAULT_ORGANISATION
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.cli.budget_tables import iso, print_json
from tuppence.entrypoints.cli.options import by_option, database_option, json_option
from tuppence.entrypoints.cli.tables import Column, draw, exact_dollars
from tuppence.errors import InvalidInput
from tuppence.language import Translate, translator
from tuppence.settings import load_settings

UNNAMED = (("organisation", DEFAULT_ORGANISATION), ("throttler", "default"))
"""What every call has that names no other one."""


@click.command("unresolved")
@click.option(
    "--settle", nargs=2, metavar="ID DOLLARS", help="Book what the call of this hold cost."
)
@click.option("--release", metavar="ID", help="Give the money back: the call cost nothing.")
@by_option
@json_option
@database_option
def unresolved(
    settle: tuple[str, str] | None,
    release: str | None,
    by: str,
    database: str | None,
    *,
    as_json: bool,
) -> None:
    """Show abandoned holds: each counts at its bound until its true cost is told."""
    if settle and release:
        raise InvalidInput(
            "does not go with --settle", field="release", value=release, remedy="end one at a time"
        )
    with _engine(database) as engine:
        if settle or release:
            hold, amount = settle or (release or "", "0")
            nanos = to_nanos(amount, field="DOLLARS")
            resolve(engine, hold, nanos, by=by)
            _tell(hold, nanos, as_json=as_json)
        else:
            show_unresolved(unresolved_holds(engine), as_json=as_json)


def show_unresolved(holds: Sequence[UnresolvedHold], *, as_json: bool) -> None:
    """Print abandoned holds as a table or as JSON."""
    if as_json:
        print_json([_hold_document(hold) for hold in holds])
        return
    _ = translator(load_settings().language)
    if not holds:
        click.echo(_("No hold is unresolved."))
        return
    draw(
        _("Unresolved holds"),
        [
            Column(_("Id"), numeric=False),
            Column(_("Who"), numeric=False),
            Column(_("Bound")),
            Column(_("Since (UTC)"), numeric=False),
        ],
        [
            [
                hold.id,
                _who(hold, _),
                exact_dollars(hold.bound_nanos),
                f"{from_micros(hold.abandoned_at_micros):%Y-%m-%d %H:%M}",
            ]
            for hold in holds
        ],
        notes=[_("When the cost is known: tuppence budget unresolved --settle ID DOLLARS")],
    )


@contextmanager
def _engine(database: str | None) -> Iterator[BudgetEngine]:
    with (
        Ledger.open(database) as ledger,
        closing(BudgetEngine(ledger.database, ledger.now)) as engine,
    ):
        yield engine


def _tell(hold: str, nanos: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": hold, "settled_nanos": nanos})
        return
    _ = translator(load_settings().language)
    text = _("{hold} is settled at {amount}.")
    click.echo(text.format(hold=hold, amount=exact_dollars(nanos)))


def _hold_document(hold: UnresolvedHold) -> dict[str, object]:
    return {
        "id": hold.id,
        "scopes": [{"entity_type": kind, "entity_id": name} for kind, name in hold.scopes],
        "bound_nanos": hold.bound_nanos,
        "held_at": iso(hold.made_at_micros),
        "unresolved_since": iso(hold.abandoned_at_micros),
    }


def _who(hold: UnresolvedHold, _: Translate) -> str:
    known = [(kind, name) for kind, name in hold.scopes if (kind, name) not in UNNAMED]
    return "\n".join(f"{_(kind.capitalize())} {name}" for kind, name in known)
