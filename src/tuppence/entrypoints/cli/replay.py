"""`tuppence replay`: what recorded traffic would have cost, sent in other ways."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from tuppence.caching.replay import (
    POLICIES,
    TTL_NAMES,
    PolicyResult,
    ReplayResult,
    RuleBook,
    choices_of,
    replay,
)
from tuppence.caching.traces import READERS
from tuppence.entrypoints.cli.charts import Bar, bar_chart, write_chart
from tuppence.entrypoints.cli.imports import progress
from tuppence.entrypoints.cli.options import json_option, moment_of
from tuppence.entrypoints.cli.replay_savings import savings, trace_size
from tuppence.entrypoints.cli.tables import Column, draw
from tuppence.language import Translate, translator
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

BOUND_COLOUR, CHOSEN_COLOUR, FIXED_COLOUR = "#c9c9c9", "#1f7a4d", "#7aa6c2"


@click.group("replay")
def command() -> None:
    """Put recorded traffic through other ways of sending it."""


command.add_command(savings)


@command.command("prompt-cache")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_", type=click.Choice(tuple(READERS)), required=True, help="Of the trace."
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(tuple(POLICIES)),
    help="Only this one; can be given several times. Default: all.",
)
@click.option(
    "--ttl",
    type=click.Choice(sorted(TTL_NAMES.values())),
    default="auto",
    show_default=True,
    help="One TTL for all policies, or those that each is usually used with.",
)
@click.option("--model", metavar="ID", help="For traces that name none.")
@click.option("--at", metavar="DATE", help="Prices of this date. Default: now.")
@click.option("--chart", type=click.Path(path_type=Path), help="Draw the result: an .svg file.")
@json_option
def prompt_cache(
    trace: Path,
    format_: str,
    policies: tuple[str, ...],
    ttl: str,
    model: str | None,
    at: str | None,
    chart: Path | None,
    *,
    as_json: bool,
) -> None:
    """Show what a trace would have cost under every cache policy; only input is counted."""
    moment = moment_of(at, "at", ZoneInfo("UTC")) or datetime.now(ZoneInfo("UTC"))
    rule_book = RuleBook(load_price_book(load_settings().cache_directory), int(moment.timestamp()))
    choices = choices_of(policies or tuple(POLICIES), ttl)
    with progress(trace_size(trace), wanted=not as_json) as on_bytes:
        result = replay(READERS[format_](trace, model, on_bytes), choices, rule_book)
    _ = translator(load_settings().language)
    if chart is not None:
        write_chart(chart, _chart(trace.name, result, _))
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _print(trace.name, result, _)


def _print(name: str, result: ReplayResult, _: Translate) -> None:
    rows = [
        (
            row["policy"],
            row["ttl"],
            f"${row['input_usd']:,.2f}",
            f"{row['saving_percent']:.2f}%",
            f"{row['read_tokens']:,}",
            f"{row['written_tokens']:,}",
            f"{row['wasted_written_tokens']:,}",
        )
        for row in result["policies"]
    ]
    notes = [
        _("{requests} requests, {tokens} input tokens: {amount} without caching.").format(
            requests=f"{result['requests']:,}",
            tokens=f"{result['input_tokens']:,}",
            amount=f"${result['no_cache_usd']:,.2f}",
        ),
        _("ideal and oracle know the future: bounds, not policies."),
    ]
    if result["unpriced_requests"]:
        text = _("* {count} requests are left out: their model has no known price.")
        notes.append(text.format(count=f"{result['unpriced_requests']:,}"))
    draw(
        f"{_('Prompt cache')}: {name}",
        [
            Column(_("Policy"), numeric=False),
            Column("TTL", numeric=False),
            Column(_("Input")),
            Column(_("Saving")),
            Column(_("Tokens read"), from_width=80),
            Column(_("written"), from_width=90),
            Column(_("in vain"), from_width=70),
        ],
        rows,
        notes=notes,
    )


def _chart(name: str, result: ReplayResult, _: Translate) -> str:
    return bar_chart(
        f"{_('Prompt cache')}: {name}",
        _("Dollars for input, {requests} requests").format(requests=f"{result['requests']:,}"),
        [_bar(row) for row in result["policies"]],
    )


def _bar(row: PolicyResult) -> Bar:
    colour = (
        CHOSEN_COLOUR
        if row["policy"] == "adaptive"
        else BOUND_COLOUR
        if row["policy"] in {"ideal", "oracle"}
        else FIXED_COLOUR
    )
    return Bar(
        f"{row['policy']} {row['ttl']}" if row["policy"] != "none" else "none",
        row["input_usd"],
        f"${row['input_usd']:,.2f}  ({row['saving_percent']:+.1f}%)",
        colour,
    )
