"""Savings as tables: before and after, each measure's part, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import click

from tuppence.core.money import NANOS_PER_DOLLAR, format_dollars, round_half_even
from tuppence.entrypoints.cli.tables import Column, draw, exact_dollars, terminal_columns
from tuppence.insights.investment import Investment, invest
from tuppence.insights.savings import Measure, Savings
from tuppence.language import Translate, mark
from tuppence.savings.study import Study

MEASURE_NAMES: Mapping[Measure, str] = {
    "routing": mark("Model router"),
    "caching": mark("Prompt caching"),
    "batch": mark("Batch terms"),
}
LIMIT = mark("Budget limit (work refused)")
PROJECTED = mark("Projected: what would have been")
MEASURED = mark("Measured: what the trace itself shows")
NOTHING_MEASURED = mark("Measured: the trace records neither cache reads nor batch terms.")


class Costs(NamedTuple):
    """What the user pays for the saving, in nano-dollars, and for how many days it counts."""

    one_off_nanos: int
    monthly_nanos: int
    days: Fraction

    def worth(self, savings: Savings) -> Investment:
        """Return what a saving is worth beside these costs; work refused is no saving."""
        return invest(
            savings.saving_nanos,
            self.days,
            one_off_nanos=self.one_off_nanos,
            monthly_nanos=self.monthly_nanos,
        )


def show_savings(told: Study, _: Translate, *, costs: Costs | None = None) -> None:
    """Print what would have been saved, and what was, each by itself."""
    _section(_(PROJECTED), told.projected, _, costs, told.untold)
    click.echo()
    if told.measured is None:
        click.echo(_(NOTHING_MEASURED))
    else:
        _section(_(MEASURED), told.measured, _, costs, {})


def _section(
    title: str,
    savings: Savings,
    _: Translate,
    costs: Costs | None,
    untold: Mapping[Measure, str],
) -> None:
    draw(
        title,
        [
            Column(_("Figure"), numeric=False),
            Column(_("Before")),
            Column(_("After")),
            Column(_("Change")),
        ],
        [row for row in _figures(savings, _) if row is not None],
    )
    _draw_parts(savings, _)
    if savings.refused:
        click.echo(click.wrap_text(_refused(savings, _), terminal_columns()))
    for measure, why in untold.items():
        click.secho(f"{_(MEASURE_NAMES[measure])}: {_(why)}", dim=True)
    if costs is not None:
        click.echo(click.wrap_text(_worth(costs.worth(savings), _), terminal_columns()))


def _draw_parts(savings: Savings, _: Translate) -> None:
    parts = [
        (_(MEASURE_NAMES[part.measure]), part.saving_nanos, part.share) for part in savings.parts
    ]
    if savings.limit_nanos is not None:
        parts.append((_(LIMIT), savings.refused_nanos, savings.refused_share))
    if not parts:
        return
    whole = Fraction(1) if savings.less_nanos else Fraction(0)
    draw(
        "",
        [Column(_("Measure"), numeric=False), Column(_("Less spent")), Column(_("Share"))],
        [(name, _dollars(nanos, savings), _percent(share)) for name, nanos, share in parts],
        total=(_("Total"), _dollars(savings.less_nanos, savings), _percent(whole)),
    )


def _refused(savings: Savings, _: Translate) -> str:
    text = _(
        "{saving} of this is saved. {refused} is work that the limit refuses after all other "
        "measures: no saving, and in no ROI."
    )
    return text.format(
        saving=_dollars(savings.saving_nanos, savings),
        refused=_dollars(savings.refused_nanos, savings),
    )


def _figures(savings: Savings, _: Translate) -> Sequence[tuple[str, str, str, str] | None]:
    before, after, limit_nanos = savings.before, savings.after, savings.limit_nanos
    # Caching and batch terms do not change which models answer.
    is_routed = any(part.measure == "routing" for part in savings.parts)
    can_move = is_routed or limit_nanos is not None
    return [
        (
            _("Cost"),
            _dollars(before.cost_nanos, savings),
            _dollars(after.cost_nanos, savings),
            _percent(savings.change, signed=True),
        ),
        _shares(_("Requests on Opus or dearer"), before.strong_share, after.strong_share)
        if can_move
        else None,
        _shares(_("Cache hit rate"), before.read_share, after.read_share),
        *(_limited(savings, limit_nanos, _) if limit_nanos is not None else ()),
    ]


def _shares(
    name: str, before: Fraction | None, after: Fraction | None
) -> tuple[str, str, str, str] | None:
    """Return the line of a share with its change in points; none where it is 0 throughout."""
    if not before and not after:
        return None
    points = "-"
    if before is not None and after is not None:
        points = _percent(after - before, signed=True).removesuffix("%") + " pt"
    return name, _known_percent(before), _known_percent(after), points


def _limited(
    savings: Savings, limit_nanos: int, _: Translate
) -> Sequence[tuple[str, str, str, str]]:
    before, after = savings.before, savings.after
    return [
        (
            _("Over the limit of {limit} a month").format(limit=exact_dollars(limit_nanos)),
            _dollars(before.over_limit_nanos, savings),
            _dollars(after.over_limit_nanos, savings),
            "",
        ),
        (_("Requests refused"), "0", f"{savings.refused:,}", ""),
    ]


def _worth(worth: Investment, _: Translate) -> str:
    saving = format_dollars(round_half_even(*worth.saving_nanos.as_integer_ratio()))
    cost = format_dollars(worth.cost_nanos)
    if worth.return_share is None:
        text = _("{saving} saved in 30 days for {cost}.")
        return text.format(saving=saving, cost=cost)
    returned = _percent(worth.return_share, places=0)
    if worth.pay_back_days is None:
        text = _("{saving} saved in 30 days for {cost}: ROI {roi}, never paid back.")
        return text.format(saving=saving, cost=cost, roi=returned)
    text = _("{saving} saved in 30 days for {cost}: ROI {roi}, paid back in {days} days.")
    return text.format(
        saving=saving, cost=cost, roi=returned, days=f"{float(worth.pay_back_days):,.1f}"
    )


def _dollars(nanos: int, savings: Savings) -> str:
    """Return an amount in cents; beside a cost of less than a dollar, with two decimals more."""
    return format_dollars(nanos, 2 if savings.before.cost_nanos >= NANOS_PER_DOLLAR else 4)


def _known_percent(share: Fraction | None) -> str:
    """Return a share, or "-" for one of nothing, as where no request was answered."""
    return "-" if share is None else _percent(share)


def _percent(share: Fraction, *, signed: bool = False, places: int = 1) -> str:
    """Return a share as "12.3%", rounded half-even, computed without floats."""
    scale = 10**places
    scaled = round_half_even(100 * scale * share.numerator, share.denominator)
    whole, rest = divmod(abs(scaled), scale)
    sign = "-" if scaled < 0 else "+" if signed and scaled > 0 else ""
    return f"{sign}{whole:,}{f'.{rest:0{places}d}' if places else ''}%"
