"""OpenAI's counts: everything is inside the input or the output, and each is taken out once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.core.usage import STANDARD_TERMS, MeteredPart, MeteredResponse, Terms, Usage
from tuppence.errors import InvalidUsage
from tuppence.providers.openai import read_response

MODEL = "gpt-6-sol"
TOKENS = st.integers(min_value=0, max_value=1_000_000)


def responses(usage, **fields):
    """A response of the Responses API."""
    return {"id": "resp_01", "object": "response", "model": MODEL, "usage": usage, **fields}


def chat(usage, **fields):
    """A chat completion."""
    return {
        "id": "chatcmpl-01",
        "object": "chat.completion",
        "model": MODEL,
        "usage": usage,
        **fields,
    }


def only_usage(response):
    """The usage of a response with one part."""
    (part,) = read_response(response).parts
    return part.usage


def test_documented_example_of_cache_writes():
    """2,600 input tokens are 2,000 read, 400 written and 200 plain."""
    usage = {
        "input_tokens": 2_600,
        "input_tokens_details": {
            "cached_tokens": 2_000,
            "cache_write_tokens": 400,
            "cache_write_tokens_details": {"ttl_30m_tokens": 300, "ttl_12h_tokens": 100},
        },
        "output_tokens": 900,
        "output_tokens_details": {"reasoning_tokens": 640},
        "total_tokens": 3_500,
    }
    expected = Usage(
        input_tokens=200,
        cache_write_other_tokens=400,
        cache_read_tokens=2_000,
        output_tokens=900,
        reasoning_tokens=640,
    )
    assert MeteredResponse("resp_01", (MeteredPart(MODEL, expected),)) == read_response(
        responses(usage, status="completed")
    )


def test_litellm_6215_cached_tokens_are_taken_out_of_the_prompt():
    """Chat Completions counts cached tokens inside the prompt, and they are not billed twice."""
    usage = {
        "prompt_tokens": 2_006,
        "completion_tokens": 300,
        "total_tokens": 2_306,
        "prompt_tokens_details": {"cached_tokens": 1_920, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 120,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 50,
        },
    }
    expected = Usage(86, cache_read_tokens=1_920, output_tokens=300, reasoning_tokens=120)
    assert expected == only_usage(chat(usage))


def test_langfuse_10592_the_prompt_stays_as_large_as_it_was():
    """17,903 prompt tokens of which 17,817 were cached do not become 35,720."""
    usage = {"prompt_tokens": 17_903, "completion_tokens": 1}
    usage["prompt_tokens_details"] = {"cached_tokens": 17_817}
    assert only_usage(chat(usage)).prompt_tokens == 17_903


@pytest.mark.parametrize("details", [{}, {"prompt_tokens_details": None}])
def test_missing_details_are_no_error(details):
    """Older models report totals only."""
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, **details}
    assert Usage(9, output_tokens=4) == only_usage(chat(usage))


def test_embeddings_have_input_only():
    """An embedding's response has neither an id nor output."""
    response = {
        "object": "list",
        "model": "text-embedding-4",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    expected = MeteredResponse(None, (MeteredPart("text-embedding-4", Usage(8)),))
    assert expected == read_response(response)


def test_audio_tokens_are_units_of_their_own():
    """Audio is taken out of the prompt and the completion that include it."""
    usage = {
        "prompt_tokens": 500,
        "completion_tokens": 200,
        "prompt_tokens_details": {"audio_tokens": 350, "cached_tokens": 100, "text_tokens": 150},
        "completion_tokens_details": {"audio_tokens": 160, "text_tokens": 40},
    }
    expected = Usage(
        input_tokens=50,
        cache_read_tokens=100,
        output_tokens=40,
        other_units=(("input_audio_tokens", 350), ("output_audio_tokens", 160)),
    )
    assert expected == only_usage(chat(usage))


def test_cached_audio_is_subtracted_once():
    """Where the details say what of the cache was audio, it is in that class and in no other."""
    usage = {
        "input_tokens": 1_000,
        "output_tokens": 10,
        "input_token_details": {
            "text_tokens": 400,
            "audio_tokens": 600,
            "cached_tokens": 500,
            "cached_tokens_details": {"text_tokens": 300, "audio_tokens": 200},
        },
    }
    event = {"type": "response.done", "response": {"id": "resp_02", "usage": usage}}
    expected = Usage(
        input_tokens=100,
        cache_read_tokens=300,
        output_tokens=10,
        other_units=(("cache_audio_read_tokens", 200), ("input_audio_tokens", 400)),
    )
    assert expected == only_usage(event)


@given(data=st.data(), reads=TOKENS, writes=TOKENS, plain=TOKENS, output=TOKENS)
def test_classes_add_up_to_the_providers_total(data, reads, writes, plain, output):
    """Whatever is inside the input, the disjoint classes sum to the input and the output."""
    total = reads + writes + plain
    audio = data.draw(st.integers(0, total))
    image = data.draw(st.integers(0, total - audio))
    audio_out = data.draw(st.integers(0, output))
    usage = only_usage(
        chat(
            {
                "prompt_tokens": total,
                "prompt_tokens_details": {
                    "cached_tokens": reads,
                    "cache_write_tokens": writes,
                    "audio_tokens": audio,
                    "image_tokens": image,
                },
                "completion_tokens": output,
                "completion_tokens_details": {"audio_tokens": audio_out},
            }
        )
    )
    assert total + output == usage.total_tokens + sum(n for _, n in usage.other_units)
    assert writes == usage.cache_write_other_tokens
    assert usage is usage.check()


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (None, STANDARD_TERMS),
        ("auto", STANDARD_TERMS),
        ("default", STANDARD_TERMS),
        ("flex", Terms(service_tier="flex")),
        ("priority", Terms(service_tier="priority")),
        ("fast", Terms(service_tier="priority")),
        ("ultrafast", Terms(service_tier="ultrafast")),
        ("scale", Terms(service_tier="scale")),
    ],
)
def test_litellm_31837_the_tier_that_served_counts(served, expected):
    """The response says how it was served: priority asked for and default served is default."""
    response = chat({"prompt_tokens": 1, "completion_tokens": 1}, service_tier=served)
    assert expected == read_response(response).parts[0].terms


def web_search(action, status="completed"):
    """An output item of a web search."""
    return {"type": "web_search_call", "status": status, "action": {"type": action}}


def test_searches_are_counted_from_the_output():
    """Searching is billed; opening a page, finding in it and failing are not."""
    output = [
        {"type": "reasoning", "summary": []},
        web_search("search"),
        web_search("open_page"),
        web_search("search"),
        web_search("search", status="failed"),
        web_search("find_in_page"),
        {"type": "file_search_call", "status": "completed", "queries": ["a"]},
        {"type": "message", "status": "completed", "content": []},
    ]
    usage = only_usage(responses({"input_tokens": 1, "output_tokens": 1}, output=output))
    assert usage.other_units == (("storage_searches", 1), ("web_searches", 2))


def test_searches_reported_as_billable_win_over_the_list():
    """Where OpenAI says how many searches it bills, that number counts."""
    response = responses(
        {"input_tokens": 1, "output_tokens": 1},
        output=[web_search("search"), web_search("search")],
        tool_usage={"web_search": {"num_requests": 1}, "image_gen": {"input_tokens": 0}},
    )
    assert only_usage(response).other_units == (("web_searches", 1),)


def test_image_generation_is_a_part_of_its_own():
    """The image model's tokens are outside the response's usage and billed at its own price."""
    drawn = {
        "input_tokens": 300,
        "input_tokens_details": {"image_tokens": 200, "text_tokens": 100},
        "cached_tokens": 60,
        "cached_tokens_details": {"cached_image_tokens": 50, "cached_text_tokens": 10},
        "output_tokens": 4_000,
        "output_tokens_details": {"image_tokens": 3_900, "text_tokens": 100},
        "total_tokens": 4_300,
    }
    response = responses(
        {"input_tokens": 7, "output_tokens": 2},
        service_tier="flex",
        tools=[{"type": "web_search"}, {"type": "image_generation", "model": "gpt-image-2"}],
        tool_usage={"image_gen": drawn, "web_search": {"num_requests": 0}},
    )
    text, image = read_response(response).parts
    assert MeteredPart(MODEL, Usage(7, output_tokens=2), Terms(service_tier="flex")) == text
    units = (
        ("cache_image_read_tokens", 50),
        ("input_image_tokens", 150),
        ("output_image_tokens", 3_900),
    )
    usage = Usage(90, cache_read_tokens=10, output_tokens=100, other_units=units)
    assert MeteredPart("gpt-image-2", usage) == image


def test_an_image_model_left_open_stays_unnamed():
    """Where the request chose no image model its tokens are not priced as the text model's."""
    response = responses(
        {"input_tokens": 7, "output_tokens": 2},
        tool_usage={"image_gen": {"input_tokens": 3, "output_tokens": 4}},
    )
    _, image = read_response(response).parts
    assert image == MeteredPart("", Usage(3, output_tokens=4))


@pytest.mark.parametrize(
    ("response", "complete"),
    [
        ({"status": "completed"}, True),
        ({"status": "incomplete"}, True),
        ({"status": "in_progress"}, False),
        ({"status": "queued"}, False),
        ({"choices": [{"finish_reason": "stop"}]}, True),
        ({"choices": [{"finish_reason": None}]}, False),
        ({"choices": []}, True),
    ],
)
def test_whether_the_response_ended(response, complete):
    """A response that is still running, or a choice without an end, is not complete."""
    read = read_response(responses({"input_tokens": 1, "output_tokens": 1}, **response))
    assert complete == read.output_complete


def test_the_event_that_completes_a_stream():
    """The last event of a Responses stream is read like the response in it."""
    event = {
        "type": "response.completed",
        "response": responses({"input_tokens": 3, "output_tokens": 2}, status="completed"),
    }
    expected = MeteredResponse("resp_01", (MeteredPart(MODEL, Usage(3, output_tokens=2)),))
    assert expected == read_response(event)


@pytest.mark.parametrize("value", [-1, 2.0, "5", True, 10**10])
def test_impossible_counts_are_refused_by_name(value):
    """A count that no response can hold raises an error that names field and value."""
    with pytest.raises(InvalidUsage) as caught:
        read_response(chat({"prompt_tokens": value, "completion_tokens": 1}))
    assert ("prompt_tokens", value) == (caught.value.field, caught.value.value)


@pytest.mark.parametrize(
    ("details_in", "details_out"),
    [
        ({"cached_tokens": 101}, {}),
        ({"cached_tokens": 60, "cache_write_tokens": 41}, {}),
        ({"cache_write_tokens": 5, "cache_write_tokens_details": {"ttl_30m_tokens": 6}}, {}),
        ({"audio_tokens": 101}, {}),
        ({"audio_tokens": 5, "cached_tokens": 9, "cached_tokens_details": {"audio_tokens": 6}}, {}),
        ({"cached_tokens": 5, "cached_tokens_details": {"audio_tokens": 6}}, {}),
        ({}, {"reasoning_tokens": 11}),
        ({}, {"audio_tokens": 11}),
    ],
)
def test_parts_larger_than_their_whole_are_refused(details_in, details_out):
    """A contradiction raises and never becomes a negative class (Helicone#3908)."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    usage |= {"prompt_tokens_details": details_in, "completion_tokens_details": details_out}
    with pytest.raises(InvalidUsage, match="which include it"):
        read_response(chat(usage))


@pytest.mark.parametrize("usage", [None, {}, {"type": "duration", "seconds": 12.5}, [3]])
def test_a_response_without_token_counts_is_refused(usage):
    """A stream's chunk without usage, or another shape of it, is not free."""
    with pytest.raises(InvalidUsage, match=r"usage|input_tokens"):
        read_response(chat(usage))
