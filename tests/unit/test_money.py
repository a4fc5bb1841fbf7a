"""Money: exact nano-dollars, one rounding rule, nothing that is no amount."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.core.money import MAX_NANOS, format_dollars, round_half_even, to_dollars, to_nanos
from tuppence.errors import InvalidMoney

nanos = st.integers(0, 9_223_372_036 * 10**9)


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**20))
def test_rounding_is_half_even(numerator, denominator):
    """The result is the nearest integer, and of two equally near the even one."""
    assert round(Fraction(numerator, denominator)) == round_half_even(numerator, denominator)


@given(nanos)
def test_every_amount_comes_back_from_its_decimal_text(amount):
    """Nano-dollars written as decimal dollars are read as the same nano-dollars."""
    text = f"{amount // 10**9}.{amount % 10**9:09d}"
    assert amount == to_nanos(text) == to_nanos(Decimal(text))


@given(st.decimals(0, 10**9, allow_nan=False, places=12))
def test_amounts_finer_than_a_nano_dollar_are_rounded_half_even(amount):
    """The twelfth decimal decides, by the same rule as everywhere."""
    assert round(Fraction(amount) * 10**9) == to_nanos(amount)


@given(st.floats(0, 9e9))
def test_a_float_means_the_number_that_is_printed(amount):
    """0.1 is ten cents, not the binary fraction nearest to it."""
    assert to_nanos(repr(amount)) == to_nanos(amount)


def test_halves_of_a_nano_dollar():
    """Half a nano-dollar is nothing, one and a half are two, two and a half are two."""
    halves = ["0.0000000005", "0.0000000015", "0.0000000025", "0.00000000051"]
    assert [to_nanos(text) for text in halves] == [0, 2, 2, 1]


@pytest.mark.parametrize(
    "amount",
    [
        float("nan"), float("inf"), -float("inf"), -0.01, "-1", "", "ten", "$1", None, [], object(),
        True, False, "NaN", "sNaN", "Infinity", 9_223_372_037, 10**400, "1e999999999",
    ],
    ids=lambda amount: repr(amount)[:20],
)  # fmt: skip
def test_what_is_no_amount_is_refused(amount):
    """NaN, infinity, negative, boolean, unreadable and huge amounts raise InvalidMoney."""
    with pytest.raises(InvalidMoney) as caught:
        to_nanos(amount, field="limit")
    assert str(caught.value).startswith("limit=")


@pytest.mark.parametrize("amount", ["1e-999999999", "0e-999999999", "0e999999999", "1e-10", -0.0])
def test_next_to_nothing_is_nothing_and_takes_no_time(amount):
    """Amounts below half a nano-dollar are 0, without writing out a billion digits."""
    assert to_nanos(amount) == 0


@given(st.integers(-(2**62), 2**62))
def test_to_dollars_is_the_nearest_float(amount):
    """Dollars as a float are the float nearest to the exact amount."""
    assert float(Fraction(amount, 10**9)) == to_dollars(amount)


@given(st.integers(-(2**70), 2**70), st.integers(0, 9))
def test_formatted_dollars_are_rounded_half_even_from_the_exact_amount(amount, places):
    """The text is the exact amount rounded to its places, with a sign only where it is not 0."""
    text = format_dollars(amount, places)
    shown = Fraction(text.replace("$", "").replace(",", ""))
    assert Fraction(round(Fraction(amount * 10**places, 10**9)), 10**places) == shown
    assert text.startswith("-") == (shown < 0)


def test_formatted_dollars_look_like_money():
    """Thousands are separated, the sign stands before the dollar."""
    amounts = [(1_234_567_890_000_000, 2), (-5_000_000, 2), (-5_000_001, 2), (499_999_999, 0)]
    assert [format_dollars(*one) for one in amounts] == ["$1,234,567.89", "$0.00", "-$0.01", "$0"]


def test_the_largest_amount_fits_a_bigint():
    """What is accepted can be stored: no amount is more than 2**63 - 1 nano-dollars."""
    assert to_nanos(9_223_372_036) <= MAX_NANOS
