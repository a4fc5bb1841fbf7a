"""Money is an integer count of nano-dollars (1e-9 USD); this is the only place that rounds it."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from tuppence.errors import InvalidMoney

NANOS_PER_DOLLAR = 1_000_000_000
NANO_DIGITS = 10
"""Decimal places below which an amount is less than half a nano-dollar."""
MAX_NANOS = 2**63 - 1
"""What a BIGINT column holds: about 9.2 billion dollars."""

Money = int | float | str | Decimal
"""What users may pass where dollars are expected."""


def round_half_even(numerator: int, denominator: int) -> int:
    """Return numerator / denominator rounded to an integer, halves to the even neighbour.

    This is the one rounding rule of the ledger, applied once per line item.
    """
    quotient, remainder = divmod(numerator, denominator)
    doubled = 2 * remainder
    if doubled > denominator or (doubled == denominator and quotient & 1):
        return quotient + 1
    return quotient


def to_nanos(dollars: Money, *, field: str = "amount") -> int:
    """Return non-negative dollars as nano-dollars, rounded half-even.

    A float means the decimal number that Python prints for it: 0.1 is ten cents exactly.
    Raises InvalidMoney for NaN, infinity, negative or unreadable amounts.
    """
    try:
        amount = Decimal(str(dollars)) if isinstance(dollars, float) else Decimal(dollars)
    except (InvalidOperation, TypeError, ValueError):
        raise _invalid(field, dollars, "is not an amount of money") from None
    if isinstance(dollars, bool):
        raise _invalid(field, dollars, "is not an amount of money")
    if not amount.is_finite():
        raise _invalid(field, dollars, "is not a finite amount")
    if amount < 0:
        raise _invalid(field, dollars, "is negative")
    if amount > MAX_NANOS // NANOS_PER_DOLLAR:
        raise _invalid(field, dollars, "is larger than the ledger can hold ($9.2 billion)")
    if amount.adjusted() < -NANO_DIGITS:
        return 0  # less than half a nano-dollar; 1e-999999999 would make an endless fraction
    numerator, denominator = amount.as_integer_ratio()
    return round_half_even(numerator * NANOS_PER_DOLLAR, denominator)


def to_dollars(nanos: int) -> float:
    """Return the float nearest to the exact amount (true division of integers rounds correctly)."""
    return nanos / NANOS_PER_DOLLAR


def format_dollars(nanos: int, places: int = 2) -> str:
    """Return an amount as text with `places` decimals, computed without floats: "$1,234.50"."""
    unit = 10 ** (9 - places)
    rounded = round_half_even(abs(nanos), unit)
    whole, fraction = divmod(rounded, 10**places)
    sign = "-" if nanos < 0 and rounded else ""
    decimals = f".{fraction:0{places}d}" if places else ""
    return f"{sign}${whole:,}{decimals}"


def _invalid(field: str, value: object, problem: str) -> InvalidMoney:
    return InvalidMoney(
        problem, field=field, value=value, remedy="give dollars of 0 or more, for example 12.50"
    )
