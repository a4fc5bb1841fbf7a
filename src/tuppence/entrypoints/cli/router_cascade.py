"""`tuppence router cascade`: what cascades by agreement would have cost on recorded answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from tuppence.core.price_book import PriceBook
from tuppence.entrypoints.cli.options import json_option
from tuppence.entrypoints.cli.router_steps import check_share, token_price, told_steps
from tuppence.entrypoints.cli.tables import WIDE, Column, draw
from tuppence.errors import InvalidInput
from tuppence.language import Translate, translator
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
    check_share(quality, "quality")
    with told_steps(wanted=not as_json) as tell:
        tell("reading")
        outcomes = read_outcomes(data)
        prices = _prices(load_price_book(load_settings().cache_directory), outcomes[0].answers)
        if strongest is not None and strongest not in prices:
            raise InvalidInput(
                "is no model with recorded answers and a known price",
                field="strongest",
                value=strongest,
                remedy=f"choose one of {', '.join(prices) or 'those that the data names'}",
            )
        tell("trying all pairs")
        reports = best_agreement(outcomes, prices, strongest=strongest, quality=quality)
    if as_json:
        click.echo(json.dumps([_document(one) for one in reports], indent=2))
    else:
        _print(reports, translator(load_settings().language))


def _prices(book: PriceBook, models: Iterable[str]) -> dict[str, TokenPrice]:
    """Return what the models take per token, as far as they have a price."""
    prices = {model: token_price(book, model, utc_now()) for model in models}
    return {model: price for model, price in prices.items() if price is not None}


def _print(reports: Sequence[AgreementReport], _: Translate) -> None:
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
        Column(_("First"), numeric=False),
        Column(_("Second"), numeric=False),
        Column(_("Agree"), from_width=WIDE),
        Column(_("Escalated"), from_width=WIDE),
        Column(_("Quality")),
        Column(_("Cost")),
        Column(_("Plain"), from_width=WIDE),
    ]
    best = reports[0]
    notes = [
        _("{count} prompts; shares of always asking {model}, all calls counted").format(
            count=f"{best.prompts:,}", model=best.strongest
        ),
        _("plain: the cost where every disagreement is escalated"),
    ]
    draw(_("Cascades by agreement, held out"), columns, rows, notes=notes)


def _interval(interval: Interval) -> str:
    return f"{interval.value:.0%} [{interval.low:.0%} {interval.high:.0%}]"


def _document(report: AgreementReport) -> dict[str, Any]:
    document = report._asdict()
    return {**document, "quality": report.quality._asdict(), "cost": report.cost._asdict()}
