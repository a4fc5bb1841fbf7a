"""`tuppence suggest`: what would save money, by what the ledger shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta

import click

from tuppence.core.periods import Span
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.cli.options import database_option, json_option
from tuppence.insights.suggestion import SuggestionDict
from tuppence.insights.suggestions import suggest
from tuppence.language import translator
from tuppence.settings import load_settings


@click.command("suggest")
@click.option("--team", help="Only the calls of this team.")
@click.option(
    "--days", type=click.IntRange(1, 36_500), default=30, show_default=True, help="Look back."
)
@json_option
@database_option
def command(team: str | None, days: int, database: str | None, *, as_json: bool) -> None:
    """Show what would save money, the largest saving first."""
    with Ledger.open(database) as ledger:
        now = ledger.now()
        found = suggestions(ledger, Span.between(now - timedelta(days=days), now), team)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print_suggestions(found)


def suggestions(ledger: Ledger, span: Span, team: str | None = None) -> list[SuggestionDict]:
    """Return the suggestions for a span, in the language of the settings."""
    language = load_settings().language
    found = ledger.database.read(suggest, ledger.price_book(), span=span, team_id=team)
    return [one.to_dict(language) for one in found]


def print_suggestions(found: Sequence[SuggestionDict]) -> None:
    """Print suggestions as a list."""
    _ = translator(load_settings().language)
    click.secho(_("What to do next"), bold=True)
    if not found:
        click.echo(_("  Nothing that would save money was found."))
    for one in found:
        colour = {"high": "red", "medium": "yellow"}.get(one["priority"], "cyan")
        mark = click.style(f"[{one['priority'].upper()}]", fg=colour)
        click.echo(f"  {mark} {one['message']}")
