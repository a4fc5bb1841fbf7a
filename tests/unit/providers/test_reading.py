"""Reading any provider's response: by its id, from a dict or an SDK object."""

from __future__ import annotations

import pytest

from tuppence.core.usage import MeteredPart, MeteredResponse, Usage
from tuppence.errors import InvalidInput
from tuppence.providers import READERS, read_response
from tuppence.providers.anthropic_stream import merge_stream_events
from tuppence.providers.response import as_mapping

CLAUDE = {
    "id": "msg_01",
    "type": "message",
    "model": "claude-sonnet-5-5",
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 6},
}
CLAUDE_READ = MeteredResponse(
    "msg_01",
    (MeteredPart("claude-sonnet-5-5", Usage(5, cache_read_tokens=7, output_tokens=6)),),
)
CHAT = {"model": "gpt-6-sol", "usage": {"prompt_tokens": 5, "completion_tokens": 6}}
CHAT_READ = MeteredResponse(None, (MeteredPart("gpt-6-sol", Usage(5, output_tokens=6)),))


class FakeMessage:
    """Converts itself as the objects of the Anthropic and OpenAI SDKs do."""

    def __init__(self, fields):
        self.fields = fields

    def to_dict(self):
        """Return the fields as they came over the wire."""
        return self.fields


class FakePydanticModel(FakeMessage):
    """Converts itself as any pydantic model does."""

    to_dict = None

    def model_dump(self):
        """Return the fields."""
        return self.fields


class FakeGeminiResponse(FakePydanticModel):
    """Converts itself as the objects of google-genai do, which are pydantic models too."""

    def model_dump(self):
        """Must not be used: it leaves enumerations in place."""
        raise AssertionError("enumerations would not be text")

    def to_json_dict(self):
        """Return the fields with everything as JSON has it."""
        return self.fields


@pytest.mark.parametrize("provider", ["anthropic", "aws", "azure", "google"])
def test_claude_is_read_alike_on_every_cloud(provider):
    """Claude's responses keep Anthropic's counts wherever they are served."""
    assert read_response(CLAUDE, provider) == CLAUDE_READ


@pytest.mark.parametrize("provider", ["openai", "azure"])
def test_azure_reads_as_openai(provider):
    """Azure's responses have OpenAI's shape."""
    assert read_response(CHAT, provider) == CHAT_READ


@pytest.mark.parametrize("kind", [dict, FakeMessage, FakePydanticModel, FakeGeminiResponse])
def test_sdk_objects_convert_themselves(kind):
    """A dict and the objects of all SDKs are read alike."""
    assert as_mapping(kind(CHAT)) == CHAT
    assert read_response(kind(CHAT), "openai") == CHAT_READ


def test_stream_events_may_be_sdk_objects():
    """A stream's events are converted one by one."""
    start = {"type": "message_start", "message": {**CLAUDE, "stop_reason": None}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}
    assert merge_stream_events([FakeMessage(start), FakeMessage(end)]) == CLAUDE_READ


@pytest.mark.parametrize("response", [None, "text", 3, [CHAT], FakeMessage(None)])
def test_what_is_no_response_is_refused(response):
    """Something that is not a response raises and says what to pass."""
    with pytest.raises(InvalidInput, match="pass the response's JSON"):
        read_response(response, "openai")


def test_an_unknown_provider_is_refused_with_the_known_ones():
    """The error names every provider that can be read."""
    with pytest.raises(InvalidInput) as caught:
        read_response(CHAT, "opnai")
    assert caught.value.value == "opnai"
    assert all(provider in caught.value.remedy for provider in READERS)


def test_a_model_is_filled_in_where_the_response_names_none():
    """Bedrock Converse does not say which model answered, so the caller may."""
    response = {"usage": {"inputTokens": 1, "outputTokens": 2}}
    (part,) = read_response(response, "aws", model="anthropic.claude-sonnet-5-5").parts
    assert part.model == "anthropic.claude-sonnet-5-5"


def test_a_model_that_the_response_names_is_kept():
    """The model that answered is the response's, whatever was asked for."""
    assert read_response(CHAT, "openai", model="gpt-6-luna") == CHAT_READ
