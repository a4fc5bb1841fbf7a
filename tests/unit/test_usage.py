"""Usage: disjoint counts, checked once; terms and units survive their short text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.core.usage import (
    MAX_COUNT,
    STANDARD_TERMS,
    TOKEN_FIELDS,
    Terms,
    Usage,
    decode_other_units,
    encode_other_units,
    other_units,
)
from tuppence.errors import InvalidUsage

counts = st.integers(0, MAX_COUNT)
words = st.text("abcdefghijklmnopqrstuvwxyz_-", max_size=12)
quantities = st.dictionaries(words.filter(bool), counts)


@given(st.builds(Usage, *[counts] * 6))
def test_totals_are_sums_of_the_disjoint_classes(usage):
    """The prompt is input, writes and reads; the total adds the output; reasoning adds nothing."""
    classes = [getattr(usage, name) for name in TOKEN_FIELDS if name != "reasoning_tokens"]
    assert sum(classes) == usage.total_tokens == usage.prompt_tokens + usage.output_tokens
    assert usage is usage.check()


@pytest.mark.parametrize("name", TOKEN_FIELDS)
@pytest.mark.parametrize("count", [-1, MAX_COUNT + 1, 1.0, True, None, "1", float("nan"), 10**400])
def test_a_count_that_cannot_be_is_refused_by_name(name, count):
    """Negative, fractional, boolean, missing and absurd counts raise InvalidUsage by field."""
    with pytest.raises(InvalidUsage) as caught:
        Usage(**{name: count}).check()
    assert name == caught.value.field


@pytest.mark.parametrize("quantity", [-1, 0.5, True, None, MAX_COUNT + 1])
def test_other_units_are_checked_too(quantity):
    """A web search count that cannot be is refused like a token count."""
    with pytest.raises(InvalidUsage):
        Usage(other_units=(("web_searches", quantity),)).check()


def test_more_reasoning_than_output_is_refused():
    """Reasoning is part of the output, so that it can never be more."""
    with pytest.raises(InvalidUsage):
        Usage(output_tokens=1, reasoning_tokens=2).check()
    assert Usage(output_tokens=2, reasoning_tokens=2).check()


@given(st.builds(Terms, words, words, words, words))
def test_terms_survive_their_short_text(terms):
    """Decoding what was encoded gives the same terms."""
    assert terms == Terms.decode(terms.encode())


def test_standard_terms_have_no_text():
    """The ledger keeps nothing for a call on the standard terms."""
    assert STANDARD_TERMS.encode() is None
    assert Terms("batch", inference_geo="us").encode() == "processing=batch;inference_geo=us"


@given(quantities)
def test_other_units_survive_their_short_text(quantities):
    """Units are kept sorted, without zeros, and decode to themselves."""
    units = other_units(quantities)
    assert tuple(sorted((k, v) for k, v in quantities.items() if v)) == units
    assert units == decode_other_units(encode_other_units(units))
