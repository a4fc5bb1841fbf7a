"""`tuppence router shadow`: what routing loses and saves, by asking the strongest model too."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from tuppence.cost_tracking.service import CostTrackingService
from tuppence.entrypoints.cli.options import database_option, json_option
from tuppence.entrypoints.cli.router_requests import RecordedRequest, read_requests
from tuppence.entrypoints.cli.router_steps import (
    check_writable,
    known_price,
    tiers_option,
    told_steps,
    weights_option,
    writing,
)
from tuppence.entrypoints.cli.tables import Column, draw, exact_dollars
from tuppence.errors import InvalidInput, ProviderAuthenticationFailed, ProviderError
from tuppence.language import Translate, translator
from tuppence.model_router.metrics import Interval
from tuppence.model_router.router import ModelRouter
from tuppence.model_router.routing import utc_now
from tuppence.model_router.shadow import (
    DEFAULT_JUDGE,
    FEWEST_COMPARISONS,
    Asking,
    ExpectedAnswer,
    ModelJudge,
    Shadow,
    ShadowReport,
    read_comparisons,
    report,
)
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

EXIT_NOT_ALL_ANSWERED = 1


@dataclass(slots=True)
class _Judge:
    """Judges by what the request under way expects; by a model where it expects nothing."""

    model: ModelJudge
    expected: str | None = None

    def compare(
        self, request: Mapping[str, Any], prompt: str, routed: str, strongest: str
    ) -> Asking:
        """Return the judgement of the one that is to judge."""
        judge = self.model if self.expected is None else ExpectedAnswer(self.expected)
        return judge.compare(request, prompt, routed, strongest)


@dataclass(slots=True)
class _Sending:
    """How far the requests of a file have come."""

    requests: Sequence[RecordedRequest]
    answered: set[int] = field(default_factory=set)
    """Places of requests."""
    failures: list[str] = field(default_factory=list)

    @property
    def unanswered(self) -> list[str]:
        """The lines of the requests that got no answer."""
        return [one.line for n, one in enumerate(self.requests) if n not in self.answered]

    def send(self, router: ModelRouter, judge: _Judge, tell: Callable[[str], None]) -> None:
        """Send all requests; stop only where the provider does not accept the key."""
        for number, request in enumerate(self.requests):
            tell(f"{number + 1} / {len(self.requests)}")
            judge.expected = request.expected
            try:
                router.route_and_call(**request.fields)
            except ProviderAuthenticationFailed as error:
                self.failures.append(str(error))
                return
            except (ProviderError, InvalidInput) as error:
                self.failures.append(str(error))
            else:
                self.answered.add(number)


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
@click.option(
    "--unanswered",
    type=click.Path(path_type=Path),
    help="Write the requests that got no answer, to be sent another time.",
)
@click.option("--team", help="Team that the calls are charged to.")
@click.option("--project", help="Project that the calls are charged to.")
@database_option
@tiers_option
@weights_option
@json_option
def shadow(  # noqa: PLR0913 - options
    *,
    requests: Path | None,
    log: Path,
    share: float,
    judge: str,
    floor: float,
    seed: int,
    unanswered: Path | None,
    team: str | None,
    project: str | None,
    database: str | None,
    tiers: str,
    weights: Path,
    as_json: bool,
) -> None:
    """Compare routed answers with the strongest model's; report regret and saving.

    REQUESTS holds a JSON object a line: `prompt`, or a request with `messages`; with `expected` the
    answers are checked against it, else a model judges. All of them are sent (that costs money, and
    is booked), a share is sent to the strongest model too. Without REQUESTS the log is reported.
    """
    judging = _Judge(ModelJudge(judge))
    drawing = random.Random(seed)  # noqa: S311 - a sample, no secret
    watching = Shadow(log, share, judging, floor, drawing=drawing)
    sending = _Sending(read_requests(requests) if requests else [])
    if requests is not None:
        _check_before_paying(judge, log, unanswered)
        with (
            closing(CostTrackingService(database)) as tracker,
            closing(
                ModelRouter(
                    tracker=tracker,
                    tiers=tiers,
                    classifier=weights,
                    shadow=watching,
                    attribution={"team_id": team, "project_id": project},
                )
            ) as router,
            told_steps(wanted=not as_json) as tell,
        ):
            try:
                sending.send(router, judging, tell)
            finally:
                if unanswered is not None:
                    lines = "".join(f"{line}\n" for line in sending.unanswered)
                    with writing(unanswered, "unanswered"):
                        unanswered.write_text(lines, encoding="utf-8")
    # A log that nothing was added to need not be there.
    comparisons = [] if requests is not None and not log.exists() else read_comparisons(log)
    told = report(comparisons, floor, fewest=FEWEST_COMPARISONS)
    if as_json:
        click.echo(json.dumps(_document(told, sending), indent=2, ensure_ascii=False))
    else:
        _print(told, floor, sending, translator(load_settings().language))
    if sending.unanswered:
        sys.exit(EXIT_NOT_ALL_ANSWERED)


def _check_before_paying(judge: str, log: Path, unanswered: Path | None) -> None:
    """Refuse what would otherwise be noticed only after the answers were paid for."""
    known_price(load_price_book(load_settings().cache_directory), judge, utc_now())
    for field_name, path in (("log", log), ("unanswered", unanswered)):
        if path is not None:
            check_writable(path, field_name)


def _print(told: ShadowReport, floor: float, sending: _Sending, _: Translate) -> None:
    rows = [
        [_("regret (quality lost)"), *_shares(told.regret)],
        [_("quality kept"), *_shares(told.kept_quality)],
        [_("saved per routed call"), *_amounts(told.saving_nanos)],
        [_("saved, share"), *_shares(told.saving_share)],
    ]
    notes = [
        _("{count} comparisons; intervals are 95 % bootstrap intervals").format(
            count=f"{told.comparisons:,}"
        )
    ]
    if told.is_below_floor:
        text = _("* the quality is below {floor}: routers with this log are rolled back")
        notes.append(text.format(floor=f"{floor:.0%}"))
    if sending.unanswered:
        text = _("* {count} of {requests} requests got no answer: {why}")
        notes.append(
            text.format(
                count=f"{len(sending.unanswered):,}",
                requests=f"{len(sending.requests):,}",
                why=sending.failures[0],
            )
        )
    columns = [
        Column(_("Figure"), numeric=False),
        Column(_("Value")),
        Column(_("From")),
        Column(_("To")),
    ]
    draw(_("Routed beside the strongest model"), columns, rows, notes=notes)


def _shares(interval: Interval) -> list[str]:
    return ["-" if math.isnan(one) else f"{one:.1%}" for one in interval]


def _amounts(interval: Interval) -> list[str]:
    return ["-" if math.isnan(one) else exact_dollars(round(one)) for one in interval]


def _document(told: ShadowReport, sending: _Sending) -> dict[str, Any]:
    document: dict[str, Any] = {
        "requests": len(sending.requests),
        "answered": len(sending.answered),
        "failures": sending.failures,
        "comparisons": told.comparisons,
    }
    for name in ("regret", "kept_quality", "saving_nanos", "saving_share"):
        interval: Interval = getattr(told, name)
        document[name] = {
            key: None if math.isnan(value) else round(value, 6)
            for key, value in interval._asdict().items()
        }
    return {**document, "is_below_floor": told.is_below_floor}
