"""Anthropic's counts: input without the cache, writes by time to live, terms as served."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.core.usage import STANDARD_TERMS, MeteredPart, MeteredResponse, Terms, Usage
from tuppence.errors import InvalidUsage
from tuppence.providers.anthropic import read_response, read_usage

MODEL = "claude-sonnet-5-5"
TOKENS = st.integers(min_value=0, max_value=1_000_000)


def only_usage(usage):
    """The usage of a response with one part."""
    (part,) = read_usage(usage, MODEL)
    return part.usage


def only_terms(**fields):
    """The terms of a response with these fields in its usage."""
    (part,) = read_usage({"input_tokens": 1, "output_tokens": 1, **fields}, MODEL)
    return part.terms


def test_a_whole_response():
    """The id, the model, every token class and the searches are read from a Messages response."""
    response = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "four"}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 3_000,
            "cache_read_input_tokens": 40_000,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 1_000,
                "ephemeral_1h_input_tokens": 2_000,
            },
            "output_tokens": 500,
            "output_tokens_details": {"thinking_tokens": 300},
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 7},
            "service_tier": "standard",
            "inference_geo": "not_available",
            "speed": "standard",
        },
    }
    usage = Usage(
        input_tokens=12,
        cache_write_5m_tokens=1_000,
        cache_write_1h_tokens=2_000,
        cache_read_tokens=40_000,
        output_tokens=500,
        reasoning_tokens=300,
        other_units=(("web_searches", 2),),
    )
    assert MeteredResponse("msg_01", (MeteredPart(MODEL, usage),)) == read_response(response)


def test_litellm_9812_written_tokens_are_not_also_input():
    """Tokens written to the cache are in no other class (litellm charged them twice)."""
    usage = only_usage(
        {
            "input_tokens": 8,
            "cache_creation_input_tokens": 12_304,
            "cache_read_input_tokens": 0,
            "output_tokens": 550,
        }
    )
    assert Usage(8, cache_write_5m_tokens=12_304, output_tokens=550) == usage


def test_langfuse_10592_read_tokens_are_not_also_input():
    """17,903 prompt tokens of which 17,817 were read stay 17,903 (langfuse made them 35,720)."""
    usage = only_usage({"input_tokens": 86, "cache_read_input_tokens": 17_817, "output_tokens": 1})
    assert usage.prompt_tokens == 17_903
    assert usage.cache_read_tokens == 17_817


def test_ccusage_899_one_hour_writes_stay_one_hour_writes():
    """What was written for an hour is not counted at the cheaper five minutes."""
    usage = only_usage(
        {
            "input_tokens": 1,
            "cache_creation_input_tokens": 900,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 900},
            "output_tokens": 1,
        }
    )
    assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (0, 900)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cache_creation_input_tokens": 70}, (70, 0)),
        ({"cache_creation_input_tokens": 70, "cache_creation": None}, (70, 0)),
        ({"cache_creation_input_tokens": 70, "cache_creation": {}}, (70, 0)),
        (
            {
                "cache_creation_input_tokens": 70,
                "cache_creation": {"ephemeral_1h_input_tokens": 30},
            },
            (40, 30),
        ),
        (
            {
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 10,
                    "ephemeral_1h_input_tokens": 30,
                }
            },
            (10, 30),
        ),
        ({"cache_creation_input_tokens": None, "cache_creation": None}, (0, 0)),
    ],
)
def test_writes_that_are_not_divided_are_five_minute_writes(fields, expected):
    """No written token is lost, and what has no time to live has the default one."""
    usage = only_usage({"input_tokens": 1, "output_tokens": 1, **fields})
    assert expected == (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens)


@given(plain=TOKENS, five=TOKENS, hour=TOKENS, undivided=TOKENS, read=TOKENS, output=TOKENS)
def test_classes_add_up_to_the_providers_total(plain, five, hour, undivided, read, output):
    """The prompt is input plus creation plus read, however the creation is divided."""
    usage = only_usage(
        {
            "input_tokens": plain,
            "cache_creation_input_tokens": five + hour + undivided,
            "cache_creation": {
                "ephemeral_5m_input_tokens": five,
                "ephemeral_1h_input_tokens": hour,
            },
            "cache_read_input_tokens": read,
            "output_tokens": output,
        }
    )
    assert plain + five + hour + undivided + read == usage.prompt_tokens
    assert (five + undivided, hour) == (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens)
    assert plain + five + hour + undivided + read + output == usage.total_tokens


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, STANDARD_TERMS),
        ({"service_tier": None, "speed": None, "inference_geo": None}, STANDARD_TERMS),
        ({"service_tier": "standard", "speed": "standard"}, STANDARD_TERMS),
        ({"service_tier": "priority"}, STANDARD_TERMS),
        ({"service_tier": "batch"}, Terms(processing="batch")),
        ({"service_tier": "flex"}, Terms(service_tier="flex")),
        ({"speed": "fast"}, Terms(speed="fast")),
        ({"inference_geo": ""}, STANDARD_TERMS),
        ({"inference_geo": "global"}, STANDARD_TERMS),
        ({"inference_geo": "not_available"}, STANDARD_TERMS),
        ({"inference_geo": "us"}, Terms(inference_geo="us")),
        ({"inference_geo": "eu"}, Terms(inference_geo="eu")),
    ],
)
def test_terms_as_served(fields, expected):
    """Only what changes the price is kept, and an unknown value is kept so that it is noticed."""
    assert expected == only_terms(**fields)


@pytest.mark.parametrize("field", ["service_tier", "speed", "inference_geo"])
@pytest.mark.parametrize("value", [7, ["us"], {"a": 1}])
def test_terms_that_are_not_text_are_refused(field, value):
    """A malformed term raises and does not count as the standard one."""
    with pytest.raises(InvalidUsage, match=field):
        only_terms(**{field: value})


@pytest.mark.parametrize("value", [-1, 1.0, "12", True, 10**10, [1]])
@pytest.mark.parametrize(
    "field",
    ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"],
)
def test_impossible_counts_are_refused_by_name(field, value):
    """A count that no response can hold raises an error that names field and value."""
    with pytest.raises(InvalidUsage) as caught:
        only_usage({"input_tokens": 1, "output_tokens": 1, field: value})
    assert (field, value) == (caught.value.field, caught.value.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "usage",
    [{"input_tokens": 1}, {"input_tokens": 1, "output_tokens": None}, {"outputTokens": 1}],
)
def test_counts_that_are_missing_are_not_zero(usage):
    """A usage of another shape raises instead of being free."""
    with pytest.raises(InvalidUsage, match="put_tokens=None: is missing"):
        only_usage(usage)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"cache_creation": 5}, "cache_creation"),
        ({"server_tool_use": [1]}, "server_tool_use"),
        ({"output_tokens_details": {"thinking_tokens": 11}}, "thinking_tokens"),
        (
            {
                "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_5m_input_tokens": 6},
            },
            "cache_creation",
        ),
        ({"iterations": 3}, "iterations"),
        ({"iterations": [3]}, "iterations"),
    ],
)
def test_contradictions_are_refused(fields, named):
    """A part that is more than its whole, or of another shape, raises."""
    with pytest.raises(InvalidUsage) as caught:
        only_usage({"input_tokens": 1, "output_tokens": 10, **fields})
    assert named == caught.value.field


def test_unknown_keys_are_ignored():
    """Fields that a provider adds later do not disturb."""
    assert Usage(1, output_tokens=2) == only_usage(
        {"input_tokens": 1, "output_tokens": 2, "cache_of_tomorrow": "yes"}
    )


def test_a_response_without_usage_is_refused():
    """What holds no usage is not free."""
    with pytest.raises(InvalidUsage, match="usage=None: is missing"):
        read_response({"id": "msg_01", "model": MODEL})


def test_no_stop_reason_yet_means_not_complete():
    """A message whose stop reason is still null was counted before its end."""
    message = {"model": MODEL, "usage": {"input_tokens": 9, "output_tokens": 1}}
    assert not read_response({**message, "stop_reason": None}).output_complete
    assert read_response({**message, "stop_reason": "max_tokens"}).output_complete


def test_a_refusal_before_any_output_is_not_billed():
    """Anthropic does not bill a request that is declined before the first token."""
    message = {"model": MODEL, "stop_reason": "refusal"}
    (part,) = read_response({**message, "usage": {"input_tokens": 412, "output_tokens": 0}}).parts
    assert MeteredPart(MODEL, Usage()) == part


def test_a_refusal_after_some_output_is_billed():
    """A refusal in the middle of the answer is billed as any other response."""
    message = {"model": MODEL, "stop_reason": "refusal"}
    (part,) = read_response({**message, "usage": {"input_tokens": 412, "output_tokens": 3}}).parts
    assert Usage(412, output_tokens=3) == part.usage


def test_prewarming_without_output_is_billed():
    """A request for no output at all writes the cache and is billed for it."""
    usage = {"input_tokens": 2, "cache_creation_input_tokens": 5_000, "output_tokens": 0}
    (part,) = read_usage(usage, MODEL, stop_reason="max_tokens")
    assert Usage(2, cache_write_5m_tokens=5_000) == part.usage
