"""`tuppence router cascade`: what cascades by agreement would have cost on recorded answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tuppence.core.price_book import PriceBook
from tuppence.core.usage import Usage
from tuppence.entrypoints.cli.options import json_option
from tuppence.entrypoints.cli.router_steps import told_steps
from tuppence.entrypoints.cli.tables import Column, draw
from tuppence.model_router.agreement import AgreementReport, best_agreement
from tuppence.model_router.decision import TokenPrice
from tuppence.model_router.metrics import Interval
from tuppence.model_router.outcomes import read_outcomes
from tuppence.model_router.routing import utc_now
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

SHOWN = 5


@click.command("cascade")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--strongest", metavar="ID", help="Model to escalate to. Default: the best one.")
@click.option(
    "--quality", type=float, default=1.0, show_default=True, help="Share of its quality to keep."
)
@json_option
def cascade(data: Path, strongest: str | None, quality: float, *, as_json: bool) -> None:
    """Try all pairs of cheap models on recorded final answers (JSON lines with ans, out_chars)."""
    with told_steps(wanted=not as_json) as tell:
        tell("reading")
        outcomes = read_outcomes(data)
        prices = _prices(load_price_book(load_settings().cache_directory), outcomes[0].answers)
        tell("trying all pairs")
        reports = best_agreement(outcomes, prices, strongest=strongest, quality=quality)
    if as_json:
        click.echo(json.dumps([_document(one) for one in reports], indent=2))
    else:
        _print(reports)


def _prices(book: PriceBook, models: Sequence[str] | Any) -> dict[str, TokenPrice]:
    """Return what the models take per token, as far as they have a price."""
    at_seconds = int(utc_now().timestamp())
    costs = {
        model: book.cost(Usage(input_tokens=1_000, output_tokens=1_000), model, at_seconds)
        for model in models
    }
    return {
        model: TokenPrice(cost.input_nanos / 1_000, cost.output_nanos / 1_000)
        for model, cost in costs.items()
        if cost is not None
    }


def _print(reports: Sequence[AgreementReport]) -> None:
    rows = [
        [
            one.first,
            one.second,
            f"{one.agreed_share:.0%}",
            f"{one.escalated_share:.0%}",
            _interval(one.quality),
            _interval(one.cost),
            f"{one.plain_cost:.0%}",
        ]
        for one in reports[:SHOWN]
    ]
    columns = [
        Column("First", numeric=False),
        Column("Second", numeric=False),
        Column("Agree", from_width=100),
        Column("Escalated", from_width=100),
        Column("Quality"),
        Column("Cost"),
        Column("Plain", from_width=100),
    ]
    best = reports[0]
    notes = [
        f"{best.prompts:,} prompts; shares of always asking {best.strongest}, all calls counted",
        "plain: the cost where every disagreement is escalated",
    ]
    draw("Cascades by agreement, held out", columns, rows, notes=notes)


def _interval(interval: Interval) -> str:
    return f"{interval.value:.0%} [{interval.low:.0%} {interval.high:.0%}]"


def _document(report: AgreementReport) -> dict[str, Any]:
    document = report._asdict()
    return {**document, "quality": report.quality._asdict(), "cost": report.cost._asdict()}
