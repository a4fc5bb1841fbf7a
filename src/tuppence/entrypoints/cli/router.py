"""`tuppence router`: which model a prompt goes to, and how good that is on your own traffic."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tuppence.entrypoints.cli.options import json_option
from tuppence.entrypoints.cli.router_cascade import cascade
from tuppence.entrypoints.cli.router_evaluation import evaluate
from tuppence.entrypoints.cli.router_shadow import shadow
from tuppence.entrypoints.cli.router_steps import (
    check_writable,
    require_scipy,
    tiers_option,
    told_steps,
    weights_option,
    writing,
)
from tuppence.entrypoints.cli.tables import Column, draw, exact_dollars
from tuppence.language import Translate, mark, translator
from tuppence.model_router.request import Request
from tuppence.model_router.routing import (
    DEFAULT_OUTPUT_TOKENS,
    DEFAULT_TURNS,
    Explanation,
    Routing,
    utc_now,
)
from tuppence.model_router.tiers import TIERS
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

WORDS = (
    mark("weak"),
    mark("middle"),
    mark("strong"),
    mark("simple"),
    mark("moderate"),
    mark("complex"),
)
"""Shown by name: tiers and complexities."""


@click.group("router")
def command() -> None:
    """Choose models by evidence: explain, train, evaluate, cascade, shadow."""


@command.command("explain")
@click.argument("prompt")
@tiers_option
@weights_option
@click.option("--quality", type=float, default=0.98, show_default=True, help="Quality floor.")
@json_option
def explain(prompt: str, tiers: str, weights: Path, quality: float, *, as_json: bool) -> None:
    """Show which model a PROMPT goes to, and why; "-" reads it, or a JSON request, from stdin."""
    routing = Routing(
        book=load_price_book(load_settings().cache_directory),
        tiers=tiers,
        quality=quality,
        classifier=weights,
        output_tokens=DEFAULT_OUTPUT_TOKENS,
        turns=DEFAULT_TURNS,
        now=utc_now,
    )
    told = routing.route(_read(prompt)).explanation
    if as_json:
        document = {**told._asdict(), "complexity": told.complexity.value}
        document["reason_code"] = told.reason_code.value
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print(told, translator(load_settings().language))


def _print(told: Explanation, _: Translate) -> None:
    rows = [
        [
            _(tier),
            f"{told.p_right[tier]:.0%}",
            exact_dollars(told.expected_cost_nanos[tier]) if tier in told.expected_cost else "-",
            _("chosen") if tier == told.tier else "",
        ]
        for tier in TIERS
    ]
    complexity = _(told.complexity.value)
    notes = [
        _("{complexity} ({confidence} sure), to {model}: {reason}").format(
            complexity=complexity,
            confidence=f"{told.confidence:.0%}",
            model=told.model,
            reason=told.reason,
        )
    ]
    notes += [
        "* " + _("{model} cannot take it: {reason}").format(model=model, reason=reason)
        for model, reason in told.excluded.items()
    ]
    columns = [
        Column(_("Tier"), numeric=False),
        Column(_("Right")),
        Column(_("Cost")),
        Column("", numeric=False),
    ]
    draw(_("Which model"), columns, rows, notes=notes)


@command.command("train")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Weights file.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same weights.")
@json_option
def train(data: tuple[Path, ...], output: Path, seed: int, *, as_json: bool) -> None:
    """Train a router on files of recorded outcomes (JSON lines); needs scipy."""
    require_scipy()
    check_writable(output, "output")
    from tuppence.model_router.trainer import about_weights, train_on_files  # noqa: PLC0415 - scipy
    from tuppence.model_router.training import save  # noqa: PLC0415

    with told_steps(wanted=not as_json) as tell:
        arrays = train_on_files(data, seed=seed, tell=tell)
    with writing(output, "output"):
        save(arrays, output)
    about = about_weights(output)
    size = output.stat().st_size
    if as_json:
        files = [file._asdict() for file in about.files]
        document = {"output": str(output), "bytes": size, "seed": seed, "files": files}
        click.echo(json.dumps(document, indent=2))
        return
    rows = [[file.name, f"{file.prompts:,}", file.sha256[:16]] for file in about.files]
    _ = translator(load_settings().language)
    columns = [Column(_("Source"), numeric=False), Column(_("Prompts")), Column("SHA-256")]
    note = _("{file}: {size} bytes, seed {seed}")
    notes = [note.format(file=output, size=f"{size:,}", seed=seed)]
    draw(_("Trained on"), columns, rows, notes=notes)


command.add_command(evaluate)
command.add_command(cascade)
command.add_command(shadow)


def _read(prompt: str) -> str | Request:
    if prompt != "-":
        return prompt
    text = sys.stdin.read()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) and "messages" in value else text
