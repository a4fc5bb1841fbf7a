"""Gemini's counts: cached inside the prompt, thoughts and tool results outside everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.core.usage import STANDARD_TERMS, MeteredPart, MeteredResponse, Terms, Usage
from tuppence.errors import InvalidUsage
from tuppence.providers.google import read_response

MODEL = "gemini-3.1-pro"
TOKENS = st.integers(min_value=0, max_value=1_000_000)

REST = {
    "responseId": "r-01",
    "modelVersion": MODEL,
    "candidates": [{"finishReason": "STOP", "index": 0}],
    "usageMetadata": {
        "promptTokenCount": 1_000,
        "cachedContentTokenCount": 600,
        "toolUsePromptTokenCount": 50,
        "candidatesTokenCount": 200,
        "thoughtsTokenCount": 300,
        "totalTokenCount": 1_550,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1_000}],
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 600}],
        "trafficType": "ON_DEMAND",
    },
}

SDK = {
    "response_id": "r-01",
    "model_version": MODEL,
    "candidates": [{"finish_reason": "STOP", "index": 0}],
    "usage_metadata": {
        "prompt_token_count": 1_000,
        "cached_content_token_count": 600,
        "tool_use_prompt_token_count": 50,
        "candidates_token_count": 200,
        "thoughts_token_count": 300,
        "total_token_count": 1_550,
        "prompt_tokens_details": [{"modality": "TEXT", "token_count": 1_000}],
        "cache_tokens_details": [{"modality": "TEXT", "token_count": 600}],
        "traffic_type": "ON_DEMAND",
    },
}


def only_part(**metadata):
    """The only part of a response with this metadata."""
    (part,) = read_response({"modelVersion": MODEL, "usageMetadata": metadata}).parts
    return part


@pytest.mark.parametrize("response", [REST, SDK])
def test_a_whole_response_in_both_spellings(response):
    """The REST and the SDK spelling of one response are read alike."""
    usage = Usage(input_tokens=450, cache_read_tokens=600, output_tokens=500, reasoning_tokens=300)
    assert MeteredResponse("r-01", (MeteredPart(MODEL, usage),)) == read_response(response)


def test_cached_tokens_are_billed_once():
    """Cached content is taken out of the prompt that includes it (ClaudeUsageBar#93)."""
    usage = only_part(promptTokenCount=1_000, cachedContentTokenCount=900).usage
    assert Usage(100, cache_read_tokens=900) == usage


def test_thoughts_are_billed_as_output():
    """Thoughts are outside the candidates, so they are added to the output (OpenAnt#211)."""
    usage = only_part(promptTokenCount=1, candidatesTokenCount=20, thoughtsTokenCount=700).usage
    assert Usage(1, output_tokens=720, reasoning_tokens=700) == usage


@given(data=st.data(), prompt=TOKENS, tools=TOKENS, answer=TOKENS, thoughts=TOKENS)
def test_classes_add_up_to_the_providers_total(data, prompt, tools, answer, thoughts):
    """The disjoint classes sum to prompt, candidates, tool results and thoughts."""
    cached = data.draw(st.integers(0, prompt))
    audio = data.draw(st.integers(0, prompt))
    images = data.draw(st.integers(0, answer))
    usage = only_part(
        promptTokenCount=prompt,
        promptTokensDetails=[{"modality": "AUDIO", "tokenCount": audio}],
        cachedContentTokenCount=cached,
        toolUsePromptTokenCount=tools,
        candidatesTokenCount=answer,
        candidatesTokensDetails=[{"modality": "IMAGE", "tokenCount": images}],
        thoughtsTokenCount=thoughts,
    ).usage
    units = sum(quantity for _, quantity in usage.other_units)
    assert prompt + tools + answer + thoughts == usage.total_tokens + units
    assert usage is usage.check()


def test_modalities_are_units_of_their_own():
    """Audio, images, video and documents leave the plain classes, cached or not."""
    part = only_part(
        promptTokenCount=1_000,
        promptTokensDetails=[
            {"modality": "TEXT", "tokenCount": 300},
            {"modality": "AUDIO", "tokenCount": 400},
            {"modality": "IMAGE", "tokenCount": 100},
            {"modality": "DOCUMENT", "tokenCount": 50},
            {"modality": "VIDEO", "tokenCount": 150},
        ],
        cachedContentTokenCount=350,
        cacheTokensDetails=[
            {"modality": "TEXT", "tokenCount": 100},
            {"modality": "AUDIO", "tokenCount": 250},
        ],
        toolUsePromptTokenCount=30,
        toolUsePromptTokensDetails=[{"modality": "IMAGE", "tokenCount": 20}],
        candidatesTokenCount=1_300,
        candidatesTokensDetails=[{"modality": "IMAGE", "tokenCount": 1_290}],
    )
    units = (
        ("cache_audio_read_tokens", 250),
        ("input_audio_tokens", 150),
        ("input_image_tokens", 170),
        ("input_video_tokens", 150),
        ("output_image_tokens", 1_290),
    )
    assert Usage(210, cache_read_tokens=100, output_tokens=10, other_units=units) == part.usage


def test_live_api_calls_its_answer_a_response():
    """The Live API's counts are read under their own names."""
    part = only_part(
        promptTokenCount=40,
        responseTokenCount=90,
        responseTokensDetails=[{"modality": "AUDIO", "tokenCount": 80}],
    )
    expected = Usage(40, output_tokens=10, other_units=(("output_audio_tokens", 80),))
    assert expected == part.usage


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, STANDARD_TERMS),
        ({"trafficType": "ON_DEMAND"}, STANDARD_TERMS),
        ({"trafficType": "TRAFFIC_TYPE_UNSPECIFIED"}, STANDARD_TERMS),
        ({"trafficType": "ON_DEMAND_FLEX"}, Terms(service_tier="flex")),
        ({"trafficType": "ON_DEMAND_PRIORITY"}, Terms(service_tier="priority")),
        ({"trafficType": "PROVISIONED_THROUGHPUT"}, Terms(service_tier="provisioned_throughput")),
        ({"serviceTier": "standard"}, STANDARD_TERMS),
        ({"serviceTier": "unspecified"}, STANDARD_TERMS),
        ({"serviceTier": "FLEX"}, Terms(service_tier="flex")),
        ({"service_tier": "priority"}, Terms(service_tier="priority")),
    ],
)
def test_terms_as_served(fields, expected):
    """The tier is read from either cloud's field, and only what is not standard is kept."""
    assert expected == only_part(promptTokenCount=1, **fields).terms


@pytest.mark.parametrize(
    ("candidates", "complete"),
    [
        ([{"finishReason": "STOP"}], True),
        ([{"finish_reason": "MAX_TOKENS"}], True),
        ([{"finishReason": "STOP"}, {"index": 1}], False),
        ([{"content": {}}], False),
        ([], True),
        (None, True),
    ],
)
def test_whether_the_response_ended(candidates, complete):
    """A chunk whose candidate has no finish reason is not the end."""
    response = {"candidates": candidates, "usageMetadata": {"promptTokenCount": 1}}
    assert complete == read_response(response).output_complete


@pytest.mark.parametrize(
    "metadata",
    [
        {"promptTokenCount": 10, "cachedContentTokenCount": 11},
        {"promptTokenCount": 10, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 11}]},
        {"promptTokenCount": 10, "toolUsePromptTokenCount": -1},
        {"promptTokenCount": 10, "thoughtsTokenCount": 1.5},
        {"promptTokenCount": "10"},
        {"promptTokenCount": 10, "promptTokensDetails": {"AUDIO": 3}},
        {"candidatesTokenCount": 10},
        {},
    ],
)
def test_impossible_counts_are_refused(metadata):
    """Contradictions, fractions, texts and missing prompts raise and are never guessed away."""
    with pytest.raises(InvalidUsage) as caught:
        only_part(**metadata)
    assert caught.value.field
    assert caught.value.remedy
