"""Responses for which Anthropic ran several models or passes: nothing twice, nothing lost."""

from __future__ import annotations

import pytest

from tuppence.core.usage import MeteredPart, Terms, Usage
from tuppence.providers.anthropic import read_usage

OPUS, FABLE, SONNET = "claude-opus-4-8", "claude-fable-5", "claude-sonnet-4-6"


def entry(kind, *, plain, output, written=0, read=0, model=None, **fields):
    """One entry of `usage.iterations`."""
    return {
        "type": kind,
        "input_tokens": plain,
        "output_tokens": output,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        **({"model": model} if model else {}),
        **fields,
    }


def top_level(**fields):
    """The top level of a usage."""
    usage = {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 100}
    return {**usage, **fields}


TOP_LEVEL = Usage(10, cache_read_tokens=100, output_tokens=20)


@pytest.mark.parametrize("iterations", [None, []])
def test_no_iterations(iterations):
    """Without iterations the top level is all there is."""
    assert (MeteredPart(OPUS, TOP_LEVEL),) == read_usage(top_level(iterations=iterations), OPUS)


@pytest.mark.parametrize("model", [None, OPUS, f"{OPUS}-20260401"])
def test_a_single_turn_only_repeats_the_top_level(model):
    """The one sampling turn of most responses is not counted a second time."""
    turn = entry("message", plain=10, output=20, read=100, model=model)
    assert (MeteredPart(OPUS, TOP_LEVEL),) == read_usage(top_level(iterations=[turn]), OPUS)


def test_a_single_turn_under_another_spelling_only_repeats_the_top_level():
    """A cloud's own name for the model does not make its turns another model's."""
    model = f"us.anthropic.{OPUS}-v1:0"
    turns = [entry("message", plain=10, output=20, read=100, model=OPUS)] * 2
    assert (MeteredPart(model, TOP_LEVEL),) == read_usage(top_level(iterations=turns), model)


def test_the_top_level_is_authoritative_for_its_turns():
    """Where the turns of a tool loop add up to something else, the top level counts."""
    turns = [entry("message", plain=9, output=5, read=50)] * 3
    assert (MeteredPart(OPUS, TOP_LEVEL),) == read_usage(top_level(iterations=turns), OPUS)


def test_compaction_is_billed_beside_the_top_level():
    """The tokens of a compaction are not in the top-level counts, and are of the same model."""
    usage = top_level(
        iterations=[
            entry("compaction", plain=180_000, output=3_500),
            entry("message", plain=10, output=20, read=100),
        ],
        server_tool_use={"web_search_requests": 4},
    )
    answered, compacted = read_usage(usage, OPUS)
    assert answered.usage.other_units == (("web_searches", 4),)
    assert MeteredPart(OPUS, Usage(180_000, output_tokens=3_500)) == compacted


def test_the_context_tier_is_decided_per_part():
    """A long compaction does not lift the prompt of the answer over a price threshold."""
    usage = top_level(iterations=[entry("compaction", plain=180_000, output=3_500)])
    assert [part.usage.prompt_tokens for part in read_usage(usage, OPUS)] == [110, 180_000]


def test_ccusage_1115_the_advisor_is_billed_at_its_own_model():
    """An advisor's tokens are outside the top level, which sums the turns of the asking model."""
    usage = {
        "input_tokens": 2,
        "output_tokens": 491,
        "cache_read_input_tokens": 226_584,
        "cache_creation_input_tokens": 7_853,
        "iterations": [
            entry("message", plain=1, output=45, read=109_696, written=7_192),
            entry("advisor_message", plain=159_419, output=7_805, model=OPUS),
            entry("message", plain=1, output=446, read=116_888, written=661),
        ],
    }
    asking = Usage(2, cache_write_5m_tokens=7_853, cache_read_tokens=226_584, output_tokens=491)
    advising = Usage(159_419, output_tokens=7_805)
    assert (MeteredPart(SONNET, asking), MeteredPart(OPUS, advising)) == read_usage(usage, SONNET)


def test_ccusage_1552_a_declined_attempt_is_billed_at_its_own_model():
    """The top level is the attempt that served; one that declined midway is a part of its own."""
    usage = {
        "input_tokens": 2,
        "output_tokens": 13_658,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 79_214,
        "iterations": [
            entry("message", plain=2, output=578, written=10_421, read=72_769, model=FABLE),
            entry("fallback_message", plain=2, output=13_658, read=79_214, model=OPUS),
        ],
    }
    served = Usage(2, cache_read_tokens=79_214, output_tokens=13_658)
    declined = Usage(2, cache_write_5m_tokens=10_421, cache_read_tokens=72_769, output_tokens=578)
    expected = (MeteredPart(OPUS, served), MeteredPart(FABLE, declined))
    assert expected == read_usage(usage, OPUS)
    assert expected == read_usage(usage, FABLE), "the entry says who served, not the caller"


def test_litellm_39294_an_attempt_declined_before_output_is_not_billed():
    """An attempt that was blocked before its first token costs nothing."""
    usage = top_level(
        iterations=[
            entry("message", plain=560_186, output=0, model=FABLE),
            entry("fallback_message", plain=10, output=20, read=100, model=OPUS),
        ]
    )
    assert (MeteredPart(OPUS, TOP_LEVEL),) == read_usage(usage, OPUS)


def test_the_serving_models_earlier_turns_are_in_the_top_level():
    """Turns of a tool loop before the completing one are not parts of their own."""
    usage = top_level(
        iterations=[
            entry("message", plain=5, output=7, model=FABLE),
            entry("message", plain=4, output=9, model=OPUS),
            entry("fallback_message", plain=6, output=11, read=100, model=OPUS),
        ]
    )
    assert (
        MeteredPart(OPUS, TOP_LEVEL),
        MeteredPart(FABLE, Usage(5, output_tokens=7)),
    ) == read_usage(usage, OPUS)


def test_an_exhausted_chain_bills_each_attempt_once():
    """Where all declined, the top level is the last attempt and the others are outside."""
    usage = top_level(
        iterations=[
            entry("message", plain=5, output=7, model=FABLE),
            entry("message", plain=10, output=20, read=100, model=OPUS),
        ]
    )
    parts = read_usage(usage, OPUS, stop_reason="refusal")
    assert [(part.model, part.usage.prompt_tokens) for part in parts] == [(OPUS, 110), (FABLE, 5)]


def test_parts_are_served_on_the_terms_of_the_response():
    """Batch and geography hold for all parts; the speed is known of the serving model only."""
    usage = top_level(
        inference_geo="us",
        speed="fast",
        iterations=[
            entry("compaction", plain=50, output=5),
            entry("advisor_message", plain=60, output=6, model=FABLE),
        ],
    )
    fast, standard = Terms(speed="fast", inference_geo="us"), Terms(inference_geo="us")
    assert [fast, fast, standard] == [part.terms for part in read_usage(usage, OPUS)]


def test_an_unknown_kind_of_turn_is_counted_once():
    """A new type of the same model is taken as covered by the top level."""
    usage = top_level(
        iterations=[entry("turn", plain=4, output=9), entry("turn", plain=6, output=11)]
    )
    assert (MeteredPart(OPUS, TOP_LEVEL),) == read_usage(usage, OPUS)


def test_an_unknown_kind_of_another_model_is_billed():
    """A new type that names another model is a part, so that its tokens are not lost."""
    usage = top_level(
        iterations=[
            entry("message", plain=10, output=20, read=100),
            entry("critic_message", plain=3, output=4, model=FABLE),
        ]
    )
    assert MeteredPart(FABLE, Usage(3, output_tokens=4)) == read_usage(usage, OPUS)[1]


def test_iterations_divide_writes_that_the_top_level_does_not():
    """At the end of a stream only the iterations know which writes are for an hour."""
    division = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 400}
    usage = top_level(
        cache_creation_input_tokens=500,
        iterations=[entry("message", plain=10, output=20, written=500, cache_creation=division)],
    )
    (part,) = read_usage(usage, OPUS)
    assert (part.usage.cache_write_5m_tokens, part.usage.cache_write_1h_tokens) == (100, 400)


def test_iterations_that_divide_another_total_are_not_used():
    """A division that does not add up to the top level's writes says nothing about them."""
    division = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 401}
    usage = top_level(
        cache_creation_input_tokens=500,
        iterations=[entry("message", plain=10, output=20, written=501, cache_creation=division)],
    )
    (part,) = read_usage(usage, OPUS)
    assert (part.usage.cache_write_5m_tokens, part.usage.cache_write_1h_tokens) == (500, 0)
