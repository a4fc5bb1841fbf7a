"""Bedrock's counts: Converse excludes the cache from input, InvokeModel speaks Anthropic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.core.usage import STANDARD_TERMS, MeteredPart, MeteredResponse, Terms, Usage
from tuppence.errors import InvalidUsage
from tuppence.providers.bedrock import read_response

TOKENS = st.integers(min_value=0, max_value=1_000_000)


def converse(**usage):
    """A Converse response."""
    return {"usage": {"inputTokens": 12, "outputTokens": 34, **usage}, "stopReason": "end_turn"}


def only_part(response):
    """The only part of a response."""
    (part,) = read_response(response).parts
    return part


def test_a_whole_converse_response():
    """All classes, the request id, the tier and the routed model are read from Converse."""
    response = {
        "ResponseMetadata": {"RequestId": "req-01", "HTTPStatusCode": 200},
        "output": {"message": {"role": "assistant", "content": [{"text": "four"}]}},
        "stopReason": "end_turn",
        "usage": {
            "inputTokens": 12,
            "outputTokens": 34,
            "totalTokens": 9_046,
            "cacheReadInputTokens": 6_000,
            "cacheWriteInputTokens": 3_000,
            "cacheDetails": [
                {"ttl": "1h", "inputTokens": 2_000},
                {"ttl": "5m", "inputTokens": 1_000},
            ],
        },
        "metrics": {"latencyMs": 900},
        "serviceTier": {"type": "flex"},
        "trace": {"promptRouter": {"invokedModelId": "us.anthropic.claude-sonnet-5-5"}},
    }
    usage = Usage(
        input_tokens=12,
        cache_write_5m_tokens=1_000,
        cache_write_1h_tokens=2_000,
        cache_read_tokens=6_000,
        output_tokens=34,
    )
    part = MeteredPart("us.anthropic.claude-sonnet-5-5", usage, Terms(service_tier="flex"))
    assert MeteredResponse("req-01", (part,)) == read_response(response)


@given(plain=TOKENS, read=TOKENS, five=TOKENS, hour=TOKENS, rest=TOKENS, output=TOKENS)
def test_classes_add_up_to_the_providers_total(plain, read, five, hour, rest, output):
    """Input, reads, writes and output sum to Converse's total, however writes are divided."""
    usage = {
        "inputTokens": plain,
        "outputTokens": output,
        "cacheReadInputTokens": read,
        "cacheWriteInputTokens": five + hour + rest,
        "cacheDetails": [{"ttl": "1h", "inputTokens": hour}, {"ttl": "5m", "inputTokens": five}],
    }
    counted = only_part({"usage": usage}).usage
    assert plain + read + five + hour + rest + output == counted.total_tokens
    assert (five + rest, hour) == (counted.cache_write_5m_tokens, counted.cache_write_1h_tokens)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cacheWriteInputTokens": 7}, (7, 0, 0)),
        ({"cacheWriteInputTokens": 7, "cacheDetails": []}, (7, 0, 0)),
        ({"cacheDetails": [{"ttl": "1h", "inputTokens": 7}]}, (0, 7, 0)),
        ({"cacheDetails": [{"ttl": "24h", "inputTokens": 7}]}, (0, 0, 7)),
    ],
)
def test_writes_by_time_to_live(fields, expected):
    """Writes without detail are five-minute writes; an unknown time to live is not guessed."""
    usage = only_part(converse(**fields)).usage
    assert expected == (
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
        usage.cache_write_other_tokens,
    )


def test_the_metadata_event_of_a_stream():
    """ConverseStream tells its usage in one last event."""
    event = {"metadata": {"usage": {"inputTokens": 1, "outputTokens": 2}, "metrics": {}}}
    expected = MeteredResponse(None, (MeteredPart("", Usage(1, output_tokens=2)),))
    assert expected == read_response(event)


def test_litellm_31724_invoke_model_keeps_the_one_hour_division():
    """Claude's own body is read as Anthropic's, divided writes included."""
    body = {
        "id": "msg_bdrk_01",
        "type": "message",
        "model": "claude-sonnet-5-5",
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 40,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 40},
            "output_tokens": 6,
        },
    }
    usage = Usage(5, cache_write_1h_tokens=40, output_tokens=6)
    part = MeteredPart("claude-sonnet-5-5", usage)
    assert MeteredResponse("msg_bdrk_01", (part,)) == read_response(body)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, STANDARD_TERMS),
        ({"serviceTier": {"type": "default"}}, STANDARD_TERMS),
        ({"serviceTier": {"type": "priority"}}, Terms(service_tier="priority")),
        ({"serviceTier": {"type": "reserved"}}, Terms(service_tier="reserved")),
        ({"performanceConfig": {"latency": "standard"}}, STANDARD_TERMS),
        ({"performanceConfig": {"latency": "optimized"}}, Terms(speed="optimized")),
    ],
)
def test_terms_as_served(fields, expected):
    """Service tier and latency are those of the response; standard ones are empty."""
    assert expected == only_part({**converse(), **fields}).terms


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"inputTokens": -1}, "inputTokens"),
        ({"outputTokens": None}, "outputTokens"),
        ({"cacheReadInputTokens": 0.5}, "cacheReadInputTokens"),
        (
            {"cacheWriteInputTokens": 6, "cacheDetails": [{"ttl": "5m", "inputTokens": 7}]},
            "cacheDetails",
        ),
        ({"cacheDetails": [{"ttl": 5, "inputTokens": 7}]}, "ttl"),
    ],
)
def test_impossible_counts_are_refused_by_name(fields, named):
    """A count that no response can hold raises an error that names its field."""
    with pytest.raises(InvalidUsage) as caught:
        read_response(converse(**fields))
    assert named == caught.value.field
