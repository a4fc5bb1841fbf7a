"""`tuppence router evaluate`: a classifier on recorded outcomes, in tables and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from tuppence.core.price_book import PriceBook
from tuppence.entrypoints.cli.options import json_option
from tuppence.entrypoints.cli.router_steps import (
    check_writable,
    known_price,
    require_scipy,
    tiers_option,
    told_steps,
    weights_option,
    writing,
)
from tuppence.entrypoints.cli.tables import Column, draw, terminal_columns
from tuppence.errors import InvalidInput
from tuppence.language import Translate, mark, translator
from tuppence.model_router.classifier import WEIGHTS_PATH, load_classifier
from tuppence.model_router.decision import TokenPrice
from tuppence.model_router.metrics import Interval
from tuppence.model_router.outcomes import (
    Outcome,
    Targets,
    TierModels,
    targets_of,
    targets_of_pair,
)
from tuppence.model_router.routing import utc_now
from tuppence.model_router.tiers import load_models
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

if TYPE_CHECKING:
    from tuppence.model_router.curve_chart import Curve, Table
    from tuppence.model_router.evaluation import Figures, SourceReport

FEWEST_ROUNDS = 50
"""Fewer give no interval: the ends of 95 % are the second of 50 from either side."""
WIDTH_OF_ALL_INTERVALS = 140
FIGURE_NAMES: Mapping[str, str] = {
    "apgr": "APGR",
    "cpt_50": "CPT(50%)",
    "cpt_80": "CPT(80%)",
    "aiq": "AIQ",
    "gap_closed": mark("oracle gap closed"),
    "cost_at_98": mark("cost at 98%"),
    "cost_at_95": mark("cost at 95%"),
    "calibration_error": mark("calibration error"),
    "auc_simple": mark("AUC, SIMPLE"),
    "balanced_accuracy": mark("balanced accuracy"),
    "severe_under_routing": mark("COMPLEX as SIMPLE"),
    "recall_simple": mark("recall SIMPLE"),
    "recall_moderate": mark("recall MODERATE"),
    "recall_complex": mark("recall COMPLEX"),
}
ROUTER_NAMES: Mapping[str, str] = {
    "router": mark("Router"),
    "length": mark("Length"),
    "known_task": mark("Task"),
    "zero_router": mark("Zero"),
    "oracle": mark("Oracle"),
}
POOLED_NAMES: Mapping[str, str] = {
    "outcomes": mark("All sources with outcomes"),
    "labels": mark("All sources with labels"),
}
NO_CLASSES = mark("no classes: the middle tier was not tried, so what a prompt needs is not known")
NOTHING = mark("nothing to measure: that takes outcomes of two models, or labels")
TRAINED_ON = mark(
    "* the classifier was trained on this: the figures flatter it, --folds measures it held out"
)


class _Measured(NamedTuple):
    """What is shown."""

    reports: Sequence[SourceReport]
    pooled: Mapping[str, Figures]
    trained_on: Sequence[str]
    """Sources that the classifier has seen."""


@click.command("evaluate")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@weights_option
@tiers_option
@click.option("--folds", type=click.IntRange(2, 20), help="Train on all but one of so many parts.")
@click.option("--leave-one-out", is_flag=True, help="Train on all sources but the one measured.")
@click.option("--weak", metavar="MODEL", help="Measure a pair of the data's models, not tiers.")
@click.option("--strong", metavar="MODEL", help="The other one of the pair.")
@click.option(
    "--rounds",
    type=click.IntRange(FEWEST_ROUNDS),
    default=100,
    show_default=True,
    help="Of the bootstrap.",
)
@click.option("--seed", default=0, show_default=True, help="Of the parts.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with the curves.")
@click.option("--png", type=click.Path(path_type=Path), help="Draw the curves, a file per source.")
@json_option
def evaluate(  # noqa: PLR0913 - options
    *,
    data: tuple[Path, ...],
    weights: Path,
    tiers: str,
    folds: int | None,
    weak: str | None,
    strong: str | None,
    rounds: int,
    seed: int,
    html: Path | None,
    png: Path | None,
    leave_one_out: bool,
    as_json: bool,
) -> None:
    """Measure a router on files of recorded outcomes (JSON lines), beside what needs no router.

    By default the classifier of the package (or --weights) is measured as it is; with --folds or
    --leave-one-out the data itself is trained on, and measured only where it was held out.
    """
    require_scipy()
    from tuppence.model_router import evaluation  # noqa: PLC0415 - scipy
    from tuppence.model_router.trainer import read_files, trained_on  # noqa: PLC0415
    from tuppence.model_router.training import prepare  # noqa: PLC0415

    holds_out = folds is not None or leave_one_out
    _check_options(data, weights, folds, leave_one_out=leave_one_out)
    _check_pair(weak, strong)
    _check_files(html, png)
    prices = tier_prices(load_price_book(load_settings().cache_directory), tiers, utc_now())
    with told_steps(wanted=not as_json) as tell:
        tell("reading")
        outcomes, files = read_files(data)
        targets, models = _targets(outcomes, weak, strong)
        if holds_out:
            parts = evaluation.parts_of(targets, folds, seed)
            prepared = prepare(outcomes, targets)
            said = evaluation.held_out_predictions(outcomes, prepared, parts, tell)
        else:
            said = evaluation.predictions(load_classifier(weights), outcomes, tell)
        measured = _Measured(
            evaluation.evaluate(
                outcomes, targets, said, prices, tiers=models, rounds=rounds, tell=tell
            ),
            evaluation.pooled(outcomes, targets, said, rounds=rounds),
            [] if holds_out else trained_on(files, weights),
        )
    if as_json:
        click.echo(json.dumps(_document(measured), indent=2, ensure_ascii=False))
    else:
        _print(measured, translator(load_settings().language))
    if html is not None:
        _write_page(html, measured)
    if png is not None:
        _write_pictures(png, measured.reports)


def _targets(
    outcomes: Sequence[Outcome], weak: str | None, strong: str | None
) -> tuple[Targets, TierModels | None]:
    """Return what is to be predicted, and the pair of models that it is of, if any."""
    targets = targets_of(outcomes)
    if weak is None or strong is None:
        return targets, None
    return targets_of_pair(outcomes, targets, weak, strong), TierModels((weak,), (), (strong,))


def tier_prices(book: PriceBook, tiers: str, at: datetime) -> list[TokenPrice]:
    """Return what the cheapest model of each tier takes per token; a missing tier as the next.

    Raises UnknownPrice.
    """
    models = load_models(tiers, book)
    prices: list[TokenPrice] = []
    for tier in (2, 1, 0):
        known = [known_price(book, one.id, at) for one in models if one.tier == tier]
        prices.insert(0, min(known, key=lambda one: one.output) if known else prices[0])
    return prices


def _check_options(
    data: Sequence[Path], weights: Path, folds: int | None, *, leave_one_out: bool
) -> None:
    """Raise InvalidInput for options that exclude each other, or need more data."""
    if folds and leave_one_out:
        raise InvalidInput(
            "does not go with --leave-one-out", field="folds", value=folds, remedy="give one"
        )
    if weights != WEIGHTS_PATH and (folds or leave_one_out):
        raise InvalidInput(
            "are not measured with --folds or --leave-one-out, which train their own",
            field="weights",
            value=str(weights),
            remedy="give one or the other",
        )
    if leave_one_out and len(data) == 1:
        raise InvalidInput(
            "is the only source: without it nothing is left to train on",
            field="data",
            value=str(data[0]),
            remedy="give several files, or --folds",
        )


def _check_pair(weak: str | None, strong: str | None) -> None:
    if weak is None and strong is None:
        return
    if weak is None or strong is None or weak == strong:
        raise InvalidInput(
            "are no pair",
            field="weak, strong",
            value=(weak, strong),
            remedy="give two models, --weak and --strong",
        )


def _check_files(html: Path | None, png: Path | None) -> None:
    from tuppence.model_router.curve_chart import check_png  # noqa: PLC0415

    if html is not None:
        check_writable(html, "html")
    if png is not None:
        check_png(png)
        check_writable(png, "png")


def _print(measured: _Measured, _: Translate) -> None:
    for report in measured.reports:
        text = _("{source}: {count} prompts")
        title = text.format(source=report.source, count=f"{report.prompts:,}")
        if not report.figures:
            click.echo(f"{title}; {_(NOTHING)}")
            continue
        _draw(title, report.figures, _notes(report, measured.trained_on, _), _)
    if len(measured.reports) > 1:
        for name, figures in measured.pooled.items():
            notes = [_(TRAINED_ON)] if measured.trained_on else []
            _draw(_(POOLED_NAMES[name]), figures, notes, _)


def _notes(report: SourceReport, trained_on: Sequence[str], _: Translate) -> list[str]:
    notes = [_(TRAINED_ON)] if report.source in trained_on else []
    if "balanced_accuracy" not in report.figures:
        notes.append(_(NO_CLASSES))
    return notes


def _draw(title: str, figures: Figures, notes: Sequence[str], _: Translate) -> None:
    has_room = terminal_columns() >= WIDTH_OF_ALL_INTERVALS
    columns = [Column(_("Figure"), numeric=False)]
    columns += [Column(_(name)) for name in ROUTER_NAMES.values()]
    rows = [
        [
            _(FIGURE_NAMES[figure]),
            *(
                _interval(one) if has_room or router == "router" else _share(one.value)
                for router, one in by_router.items()
            ),
        ]
        for figure, by_router in figures.items()
    ]
    draw(title, columns, rows, notes=notes)


def _interval(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "-"
    return f"{interval.value:.3f} [{interval.low:.3f} {interval.high:.3f}]"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _document(measured: _Measured) -> dict[str, Any]:
    sources = [
        {
            "source": report.source,
            "prompts": report.prompts,
            "tiers": report.tiers._asdict(),
            "figures": _json_figures(report.figures),
        }
        for report in measured.reports
    ]
    return {
        "trained_on": list(measured.trained_on),
        "sources": sources,
        "pooled": {name: _json_figures(figures) for name, figures in measured.pooled.items()},
    }


def _json_figures(figures: Figures) -> dict[str, Any]:
    return {
        figure: {
            router: {name: _json_number(value) for name, value in one._asdict().items()}
            for router, one in by_router.items()
        }
        for figure, by_router in figures.items()
    }


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _curves(report: SourceReport) -> list[Curve]:
    from tuppence.model_router import curve_chart as chart  # noqa: PLC0415

    styles = {
        "zero_router": ("Zero router", chart.ZERO_ROUTER),
        "length": ("Length", chart.LENGTH),
        "known_task": ("Known task", chart.KNOWN_TASK),
        "oracle": ("Oracle", chart.ORACLE),
        "router": ("Router", chart.ROUTER),
    }
    return [
        chart.Curve(label, report.curves[name], style)
        for name, (label, style) in styles.items()
        if name in report.curves
    ]


def _write_page(path: Path, measured: _Measured) -> None:
    from tuppence.model_router.curve_chart import curve_html, curve_svg  # noqa: PLC0415

    charts = [curve_svg(one.source, _curves(one)) for one in measured.reports if one.curves]
    tables = [
        _table(f"{one.source}: {one.prompts:,} prompts", one.figures)
        for one in measured.reports
        if one.figures
    ]
    tables += [_table(POOLED_NAMES[name], figures) for name, figures in measured.pooled.items()]
    notes = [
        "Cost is a share of always asking the strong tier; quality is the share of right answers.",
        "Intervals are 95 % bootstrap intervals over prompts.",
    ]
    if measured.trained_on:
        names = ", ".join(measured.trained_on)
        notes.append(f"The classifier was trained on {names}: the figures there flatter it.")
    with writing(path, "html"):
        path.write_text(curve_html("Router evaluation", charts, tables, notes), encoding="utf-8")


def _table(title: str, figures: Figures) -> Table:
    from tuppence.model_router.curve_chart import Table  # noqa: PLC0415

    rows = [
        [FIGURE_NAMES[figure], *map(_interval, by_router.values())]
        for figure, by_router in figures.items()
    ]
    return Table(title, ["Figure", *ROUTER_NAMES.values()], rows)


def _write_pictures(path: Path, reports: Sequence[SourceReport]) -> None:
    from tuppence.model_router.curve_chart import write_png  # noqa: PLC0415

    drawn = [one for one in reports if one.curves]
    for report in drawn:
        name = path if len(drawn) == 1 else path.with_stem(f"{path.stem}-{report.source}")
        write_png(name, report.source, _curves(report))
