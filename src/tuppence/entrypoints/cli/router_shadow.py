"""`tuppence router shadow`: what routing loses and saves, by asking the strongest model too."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tuppence.entrypoints.cli.options import json_option
from tuppence.entrypoints.cli.router_steps import tiers_option, told_steps, weights_option
from tuppence.entrypoints.cli.tables import Column, draw, exact_dollars
from tuppence.errors import InvalidTrace
from tuppence.model_router.router import ModelRouter
from tuppence.model_router.shadow import (
    DEFAULT_JUDGE,
    FEWEST_COMPARISONS,
    ExpectedAnswer,
    Interval,
    ModelJudge,
    Shadow,
    ShadowReport,
    read_comparisons,
    report,
)


@click.command("shadow")
@click.argument("requests", required=False, type=click.Path(path_type=Path))
@click.option("--log", required=True, type=click.Path(path_type=Path), help="File of comparisons.")
@click.option(
    "--share", type=float, default=0.2, show_default=True, help="Of routed calls to compare."
)
@click.option(
    "--judge", metavar="ID", default=DEFAULT_JUDGE, show_default=True, help="Model that judges."
)
@click.option("--floor", type=float, default=0.98, show_default=True, help="Of kept quality.")
@click.option("--seed", default=0, show_default=True, help="Of the sample.")
@tiers_option
@weights_option
@json_option
def shadow(  # noqa: PLR0913 - options
    requests: Path | None,
    log: Path,
    share: float,
    judge: str,
    floor: float,
    seed: int,
    tiers: str,
    weights: Path,
    *,
    as_json: bool,
) -> None:
    """Compare routed answers with the strongest model's; report regret and saving.

    REQUESTS holds a JSON object a line: `prompt`, or a request with `messages`; with `expected` the
    answers are checked against it, else a model judges. All of them are sent (that costs money), a
    share is sent to the strongest model too. Without REQUESTS the log is reported.
    """
    if requests is not None:
        drawing = random.Random(seed)  # noqa: S311 - a sample, no secret
        watching = Shadow(log, share, ModelJudge(judge), floor, drawing=drawing)
        rows = list(_rows(requests))
        with told_steps(wanted=not as_json) as tell:
            for number, row in enumerate(rows, 1):
                tell(f"request {number} of {len(rows)}")
                _send(row, watching, tiers, weights)
    told = report(read_comparisons(log), floor, fewest=FEWEST_COMPARISONS)
    if as_json:
        click.echo(json.dumps(_document(told), indent=2))
    else:
        _print(told, floor)


def _send(row: dict[str, Any], shadow: Shadow, tiers: str, weights: Path) -> None:
    expected = row.pop("expected", None)
    if expected is not None:
        shadow = replace(shadow, judge=ExpectedAnswer(str(expected)))
    router = ModelRouter(tiers=tiers, classifier=weights, shadow=shadow)
    try:
        router.route_and_call(**row)
    finally:
        router.close()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise _no_requests(path, f"cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _no_requests(path, f"line {number} is no JSON ({error})") from error
        if not isinstance(row, dict) or not (row.get("prompt") or row.get("messages")):
            raise _no_requests(path, f"line {number} has neither prompt nor messages")
        row.pop("model", None)
        yield row


def _no_requests(path: Path, problem: str) -> InvalidTrace:
    return InvalidTrace(
        problem,
        field="REQUESTS",
        value=str(path),
        remedy="give JSON lines with prompt, or with messages",
    )


def _print(told: ShadowReport, floor: float) -> None:
    rows = [
        ["regret (quality lost)", *_shares(told.regret)],
        ["quality kept", *_shares(told.kept_quality)],
        ["saved per routed call", *_amounts(told.saving_nanos)],
        ["saved, share", *_shares(told.saving_share)],
    ]
    notes = [f"{told.comparisons:,} comparisons; intervals are 95 % bootstrap intervals"]
    if told.is_below_floor:
        notes.append(f"* the quality is below {floor:.0%}: routers with this log are rolled back")
    columns = [Column("Figure", numeric=False), Column("Value"), Column("From"), Column("To")]
    draw("Routed beside the strongest model", columns, rows, notes=notes)


def _shares(interval: Interval) -> list[str]:
    return ["-" if math.isnan(one) else f"{one:.1%}" for one in interval]


def _amounts(interval: Interval) -> list[str]:
    return ["-" if math.isnan(one) else exact_dollars(round(one)) for one in interval]


def _document(told: ShadowReport) -> dict[str, Any]:
    document: dict[str, Any] = {"comparisons": told.comparisons}
    for name in ("regret", "kept_quality", "saving_nanos", "saving_share"):
        interval: Interval = getattr(told, name)
        document[name] = {
            key: None if math.isnan(value) else round(value, 6)
            for key, value in interval._asdict().items()
        }
    return {**document, "is_below_floor": told.is_below_floor}
