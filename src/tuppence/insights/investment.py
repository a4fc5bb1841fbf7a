"""What savings are worth beside what it costs to have them: return on investment, pay-back time.

ROI = (saving - cost) / cost over the same currency and period.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

DAYS_PER_MONTH = 30


class Investment(NamedTuple):
    """A first month of saving, beside what it cost."""

    saving_nanos: Fraction
    """In 30 days."""
    cost_nanos: int
    """The one-off cost and one month's running cost."""
    return_share: Fraction | None
    """The return on investment; None where nothing was spent."""
    pay_back_days: Fraction | None
    """Until the one-off cost has come in; None where it never does."""


def invest(
    saving_nanos: int, days: Fraction | int, *, one_off_nanos: int = 0, monthly_nanos: int = 0
) -> Investment:
    """Return what a saving, made in so many days, is worth beside its costs.

    All amounts are of one currency. The saving is scaled to 30 days.
    """
    saving = Fraction(saving_nanos * DAYS_PER_MONTH, days)
    cost = one_off_nanos + monthly_nanos
    daily = (saving - monthly_nanos) / DAYS_PER_MONTH
    return Investment(
        saving_nanos=saving,
        cost_nanos=cost,
        return_share=(saving - cost) / cost if cost else None,
        pay_back_days=one_off_nanos / daily if daily > 0 else None,
    )
