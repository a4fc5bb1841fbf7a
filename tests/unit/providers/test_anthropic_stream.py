"""The events of a Messages stream: cumulative counts replace, and nothing known is forgotten."""

from __future__ import annotations

import pytest

from tuppence.core.usage import MeteredPart, MeteredResponse, Terms, Usage
from tuppence.errors import InvalidUsage
from tuppence.providers.anthropic_stream import StreamedUsage, merge_stream_events

OPUS, FABLE = "claude-opus-4-8", "claude-fable-5"


def start(model=OPUS, **usage):
    """A message_start event."""
    message = {"id": "msg_01", "model": model, "stop_reason": None, "content": []}
    counts = {"input_tokens": 10, "output_tokens": 1, **usage}
    return {"type": "message_start", "message": {**message, "usage": counts}}


def delta(stop_reason="end_turn", **usage):
    """A message_delta event."""
    return {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": usage}


TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
STOP = {"type": "message_stop"}


def test_litellm_11789_cache_reads_stay_reads_in_a_stream():
    """Input and cache counts of the start hold to the end, and are not billed as plain input."""
    events = [start(cache_read_input_tokens=1_900, service_tier="batch"), TEXT]
    read = merge_stream_events([*events, delta(output_tokens=25), STOP])
    usage = Usage(10, cache_read_tokens=1_900, output_tokens=25)
    expected = MeteredPart(OPUS, usage, Terms(processing="batch"))
    assert MeteredResponse("msg_01", (expected,)) == read


def test_cumulative_counts_replace():
    """Several deltas do not add up: each tells the whole so far (bifrost#3451)."""
    events = [
        start(cache_creation_input_tokens=300),
        delta(None, output_tokens=10, input_tokens=10, cache_creation_input_tokens=300),
        delta(output_tokens=25, input_tokens=12, cache_creation_input_tokens=450),
    ]
    (part,) = merge_stream_events(events).parts
    assert Usage(12, cache_write_5m_tokens=450, output_tokens=25) == part.usage


def test_litellm_31724_the_one_hour_division_survives_the_stream():
    """A delta without a division leaves that of the start in place."""
    division = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 300}
    events = [
        start(cache_creation_input_tokens=300, cache_creation=division),
        delta(output_tokens=25, cache_creation_input_tokens=300),
    ]
    (part,) = merge_stream_events(events).parts
    assert (part.usage.cache_write_5m_tokens, part.usage.cache_write_1h_tokens) == (0, 300)


def test_null_in_a_delta_leaves_what_is_known():
    """Optional fields that a delta sends as null are not zero."""
    events = [start(cache_read_input_tokens=70), delta(output_tokens=5, input_tokens=None)]
    (part,) = merge_stream_events(events).parts
    assert Usage(10, cache_read_tokens=70, output_tokens=5) == part.usage


def test_searches_and_thinking_come_at_the_end():
    """Counts that only the last delta has are read from it."""
    end = delta(
        output_tokens=25,
        output_tokens_details={"thinking_tokens": 20},
        server_tool_use={"web_search_requests": 3, "web_fetch_requests": 0},
    )
    (part,) = merge_stream_events([start(), end]).parts
    assert (part.usage.reasoning_tokens, part.usage.other_units) == (20, (("web_searches", 3),))


def test_a_fallback_in_the_middle_of_a_stream():
    """After a hand-over the counts are the serving model's, and the declined attempt is a part."""
    division = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 400}
    declined = {
        "type": "message",
        "model": FABLE,
        "input_tokens": 10,
        "output_tokens": 7,
        "cache_creation_input_tokens": 400,
        "cache_creation": division,
        "cache_read_input_tokens": 0,
    }
    served = {"type": "fallback_message", "model": OPUS, "input_tokens": 10, "output_tokens": 50}
    events = [
        start(FABLE, cache_creation_input_tokens=400, cache_creation=division),
        delta(
            output_tokens=50,
            cache_creation_input_tokens=0,
            cache_read_input_tokens=400,
            iterations=[declined, served],
        ),
    ]
    assert (
        MeteredPart(OPUS, Usage(10, cache_read_tokens=400, output_tokens=50)),
        MeteredPart(FABLE, Usage(10, cache_write_1h_tokens=400, output_tokens=7)),
    ) == merge_stream_events(events).parts


def test_a_stream_that_breaks_off_is_marked():
    """An aborted stream is billed for its input; its counts are known to be too low."""
    streamed = StreamedUsage()
    streamed.add(start(cache_read_input_tokens=1_900))
    streamed.add(TEXT)
    response = streamed.response()
    assert not response.output_complete
    assert response.parts[0].usage.prompt_tokens == 1_910


def test_a_stream_without_its_start_is_refused():
    """Without the first event the input is unknown, which must not pass for zero."""
    with pytest.raises(InvalidUsage, match="message_start"):
        merge_stream_events([TEXT, delta(output_tokens=25), STOP])
