"""The stand-in provider keeps the provider's rules, as the real SDK sees them over real HTTP."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuppence.core.usage import Usage
from tuppence.testing.answers import Failure, Gate, Reset, refusal, text_answer, tool_answer
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "claude-opus-5"
FIVE_MINUTES = {"type": "ephemeral"}
ONE_HOUR = {"type": "ephemeral", "ttl": "1h"}
PATIENCE_SECONDS = 10


class Provider:
    """A stand-in in which a block has 100 tokens, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.app = FakeAnthropic(
            api_keys={"one", "two"},
            clock=lambda: self.now,
            tokens_of=lambda _block: 100,
            minimum_tokens={MODEL: 0, "claude-opus-4-8": 0, "claude-sonnet-5": 250},
            context_windows={"tiny": 250},
        )
        self.url = ""
        self._clients: dict[str, anthropic.Anthropic] = {}

    def client(self, key: str = "one") -> anthropic.Anthropic:
        """Return a client that does not try again."""
        if key not in self._clients:
            client = anthropic.Anthropic(base_url=self.url, api_key=key, max_retries=0)
            self._clients[key] = client
        return self._clients[key]

    def close(self) -> None:
        """Close the clients' connections."""
        for client in self._clients.values():
            client.close()

    def ask(self, messages: list[Any], *, key: str = "one", **more: Any) -> anthropic.types.Message:
        """Return the answer to messages."""
        body = {"model": MODEL, "max_tokens": 64, "messages": messages, **more}
        return self.client(key).messages.create(**body)

    def classes(self, messages: list[Any], **more: Any) -> tuple[int, int, int, int]:
        """Return the plain, 5m-written, 1h-written and read tokens of a request."""
        usage = self.ask(messages, **more).usage
        created = usage.cache_creation
        assert created is not None
        written = created.ephemeral_5m_input_tokens + created.ephemeral_1h_input_tokens
        assert written == usage.cache_creation_input_tokens
        return (
            usage.input_tokens,
            created.ephemeral_5m_input_tokens,
            created.ephemeral_1h_input_tokens,
            usage.cache_read_input_tokens or 0,
        )


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Serve a stand-in of the test's own."""
    provider = Provider()
    with serve(provider.app) as provider.url:
        yield provider
        provider.close()


def turns(count: int, markers: dict[int, Any] | None = None) -> list[Any]:
    """Return messages of one block each, with markers by index."""
    marked = markers or {}
    return [
        {
            "role": "user" if index % 2 == 0 else "assistant",
            "content": [
                {"type": "text", "text": f"turn {index}"}
                | ({"cache_control": marked[index]} if index in marked else {})
            ],
        }
        for index in range(count)
    ]


@pytest.mark.parametrize(("distance", "read"), [(0, 600), (19, 600), (20, 0), (30, 0)])
def test_breakpoint_looks_back_at_twenty_positions(
    provider: Provider, distance: int, read: int
) -> None:
    """An entry 19 positions before the breakpoint is read, one 20 before is not."""
    provider.ask(turns(6, {5: FIVE_MINUTES}))
    total = 600 + 100 * distance
    expected = (0, total - read, 0, read)
    assert expected == provider.classes(turns(6 + distance, {5 + distance: FIVE_MINUTES}))


def test_positions_without_a_marker_are_not_entries(provider: Provider) -> None:
    """Only where a marker stood is there something to read."""
    provider.ask(turns(6, {5: FIVE_MINUTES}))
    assert provider.classes(turns(4, {3: FIVE_MINUTES})) == (0, 400, 0, 0)


@pytest.mark.parametrize(("ttl", "seconds"), [(FIVE_MINUTES, 300), (ONE_HOUR, 3600)])
def test_ttl_counts_from_the_start_of_the_request(
    provider: Provider, ttl: Any, seconds: int
) -> None:
    """An entry of a slow request expires its TTL after that request began, not after it ended."""
    gate = Gate()
    provider.app.script(text_answer("slow", gate=gate))
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(provider.ask, turns(2, {1: ttl}))
        assert gate.reached.wait(PATIENCE_SECONDS)
        provider.now = 200
        gate.open()
        slow.result(PATIENCE_SECONDS)
    provider.now = seconds + 1
    assert provider.classes(turns(2, {1: ttl}))[3] == 0


def test_reading_refreshes(provider: Provider) -> None:
    """Each read lets an entry live for its TTL again; without one it expires."""
    for provider.now in (0, 299, 598):
        read = provider.classes(turns(2, {1: FIVE_MINUTES}))[3]
        assert read == (200 if provider.now else 0)
    provider.now = 899
    assert provider.classes(turns(2, {1: FIVE_MINUTES}))[3] == 0


def test_mixed_ttls_are_billed_by_a_b_and_c(provider: Provider) -> None:
    """Up to A is read, from A to B written for an hour, from B to C for minutes, the rest plain."""
    provider.ask(turns(2, {1: ONE_HOUR}))  # A = 200
    markers = {1: ONE_HOUR, 4: ONE_HOUR, 6: FIVE_MINUTES}  # B = 500, C = 700
    assert provider.classes(turns(10, markers)) == (300, 200, 300, 200)
    assert provider.classes(turns(10, markers)) == (300, 0, 0, 700)


def test_prefix_below_the_minimum_is_not_cached(provider: Provider) -> None:
    """A marker on a prefix that is too short silently does nothing."""
    for _ in range(2):
        short = turns(2, {1: FIVE_MINUTES})
        assert provider.classes(short, model="claude-sonnet-5") == (200, 0, 0, 0)
    long = turns(3, {2: FIVE_MINUTES})
    assert provider.classes(long, model="claude-sonnet-5") == (0, 300, 0, 0)


def test_keys_and_models_share_nothing(provider: Provider) -> None:
    """What one API key or model wrote, another cannot read."""
    marked = turns(2, {1: FIVE_MINUTES})
    provider.ask(marked)
    assert provider.classes(marked, key="two")[3] == 0
    assert provider.classes(marked, model="claude-opus-4-8")[3] == 0
    assert provider.classes(marked)[3] == 200


def test_concurrent_twin_does_not_read(provider: Provider) -> None:
    """An entry is readable once the first response begins; a twin sent before pays in full."""
    gate, marked = Gate(), turns(2, {1: FIVE_MINUTES})
    provider.app.script(text_answer("first", gate=gate))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(provider.classes, marked)
        assert gate.reached.wait(PATIENCE_SECONDS)
        assert provider.classes(marked) == (0, 200, 0, 0)
        gate.open()
        assert first.result(PATIENCE_SECONDS) == (0, 200, 0, 0)
    assert provider.classes(marked) == (0, 0, 0, 200)


def test_prewarming_writes_without_output(provider: Provider) -> None:
    """max_tokens 0 is charged the write only, and the next request reads."""
    marked = turns(2, {1: ONE_HOUR})
    warm = provider.ask(marked, max_tokens=0)
    assert (warm.content, warm.usage.output_tokens, warm.stop_reason) == ([], 0, "max_tokens")
    assert provider.app.book[-1].usage == Usage(cache_write_1h_tokens=200)
    assert provider.classes(marked)[3] == 200


@pytest.mark.parametrize(
    "more",
    [
        {"stream": True},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
        {"tool_choice": {"type": "any"}},
    ],
)
def test_prewarming_cannot_be_combined(provider: Provider, more: dict[str, Any]) -> None:
    """What needs an output is refused together with max_tokens 0."""
    with pytest.raises(anthropic.BadRequestError, match="cannot be combined"):
        provider.ask(turns(1), max_tokens=0, **more)


def test_automatic_mode_marks_the_last_block(provider: Provider) -> None:
    """A top-level cache_control writes up to the last block, and moves on with the conversation."""
    assert provider.classes(turns(3), cache_control=FIVE_MINUTES) == (0, 300, 0, 0)
    assert provider.classes(turns(5), cache_control=FIVE_MINUTES) == (0, 200, 0, 300)


def test_automatic_mode_walks_back_over_thinking(provider: Provider) -> None:
    """The automatic breakpoint stands before blocks that cannot carry one."""
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    messages = [*turns(1), {"role": "assistant", "content": [thinking]}]
    assert provider.classes(messages, cache_control=FIVE_MINUTES) == (100, 100, 0, 0)


def test_automatic_mode_takes_a_slot(provider: Provider) -> None:
    """Four markers and the automatic one are too many, unless it repeats the last one."""
    four = dict.fromkeys(range(4), FIVE_MINUTES)
    with pytest.raises(anthropic.BadRequestError, match="Found 5"):
        provider.ask(turns(5, four), cache_control=FIVE_MINUTES)
    assert provider.classes(turns(4, four), cache_control=FIVE_MINUTES)[1] == 400


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ({}, 300),
        ({"tool_choice": {"type": "none"}}, 200),
        ({"output_config": {"effort": "low"}}, 200),
        ({"output_config": {"effort": "high"}}, 300),
        ({"thinking": {"type": "adaptive"}}, 200),
        ({"speed": "fast"}, 100),
        ({"system": "another"}, 100),
    ],
)
def test_parameters_invalidate_what_comes_after(
    provider: Provider, change: dict[str, Any], read: int
) -> None:
    """Changing a parameter keeps the levels before it cached, and only those."""
    tool = {"name": "look", "input_schema": {"type": "object"}, "cache_control": FIVE_MINUTES}
    system = [{"type": "text", "text": "be kind", "cache_control": FIVE_MINUTES}]
    body: dict[str, Any] = {"tools": [tool], "system": system, "cache_control": FIVE_MINUTES}
    provider.ask(turns(1), **body)
    assert provider.classes(turns(1), **{**body, **change})[3] == read


def test_stream_tells_what_a_plain_answer_tells(provider: Provider) -> None:
    """The final message of a stream has the content and the usage of the one sent whole."""
    for answer in (text_answer("words " * 30, thinking_tokens=3), tool_answer("look", {"at": [1]})):
        provider.app.script(answer, answer)
        whole = provider.ask(turns(2), system="plain")
        with provider.client().messages.stream(
            model=MODEL, max_tokens=64, messages=turns(2), system="plain"
        ) as stream:
            streamed = stream.get_final_message()
        assert streamed.usage.to_dict() == whole.usage.to_dict()
        assert [one.to_dict() for one in streamed.content] == [
            one.to_dict() for one in whole.content
        ]
        assert streamed.stop_reason == whole.stop_reason


def test_asynchronous_client_is_served(provider: Provider) -> None:
    """The asynchronous SDK gets answers, streams, counts and the list of models."""

    async def talk() -> tuple[int, int, list[str]]:
        """Ask with the asynchronous client."""
        async with anthropic.AsyncAnthropic(base_url=provider.url, api_key="one") as client:
            async with client.messages.stream(
                model=MODEL, max_tokens=64, messages=turns(2)
            ) as stream:
                message = await stream.get_final_message()
            counted = await client.messages.count_tokens(model=MODEL, messages=turns(3))
            models = [model.id async for model in client.models.list()]
            return message.usage.input_tokens, counted.input_tokens, models

    input_tokens, counted, models = asyncio.run(talk())
    assert (input_tokens, counted) == (200, 300)
    assert {"claude-opus-5", "claude-haiku-4-5-20251001"} <= set(models)
    assert len(provider.app.book) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": turns(5, dict.fromkeys(range(5), FIVE_MINUTES))}, "A maximum of 4 .* 5\\."),
        ({"messages": turns(2, {0: FIVE_MINUTES, 1: ONE_HOUR})}, "must not come after a ttl='5m'"),
        ({"messages": []}, "at least one message is required"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "", "cache_control": FIVE_MINUTES}],
                    }
                ]
            },
            "cache_control cannot be set for empty text blocks",
        ),
        ({"messages": turns(3), "model": "tiny"}, "prompt is too long: 300 tokens > 250 maximum"),
        ({"cache_control": {"type": "ephemeral", "ttl": "2h"}}, "cache_control.ttl"),
    ],
)
def test_bad_requests_are_refused(provider: Provider, body: dict[str, Any], message: str) -> None:
    """What the provider refuses is refused with its words, and is neither billed nor cached."""
    with pytest.raises(anthropic.BadRequestError, match=message) as caught:
        provider.ask(**{"messages": turns(1), **body})
    assert caught.value.type == "invalid_request_error"
    assert (len(provider.app.book), len(provider.app.cache)) == (0, 0)


@pytest.mark.parametrize("model", ["claude-opus-4-1", "claude-3-opus", "acme-large"])
def test_unknown_and_retired_models_are_not_found(provider: Provider, model: str) -> None:
    """A model that is not served is a 404 that names it."""
    with pytest.raises(anthropic.NotFoundError, match=f"model: {model}"):
        provider.ask(turns(1), model=model)


@pytest.mark.parametrize(
    ("headers", "content", "status", "kind", "message"),
    [
        ({"x-api-key": ""}, b"{}", 401, "authentication_error", "required"),
        ({"x-api-key": "three"}, b"{}", 401, "authentication_error", "invalid x-api-key"),
        ({"anthropic-version": ""}, b"{}", 400, "invalid_request_error", "anthropic-version"),
        ({}, b"{", 400, "invalid_request_error", "not valid JSON"),
        ({}, b"{}", 400, "invalid_request_error", "max_tokens: Field required"),
        ({}, b" " * (32 * 1024 * 1024 + 1), 413, "request_too_large", "maximum size"),
    ],
)
def test_broken_http_requests_are_refused(
    provider: Provider,
    headers: dict[str, str],
    content: bytes,
    status: int,
    kind: str,
    message: str,
) -> None:
    """Requests that no SDK would send get the provider's error, with the id of the request."""
    usual = {"x-api-key": "one", "anthropic-version": "2023-06-01"}
    url = f"{provider.url}/v1/messages?beta=true"
    answer = httpx2.post(url, content=content, headers=usual | headers, timeout=PATIENCE_SECONDS)
    error = answer.json()
    assert (answer.status_code, error["error"]["type"]) == (status, kind)
    assert message in error["error"]["message"]
    assert error["request_id"] == answer.headers["request-id"]


def test_bearer_token_is_a_key(provider: Provider) -> None:
    """A key may come as Authorization: Bearer."""
    with anthropic.Anthropic(base_url=provider.url, auth_token="two", api_key=None) as client:  # noqa: S106
        client.messages.create(model=MODEL, max_tokens=9, messages=turns(1))
    assert provider.app.book[-1].api_key == "two"


def test_probe_is_answered(provider: Provider) -> None:
    """HEAD / answers without a key, and unknown paths are not found."""
    assert httpx2.head(provider.url).status_code == 200
    assert httpx2.get(f"{provider.url}/v2").status_code == 404


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 429, 500, 529])
def test_scripted_failures_arrive(provider: Provider, status: int) -> None:
    """A scripted failure has its status and headers, and is neither billed nor cached."""
    provider.app.script(Failure(status=status, headers={"Retry-After": "3"}))
    with pytest.raises(anthropic.APIStatusError) as caught:
        provider.ask(turns(1, {0: FIVE_MINUTES}))
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "3"
    assert (len(provider.app.book), len(provider.app.cache)) == (0, 0)
    assert provider.ask(turns(1)).usage.output_tokens == 16


def test_connection_can_break_before_the_answer(provider: Provider) -> None:
    """A reset is an error of the connection to the client, and is not billed."""
    provider.app.script(Reset())
    with pytest.raises(anthropic.APIConnectionError):
        provider.ask(turns(1))
    assert len(provider.app.book) == 0


@pytest.mark.parametrize("cut", [{"cut_after_events": 4}, {"cut_after_bytes": 700}])
def test_cut_stream_is_billed(provider: Provider, cut: dict[str, int]) -> None:
    """A stream that breaks off is billed and cached, and the book says that it broke."""
    provider.app.script(text_answer("words " * 50, **cut))
    body: Any = {"model": MODEL, "max_tokens": 64, "messages": turns(1, {0: FIVE_MINUTES})}
    with pytest.raises(httpx2.RemoteProtocolError), provider.client().messages.stream(**body) as s:
        s.get_final_message()
    booked = provider.app.book[-1]
    assert booked.usage == Usage(cache_write_5m_tokens=100, output_tokens=16)
    assert not booked.delivered
    assert len(provider.app.cache) == 1


def test_client_that_went_away_is_billed(provider: Provider) -> None:
    """A client that hangs up in the middle of a stream pays, and the book says so."""
    gate = Gate()
    provider.app.script(text_answer("words " * 50, gate=gate, gate_after_events=2))
    with provider.client().messages.stream(model=MODEL, max_tokens=64, messages=turns(1)) as stream:
        next(iter(stream))
        assert gate.reached.wait(PATIENCE_SECONDS)
    booked = provider.app.book[-1]
    assert booked.usage == Usage(input_tokens=100, output_tokens=16)
    assert not booked.delivered


def test_refusal_before_output_is_free(provider: Provider) -> None:
    """A refusal without output is in the book with nothing to pay, and leaves no entry."""
    provider.app.script(refusal())
    answer = provider.ask(turns(1, {0: FIVE_MINUTES}))
    assert answer.stop_reason == "refusal"
    assert provider.app.book[-1].usage == Usage()
    assert len(provider.app.cache) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"model": "claude-opus-4-8"}, "model_changed"),
        ({"tools": [{"name": "x", "input_schema": {"type": "object"}}]}, "tools_changed"),
        ({"system": "other"}, "system_changed"),
        ({"messages": [{"role": "user", "content": "other"}]}, "messages_changed"),
        ({"tool_choice": {"type": "none"}}, "unavailable"),
    ],
)
def test_diagnostics_name_what_changed(
    provider: Provider, change: dict[str, Any], reason: str | None
) -> None:
    """A request that names the one before learns what broke its cache, and how much it lost."""
    first = provider.ask(turns(3), cache_control=FIVE_MINUTES)
    body = {"messages": turns(5), "cache_control": FIVE_MINUTES, **change}
    found = provider.ask(**body, diagnostics={"previous_message_id": first.id}).diagnostics
    told = found.cache_miss_reason if found else None
    assert (told.type if told else None) == reason
    if told is not None and told.type != "unavailable":
        assert told.to_dict()["cache_missed_input_tokens"] == 300


def test_diagnostics_of_another_keys_message_are_not_told(provider: Provider) -> None:
    """A message of another API key is as unknown as one that never was."""
    first = provider.ask(turns(3))
    for key, previous in (("two", first.id), ("one", "msg_never")):
        found = provider.ask(turns(3), key=key, diagnostics={"previous_message_id": previous})
        assert found.diagnostics is not None
        reason = found.diagnostics.cache_miss_reason
        assert reason is not None
        assert reason.type == "previous_message_not_found"


REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 45),
        st.dictionaries(st.integers(0, 44), st.sampled_from(["5m", "1h"]), max_size=4),
        st.sampled_from([0, 1, 299, 301, 3601]),
    ),
    min_size=1,
    max_size=8,
)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(REQUESTS)
def test_classes_add_up_and_reads_were_written(
    provider: Provider, requests: list[tuple[int, dict[int, str], int]]
) -> None:
    """The classes add up to the prompt, and nothing is read that was not written before."""
    provider.app.clear()
    longest_written = 0
    for count, ttls, pause in requests:
        provider.now += pause
        places = sorted(place for place in ttls if place < count)
        ordered = sorted(ttls[place] for place in places)  # "1h" sorts before "5m"
        markers = {
            place: {"type": "ephemeral", "ttl": ttl}
            for place, ttl in zip(places, ordered, strict=True)
        }
        plain, minutes, hours, read = provider.classes(turns(count, markers))
        assert plain + minutes + hours + read == 100 * count
        assert read <= longest_written
        longest_written = max(longest_written, read + minutes + hours)
