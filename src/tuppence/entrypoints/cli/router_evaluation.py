"""`tuppence router evaluate`: a classifier on recorded outcomes, in tables and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuppence.core.price_book import PriceBook
from tuppence.core.usage import Usage
from tuppence.entrypoints.cli.options import json_option
from tuppence.entrypoints.cli.router_steps import (
    require_scipy,
    tiers_option,
    told_steps,
    weights_option,
)
from tuppence.entrypoints.cli.tables import Column, draw
from tuppence.errors import InvalidInput, UnknownPrice
from tuppence.model_router.classifier import load_classifier
from tuppence.model_router.decision import TokenPrice
from tuppence.model_router.metrics import Interval
from tuppence.model_router.routing import utc_now
from tuppence.model_router.tiers import load_models
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

if TYPE_CHECKING:
    from tuppence.model_router.curve_chart import Curve, Table
    from tuppence.model_router.evaluation import SourceReport

FIGURE_NAMES: Mapping[str, str] = {
    "auc_simple": "AUC, SIMPLE or not",
    "apgr": "APGR",
    "cpt_50": "CPT(50%)",
    "cpt_80": "CPT(80%)",
    "aiq": "AIQ",
    "gap_closed": "gap to the oracle closed",
    "cost_at_98": "cost at 98% of quality",
    "cost_at_95": "cost at 95% of quality",
}
ROUTER_NAMES: Mapping[str, str] = {
    "router": "Router",
    "length": "Length",
    "known_task": "Known task",
    "zero_router": "Zero router",
    "oracle": "Oracle",
}
OWN_NAMES: Mapping[str, str] = {
    "calibration_error": "calibration error of p(weak right)",
    "balanced_accuracy": "balanced accuracy of the classes",
    "severe_under_routing": "COMPLEX taken for SIMPLE",
}


@click.command("evaluate")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@weights_option
@tiers_option
@click.option("--folds", type=click.IntRange(2, 20), help="Train on all but one of so many parts.")
@click.option("--leave-one-out", is_flag=True, help="Train on all sources but the one measured.")
@click.option(
    "--rounds", type=click.IntRange(2), default=100, show_default=True, help="Of the bootstrap."
)
@click.option("--seed", default=0, show_default=True, help="Of the parts.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with the curves.")
@click.option("--png", type=click.Path(path_type=Path), help="Draw the curves, a file per source.")
@json_option
def evaluate(  # noqa: PLR0913 - options
    data: tuple[Path, ...],
    weights: Path,
    tiers: str,
    folds: int | None,
    rounds: int,
    seed: int,
    html: Path | None,
    png: Path | None,
    *,
    leave_one_out: bool,
    as_json: bool,
) -> None:
    """Measure a router on files of recorded outcomes (JSON lines), beside what needs no router.

    By default the classifier of the package (or --weights) is measured as it is; with --folds or
    --leave-one-out the data itself is trained on, and measured only where it was held out.
    """
    require_scipy()
    from tuppence.model_router import evaluation  # noqa: PLC0415 - scipy
    from tuppence.model_router.trainer import read_files  # noqa: PLC0415
    from tuppence.model_router.training import prepare  # noqa: PLC0415

    if folds and leave_one_out:
        raise InvalidInput(
            "does not go with --leave-one-out", field="folds", value=folds, remedy="give one"
        )
    prices = tier_prices(load_price_book(load_settings().cache_directory), tiers, utc_now())
    with told_steps(wanted=not as_json) as tell:
        tell("reading")
        outcomes, _ = read_files(data)
        prepared = prepare(outcomes)
        if folds or leave_one_out:
            parts = evaluation.parts_of(prepared.targets, folds, seed)
            said = evaluation.held_out_predictions(outcomes, prepared, parts, tell)
        else:
            said = evaluation.predictions(load_classifier(weights), outcomes, tell)
        targets = prepared.targets
        reports = evaluation.evaluate(outcomes, targets, said, prices, rounds=rounds, tell=tell)
        pooled = evaluation.pooled(targets, said)
    if html is not None:
        _write_page(html, reports, pooled)
    if png is not None:
        _write_pictures(png, reports)
    if as_json:
        click.echo(json.dumps(_document(reports, pooled), indent=2, ensure_ascii=False))
    else:
        _print(reports, pooled)


def tier_prices(book: PriceBook, tiers: str, at: datetime) -> list[TokenPrice]:
    """Return what the cheapest model of each tier takes per token; a missing tier as the next."""
    models = load_models(tiers, book)
    prices: list[TokenPrice] = []
    for tier in (2, 1, 0):
        known = [_token_price(book, one.id, at) for one in models if one.tier == tier]
        prices.insert(0, min(known, key=lambda one: one.output) if known else prices[0])
    return prices


def _token_price(book: PriceBook, model: str, at: datetime) -> TokenPrice:
    cost = book.cost(Usage(input_tokens=1_000, output_tokens=1_000), model, int(at.timestamp()))
    if cost is None:
        raise UnknownPrice(
            "has no known price",
            field="model",
            value=model,
            remedy="set one with `tuppence prices set`, or check the spelling",
        )
    return TokenPrice(cost.input_nanos / 1_000, cost.output_nanos / 1_000)


def _print(reports: Sequence[SourceReport], pooled: Mapping[str, float]) -> None:
    for report in reports:
        table = _table(report)
        columns = [Column(name, numeric=place > 0) for place, name in enumerate(table.header)]
        draw(table.title, columns, table.rows, notes=_own_lines(report))
    rows = [[name.replace("_", " "), _share(value)] for name, value in pooled.items()]
    draw("All sources together", [Column("Figure", numeric=False), Column("Router")], rows)


def _table(report: SourceReport) -> Table:
    from tuppence.model_router.curve_chart import Table  # noqa: PLC0415

    rows = [
        [
            name,
            _interval(report.figures[figure]["router"]),
            *(_share(report.figures[figure][one].value) for one in list(ROUTER_NAMES)[1:]),
        ]
        for figure, name in FIGURE_NAMES.items()
        if figure in report.figures
    ]
    title = f"{report.source}: {report.prompts:,} prompts"
    return Table(title, ["Figure", *ROUTER_NAMES.values()], rows)


def _own_lines(report: SourceReport) -> list[str]:
    lines = [f"{OWN_NAMES[name]}: {_share(value)}" for name, value in report.own.items()]
    recalls = ", ".join(_share(value) for value in report.recalls)
    return [*lines, f"recall of SIMPLE, MODERATE, COMPLEX: {recalls}"]


def _interval(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "-"
    return f"{interval.value:.3f} [{interval.low:.3f} {interval.high:.3f}]"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _document(reports: Sequence[SourceReport], pooled: Mapping[str, float]) -> dict[str, Any]:
    sources = [
        {
            "source": report.source,
            "prompts": report.prompts,
            "tiers": report.tiers._asdict(),
            "figures": {
                figure: {router: _json_interval(one) for router, one in by_router.items()}
                for figure, by_router in report.figures.items()
            },
            "own": {name: _json_number(value) for name, value in report.own.items()},
            "recalls": [_json_number(value) for value in report.recalls],
        }
        for report in reports
    ]
    return {"sources": sources, "pooled": {name: _json_number(one) for name, one in pooled.items()}}


def _json_interval(interval: Interval) -> dict[str, float | None]:
    return {name: _json_number(value) for name, value in interval._asdict().items()}


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _curves(report: SourceReport) -> list[Curve]:
    from tuppence.model_router import curve_chart as chart  # noqa: PLC0415

    styles = {
        "zero_router": chart.ZERO_ROUTER,
        "length": chart.LENGTH,
        "known_task": chart.KNOWN_TASK,
        "oracle": chart.ORACLE,
        "router": chart.ROUTER,
    }
    return [
        chart.Curve(ROUTER_NAMES[name], report.curves[name], style)
        for name, style in styles.items()
        if name in report.curves
    ]


def _write_page(path: Path, reports: Sequence[SourceReport], pooled: Mapping[str, float]) -> None:
    from tuppence.model_router.curve_chart import Table, curve_html, curve_svg  # noqa: PLC0415

    charts = [curve_svg(one.source, _curves(one)) for one in reports if one.curves]
    tables = [_table(one) for one in reports if one.figures]
    rows = [[name.replace("_", " "), _share(value)] for name, value in pooled.items()]
    tables.append(Table("All sources together", ["Figure", "Router"], rows))
    notes = [
        "Cost is a share of always asking the strong tier; quality is the share of right answers.",
        "Intervals are 95 % bootstrap intervals over prompts.",
    ]
    try:
        path.write_text(curve_html("Router evaluation", charts, tables, notes), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"cannot be written: {error.strerror}",
            field="html",
            value=str(path),
            remedy="name a file in a directory that you may write to",
        ) from error


def _write_pictures(path: Path, reports: Sequence[SourceReport]) -> None:
    from tuppence.model_router.curve_chart import write_png  # noqa: PLC0415

    drawn = [one for one in reports if one.curves]
    for report in drawn:
        name = path if len(drawn) == 1 else path.with_stem(f"{path.stem}-{report.source}")
        write_png(name, report.source, _curves(report))
