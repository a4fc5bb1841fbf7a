"""`tuppence prices`: show, set and check prices; price what had none."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tuppence.core.money import format_dollars, to_dollars
from tuppence.core.periods import load_zone
from tuppence.core.price_book import PriceBook
from tuppence.core.prices import FALLBACKS
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.cli.options import (
    database_option,
    json_option,
    moment_of,
    since_option,
    span_of,
)
from tuppence.entrypoints.cli.tables import Column, draw
from tuppence.errors import InvalidInput, InvalidPrice
from tuppence.language import Translate, mark, translator
from tuppence.prices.catalogue import load_price_book
from tuppence.prices.price_sheet import (
    WAYS,
    comparison_document,
    difference_document,
    price_document,
)
from tuppence.prices.second_source import Comparison, Difference, compare, read_sources
from tuppence.settings import load_settings

UTC_ZONE = load_zone("UTC")

CLASSES: Mapping[str, str] = {
    mark("Input"): "input_tokens",
    mark("Output"): "output_tokens",
    mark("Write 5m"): "cache_write_5m_tokens",
    mark("Write 1h"): "cache_write_1h_tokens",
    mark("Read"): "cache_read_tokens",
}
"""The columns of a table of prices."""


@click.group("prices")
def command() -> None:
    """Show, set and check prices; price what had none."""


@command.command("show")
@click.argument("model")
@click.option("--at", metavar="DATE", help="The prices of this date or time. Default: now.")
@click.option("--provider", metavar="ID", help="Only of this provider, such as aws.")
@json_option
@database_option
def show(
    model: str, at: str | None, provider: str | None, database: str | None, *, as_json: bool
) -> None:
    """Show what a model costs, on which terms, by which source, and how that changed."""
    moment = moment_of(at, "at", UTC_ZONE)
    with Ledger.open(database) as ledger:
        book = ledger.price_book()
    seconds = int(time.time() if moment is None else moment.timestamp())
    document = price_document(book, model, provider, seconds, with_history=at is None)
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        draw_price(document)


@command.command("set")
@click.argument("model")
@click.option("--input", "input_mtok", metavar="DOLLARS", help="Per million input tokens.")
@click.option("--output", "output_mtok", metavar="DOLLARS", help="Per million output tokens.")
@click.option("--cache-read", "cache_read_mtok", metavar="DOLLARS", help="Per million read.")
@click.option(
    "--cache-write",
    "cache_write_mtok",
    metavar="DOLLARS",
    help="Per million written, where no price for 5 minutes or 1 hour is listed or set.",
)
@click.option("--cache-write-5m", "cache_write_5m_mtok", metavar="DOLLARS", help="For 5 minutes.")
@click.option("--cache-write-1h", "cache_write_1h_mtok", metavar="DOLLARS", help="For 1 hour.")
@click.option(
    "--price", "others", multiple=True, metavar="KEY=DOLLARS", help="As web_searches_kcount=8."
)
@click.option(
    "--from",
    "start",
    metavar="DATE",
    help="From this moment on; a date means 00:00 UTC. Default: now.",
)
@click.option("--provider", default="", metavar="ID", help="Only for calls to this provider.")
@json_option
@database_option
def set_price(
    model: str,
    others: tuple[str, ...],
    start: str | None,
    provider: str,
    database: str | None,
    *,
    as_json: bool,
    **given: str | None,
) -> None:
    """Add your own prices for a model from a date on. What was set before stays as it was.

    On list tiers and terms (long prompts, batch) your price keeps its proportion to the list.
    """
    if not 0 < len(model.strip()) <= 255:
        raise InvalidInput(
            "is not a model", field="model", value=model, remedy="give a model's name"
        )
    prices = {key: value for key, value in given.items() if value is not None}
    prices |= dict(_pair(text) for text in others)
    moment = moment_of(start, "from", UTC_ZONE)
    with Ledger.open(database) as ledger:
        moment = moment or ledger.now()
        ledger.set_price(model.strip(), prices, provider=provider.strip(), starts_at=moment)
        book = ledger.price_book()
    seconds = int(moment.timestamp())
    document = price_document(book, model, provider.strip() or None, seconds, with_history=False)
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        draw_price(document)


@command.command("check")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A table of prices, such as LiteLLM's model_prices_and_context_window.json. "
    "Default: the package model-prices.",
)
@click.option("--provider", default="anthropic", show_default=True, metavar="ID")
@click.option("--at", metavar="DATE", help="The prices of this date or time. Default: now.")
@click.option("--strict", is_flag=True, help="Exit with 1 when there are differences.")
@json_option
def check(
    against: Path | None, provider: str, at: str | None, *, strict: bool, as_json: bool
) -> None:
    """Compare the public prices with a second source, exactly."""
    moment = moment_of(at, "at", UTC_ZONE)
    seconds = int(time.time() if moment is None else moment.timestamp())
    book = load_price_book()
    if provider not in book.providers:
        raise InvalidInput(
            "is not a provider of the price list",
            field="provider",
            value=provider,
            remedy=f"choose one of {', '.join(book.providers)}",
        )
    found = [
        compare(book, name, quotes, provider=provider, at_seconds=seconds)
        for name, quotes in read_sources(against, provider, seconds).items()
    ]
    if as_json:
        document = [comparison_document(result, book) for result in found]
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        for result in found:
            draw_comparison(result, book)
    if strict and any(result.differences for result in found):
        sys.exit(1)


@command.command("reprice")
@since_option
@click.option("--all", "everything", is_flag=True, help="Rate calls again that had a price, too.")
@json_option
@database_option
def reprice(
    since: str | None,
    until: str | None,
    tz: str,
    database: str | None,
    *,
    everything: bool,
    as_json: bool,
) -> None:
    """Price the calls that had no price. Differences are booked as rows of their own."""
    span = span_of(since, until, load_zone(tz))
    with Ledger.open(database) as ledger:
        done = ledger.reprice(span=span, unpriced_only=not everything)
    if as_json:
        document = done._asdict() | {"difference": to_dollars(done.difference_nanos)}
        click.echo(json.dumps(document, indent=2))
        return
    _ = translator(load_settings().language)
    click.echo(
        _("{looked_at} calls looked at, {changed} changed, {unpriced} still unpriced.").format(
            looked_at=f"{done.looked_at:,}",
            changed=f"{done.changed:,}",
            unpriced=f"{done.still_unpriced:,}",
        )
    )
    amount = format_dollars(done.difference_nanos, 4)
    click.echo(_("Difference booked: {amount}").format(amount=amount))


def draw_price(document: Mapping[str, Any]) -> None:
    """Print a model's prices: a row for each way of serving and context tier."""
    _ = translator(load_settings().language)
    rows = _price_rows(document["prices"], _)
    columns = [Column(_("$ per million tokens"), numeric=False), *(Column(_(c)) for c in CLASSES)]
    notes = [f"  {note}" for note in _price_notes(document, _)]
    provider = document["provider"] or _("any provider")
    draw(f"{document['model']} ({provider})", columns, rows, notes=notes)


def draw_comparison(result: Comparison, book: PriceBook) -> None:
    """Print the differences to a second source, and what only one of both has."""
    _ = translator(load_settings().language)
    if result.differences:
        columns = [
            Column(_("Model"), numeric=False),
            Column(_("Price"), numeric=False),
            Column(_("Ours")),
            Column(_("Theirs")),
            Column(_("Difference")),
        ]
        rows = [_difference_cells(difference, book, _) for difference in result.differences]
        draw(result.source, columns, rows)
    text = _("{source}: {prices} prices of {models} models compared, {differences} differ.")
    click.echo(
        text.format(
            source=result.source,
            prices=f"{result.prices:,}",
            models=f"{result.models:,}",
            differences=f"{len(result.differences):,}",
        )
    )
    for label, models in (
        (_("Only in our list ({count}): {models}"), result.only_ours),
        (_("Only in the second source ({count}): {models}"), result.only_theirs),
    ):
        if models:
            click.echo(f"  {label.format(count=len(models), models=', '.join(models))}")


def _pair(text: str) -> tuple[str, str]:
    key, separator, dollars = text.partition("=")
    if not separator:
        raise InvalidPrice(
            "is not KEY=DOLLARS", field="price", value=text, remedy="write web_searches_kcount=8"
        )
    return key.strip(), dollars.strip()


def _price_rows(prices: Sequence[Mapping[str, Any]], _: Translate) -> list[list[str]]:
    known = {(line["way"], line["above"], line["unit"]): line["dollars"] for line in prices}
    rows = []
    for way, above in dict.fromkeys((line["way"], line["above"]) for line in prices):
        name = _(way)
        if above:
            name = _("{way}, prompt > {tokens}").format(way=name, tokens=f"{above:,}")
        cells = [
            next(
                (
                    known[way, tier, u]
                    for tier in (above, 0)
                    for u in FALLBACKS[unit]
                    if (way, tier, u) in known
                ),
                "-",
            )
            for unit in CLASSES.values()
        ]
        rows.append([name, *cells])
    return rows


def _price_notes(document: Mapping[str, Any], _: Translate) -> Iterator[str]:
    in_columns = {unit for chain in FALLBACKS.values() for unit in chain}
    for line in document["prices"]:
        if line["way"] == "standard" and line["above"] == 0 and line["unit"] not in in_columns:
            text = _("{unit}: ${dollars} per {count}")
            yield text.format(unit=line["unit"], dollars=line["dollars"], count=f"{line['per']:,}")
    ways = {line["way"] for line in document["prices"]}
    missing = [_(way) for way in WAYS if way not in ways]
    if missing:
        yield _("No price is known for: {ways}").format(ways=", ".join(missing))
    for contract in document["contracts"]:
        text = _("Your price: {unit} ${dollars} (list: {list})")
        yield text.format(**contract | {"list": _money(contract["list"])})
    yield _("Source: {source}").format(source=document["source"])
    yield _("Since: {moment}").format(moment=document["since"] or _("always"))
    for change in document.get("history", ()):
        for one in change["changes"]:
            above = f" > {one['above']:,}" if one["above"] else ""
            before, after = _money(one["before"]), _money(one["after"])
            yield f"{change['from'][:16]}  {one['unit']}{above}: {before} → {after}"


def _difference_cells(difference: Difference, book: PriceBook, _: Translate) -> list[str]:
    line = difference_document(difference, book)
    parts = [difference.quote.unit, *(value for value in difference.quote.terms if value)]
    if difference.above:
        parts.append(f"> {difference.above:,}")
    percent = "-" if difference.share is None else f"{float(difference.share):+.1%}"
    return [
        difference.model,
        ", ".join(parts),
        _money(line["ours"]),
        _money(line["theirs"]),
        percent,
    ]


def _money(dollars: str | None) -> str:
    return "-" if dollars is None else f"${dollars}"
