"""Errors say what is wrong, where, and what to do, in one line."""

from __future__ import annotations

import inspect

import pytest

from tuppence import errors
from tuppence.core.money import to_nanos
from tuppence.core.usage import Usage


def test_every_error_names_field_value_and_remedy() -> None:
    """All errors of the tree carry field, value and remedy, and put them into their text."""
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.TuppenceError):
            error = kind("is wrong", field="here", value=3, remedy="do that")
            assert str(error) == "here=3: is wrong; do that", name
            assert (error.field, error.value, error.remedy) == ("here", 3, "do that")


def test_a_number_too_long_to_write_is_still_an_error_of_ours() -> None:
    """A number of thousands of digits is refused like any other, without a Python error."""
    for refuse in (lambda: Usage(10**5000).check(), lambda: to_nanos(10**5000)):
        with pytest.raises(errors.InvalidInput, match="a number of 16,610 bits"):
            refuse()


def test_long_values_are_shortened() -> None:
    """A long value does not flood the terminal."""
    error = errors.InvalidInput("is wrong", field="x", value="y" * 9999, remedy="cut")
    assert len(str(error)) < 200
