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
    "limit": mark("Budget limit (spend refused)"),
}
MOVERS: frozenset[Measure] = frozenset({"routing", "limit"})
"""Measures that change which models answer."""
PROJECTED = mark("Projected: what would have been")
MEASURED = mark("Measured: what the trace itself shows")
NOTHING_MEASURED = mark("Measured: the trace records neither cache reads nor batch terms.")


class Costs(NamedTuple):
    """What the user pays for the saving, in nano-dollars, and for how many days it counts."""

    one_off_nanos: int
    monthly_nanos: int
    days: int

    def worth(self, savings: Savings) -> Investment:
        """Return what a saving is worth beside these costs."""
        return invest(
            savings.saving_nanos,
            self.days,
            one_off_nanos=self.one_off_nanos,
            monthly_nanos=self.monthly_nanos,
        )


def show_savings(
    told: Study, _: Translate, *, limit_nanos: int | None = None, costs: Costs | None = None
) -> None:
    """Print what would have been saved, and what was, each by itself."""
    _section(_(PROJECTED), told.projected, _, limit_nanos, costs, told.untold)
    click.echo()
    if told.measured is None:
        click.echo(_(NOTHING_MEASURED))
    else:
        _section(_(MEASURED), told.measured, _, None, costs, {})


def _section(
    title: str,
    savings: Savings,
    _: Translate,
    limit_nanos: int | None,
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
        [row for row in _figures(savings, limit_nanos, _) if row is not None],
    )
    _draw_parts(savings, _)
    for measure, why in untold.items():
        click.secho(f"{_(MEASURE_NAMES[measure])}: {_(why)}", dim=True)
    if costs is not None:
        click.echo(click.wrap_text(_worth(costs.worth(savings), _), terminal_columns()))


def _draw_parts(savings: Savings, _: Translate) -> None:
    if not savings.parts:
        return
    whole = Fraction(1) if savings.saving_nanos else Fraction(0)
    draw(
        "",
        [Column(_("Measure"), numeric=False), Column(_("Saving")), Column(_("Share"))],
        [
            (
                _(MEASURE_NAMES[part.measure]),
                _dollars(part.saving_nanos, savings),
                _percent(part.share),
            )
            for part in savings.parts
        ],
        total=(_("Total"), _dollars(savings.saving_nanos, savings), _percent(whole)),
    )


def _figures(
    savings: Savings, limit_nanos: int | None, _: Translate
) -> Sequence[tuple[str, str, str, str] | None]:
    before, after = savings.before, savings.after
    can_move = any(part.measure in MOVERS for part in savings.parts)
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


def _shares(name: str, before: Fraction, after: Fraction) -> tuple[str, str, str, str] | None:
    """Return the line of a share with its change in points; none where it is 0 throughout."""
    if not before and not after:
        return None
    points = _percent(after - before, signed=True).removesuffix("%")
    return name, _percent(before), _percent(after), f"{points} pt"


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
        (_("Requests refused"), f"{before.refused:,}", f"{after.refused:,}", ""),
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


def _percent(share: Fraction, *, signed: bool = False, places: int = 1) -> str:
    """Return a share as "12.3%", rounded half-even, computed without floats."""
    scale = 10**places
    scaled = round_half_even(100 * scale * share.numerator, share.denominator)
    whole, rest = divmod(abs(scaled), scale)
    sign = "-" if scaled < 0 else "+" if signed and scaled > 0 else ""
    return f"{sign}{whole:,}{f'.{rest:0{places}d}' if places else ''}%"
