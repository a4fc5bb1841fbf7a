"""Several upstreams behind a gateway: shares, retries, fallbacks and names, against their books."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.acceptance.test_command_line import tuppence
from tests.integration.gateways import SECRET, World, raw_request
from tests.integration.governed import HELLO, MODEL, billed
from tuppence.entrypoints.gateway.application import Gateway, GatewayOptions
from tuppence.errors import InvalidInput
from tuppence.testing.answers import Failure, Gate, Reset, Step, text_answer
from tuppence.testing.exchange import ABORT_EXTENSION
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.fake_openai import FakeOpenAI
from tuppence.testing.serving import serve

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
PATIENCE_SECONDS = 5.0
UPSTREAM = '[[upstream]]\nname = "{name}"\nprovider = "{provider}"\nbase_url = "{url}"\n{more}\n'
WITH_KEY = 'api_key_env = "KEY_OF_{}"\n'


class Farm:
    """A ledger, two Anthropic stand-ins "a" and "b", and a gateway that a file tells of them."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.a, self.b = world.anthropic, FakeAnthropic()
        self.b._numbers = count(1_000_001)  # answers of two upstreams have not the same ids
        self.path = path
        _, self.key = world.key(team="support")

    @property
    def books(self) -> Any:
        """The ledger."""
        return self.world.books

    @property
    def asked(self) -> tuple[int, int]:
        """How many requests "a" and "b" got."""
        return len(self.a.requests), len(self.b.requests)

    @contextmanager
    def serve(
        self, a: str = "", b: str = "order = 2", more: str = "", **options: Any
    ) -> Iterator[str]:
        """Serve a gateway whose file has these fields of the two upstreams, and something more."""
        with ExitStack() as stack:
            rows = []
            for name, app, fields in (("a", self.a, a), ("b", self.b, b)):
                url = stack.enter_context(serve(app))
                keyed = WITH_KEY.format(name.upper()) + fields
                rows.append(UPSTREAM.format(name=name, provider="anthropic", url=url, more=keyed))
            yield stack.enter_context(self.serve_file("".join(rows) + more, **options))

    @contextmanager
    def serve_file(self, text: str, **options: Any) -> Iterator[str]:
        """Serve a gateway with a file of upstreams."""
        self.path.write_text(text)
        with self.world.serve(
            **{"places": None, "upstreams_path": self.path, **options}
        ) as base_url:
            yield base_url

    def post(self, base_url: str, **changes: Any) -> httpx2.Response:
        """Return the answer to a message as it comes, without the retries of an SDK."""
        headers = {"x-api-key": self.key, "anthropic-version": "2023-06-01"}
        url = f"{base_url}/v1/messages"
        return httpx2.post(url, json={**ASKED, **changes}, headers=headers, timeout=30)


@pytest.fixture
def farm(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Farm:
    """Two stand-ins, and no gateway yet."""
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    for name in "AB":
        monkeypatch.setenv(f"KEY_OF_{name}", f"sk-{name}")
    return Farm(World(sqlite_url), tmp_path / "upstreams.toml")


@pytest.fixture
def unreachable() -> Iterator[str]:
    """A base URL where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


class Dice(Random):
    """Tells when the length of a pause is drawn: from then on a call pauses."""

    def __init__(self) -> None:
        super().__init__(7)
        self.drawn = Event()

    def uniform(self, a: float, b: float) -> float:
        """Return a number between two."""
        self.drawn.set()
        return super().uniform(a, b)


def _until(condition: Callable[[], bool]) -> None:
    """Return when something is so; fail after a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_calls_are_shared_by_weight_and_each_is_booked_once(farm: Farm) -> None:
    """Of 80 calls at 3 : 1 about 60 go to the first; both get their own key, the ledger has all."""
    with farm.serve("weight = 3", "weight = 1", random=Random(7)) as base_url:
        told = Counter(farm.post(base_url).headers["x-tuppence-upstream"] for _ in range(80))
    assert (told["a"], told["b"]) == farm.asked
    assert 50 <= told["a"] <= 70
    assert sum(told.values()) == 80
    assert sorted(farm.books.calls) == sorted(billed(farm.a) + billed(farm.b))
    assert farm.books.holds == ["settled"] * 80
    assert {one.api_key for one in farm.a.book} == {"sk-A"}
    assert {one.api_key for one in farm.b.book} == {"sk-B"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 500, 529])
def test_call_falls_back_where_one_says_no(
    farm: Farm, status: int, caplog: pytest.LogCaptureFixture, *, stream: bool
) -> None:
    """The next in order answers; the hold goes with the call, since the first one bills nothing."""
    farm.a.script(Failure(status=status))
    with farm.serve() as base_url, caplog.at_level(logging.WARNING):
        answer = farm.post(base_url, stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-tuppence-upstream"] == "b"
    assert answer.headers["x-tuppence-attempts"] == "2"
    assert f"upstream a failed ({status}); the call is tried again at b" in caplog.text
    assert farm.asked == (1, 1)
    assert (farm.books.calls, farm.books.holds) == (billed(farm.b), ["settled"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step", [Failure(status=503), Reset(billed=text_answer("lost"))])
def test_attempt_that_may_be_billed_keeps_its_hold(farm: Farm, step: Step, *, stream: bool) -> None:
    """Its bound stays unresolved beside the settled hold of the attempt that was answered."""
    farm.a.script(step)
    with farm.serve() as base_url:
        answer = farm.post(base_url, stream=stream)
    assert (answer.status_code, answer.headers["x-tuppence-upstream"]) == (200, "b")
    assert farm.books.holds == ["unresolved", "settled"]
    assert farm.books.calls == billed(farm.b)
    ((bound_nanos,),) = farm.books.rows(
        "SELECT bound_nanos FROM budget_holds WHERE state = 'unresolved'"
    )
    for lost in farm.a.book:
        assert bound_nanos >= 4_000 * lost.usage.input_tokens + 20_000 * lost.usage.output_tokens


FREE = [Failure(status=429), Failure(status=529), Failure(status=500)]
BILLABLE = [Failure(status=502), Reset(), Reset(billed=text_answer("lost"))]


def test_whatever_fails_each_answer_is_booked_and_each_doubt_is_held(farm: Farm) -> None:
    """Of 60 calls with failures at random: one booking per answer, one bound per attempt in doubt.

    The bounds that are left are enough for what the provider billed without an answer.
    """
    random = Random(11)
    holds, answered = [], 0
    with farm.serve() as base_url:
        for _ in range(60):
            steps = random.choices([text_answer("well"), *FREE, *BILLABLE], k=2)
            for app, step in zip((farm.a, farm.b), steps, strict=True):
                app.script(step)
                if step in BILLABLE:
                    holds.append("unresolved")
                elif step not in FREE:
                    break
            status = farm.post(base_url, stream=random.random() < 0.5).status_code
            if step not in BILLABLE:
                holds.append("released" if step in FREE else "settled")
            answered += status == 200
            assert (status == 200) == (holds[-1] == "settled")
    delivered = [one for app in (farm.a, farm.b) for one in app.book if one.delivered]
    assert len(delivered) == answered == holds.count("settled")
    assert farm.books.holds == holds
    assert farm.books.calls == [(9, 16, 0)] * answered
    costs = [4_000 * 9 + 20_000 * 16] * (len(farm.a.book) + len(farm.b.book))
    ((counted_nanos,),) = farm.books.rows(
        "SELECT sum(coalesce(settled_nanos, bound_nanos)) FROM budget_holds "
        "WHERE state IN ('settled', 'unresolved')"
    )
    assert counted_nanos >= sum(costs)


def test_call_falls_back_where_there_is_no_connection(farm: Farm, unreachable: str) -> None:
    """Nothing was sent, so the hold is kept; the next call does not try there first again."""
    rows = UPSTREAM.format(
        name="down", provider="anthropic", url=unreachable, more=WITH_KEY.format("B")
    )
    with farm.serve(a="order = 2", b="order = 3", more=rows) as base_url:
        answers = [farm.post(base_url) for _ in range(2)]
    assert [one.headers["x-tuppence-upstream"] for one in answers] == ["a", "a"]
    assert [one.headers.get("x-tuppence-attempts") for one in answers] == ["2", None]
    assert (farm.books.calls, farm.books.holds) == (billed(farm.a), ["settled"] * 2)


def test_call_falls_back_where_no_answer_comes_in_time(farm: Farm) -> None:
    """A model that is silent for longer than the file says is left, and may be billed."""
    gate = Gate()
    farm.a.script(text_answer("late", gate=gate))
    with farm.serve(a="timeout_seconds = 0.2") as base_url:
        answer = farm.post(base_url)
        gate.open()
    assert answer.headers["x-tuppence-upstream"] == "b"
    assert farm.books.holds == ["unresolved", "settled"]
    assert farm.books.calls == billed(farm.b)


def test_answer_that_breaks_off_before_the_caller_has_any_is_made_again(farm: Farm) -> None:
    """A whole answer is only handed on when all of it is there, so half of one can be replaced."""

    async def half(scope: Any, _receive: Any, send: Any) -> None:
        """Send half a body and break the connection."""
        if scope["type"] == "http":
            headers = [(b"content-length", b"100"), (b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            scope["extensions"][ABORT_EXTENSION]()

    farm.a = half  # type: ignore[assignment]
    with farm.serve() as base_url:
        answer = farm.post(base_url)
    assert answer.json()["type"] == "message"
    assert farm.books.holds == ["unresolved", "settled"]


def test_upstream_is_asked_again_before_the_next_one(farm: Farm) -> None:
    """Retries of the same come first, each after its pause; their attempts are booked apart."""
    farm.a.script(Failure(status=529), Failure(status=502), text_answer("at last"))
    started = time.monotonic()
    with farm.serve(a="retries = 2") as base_url:
        answer = farm.post(base_url)
    assert time.monotonic() - started > 0.25 + 0.5
    assert answer.json()["content"][0]["text"] == "at last"
    assert answer.headers["x-tuppence-attempts"] == "3"
    assert farm.asked == (3, 0)
    assert farm.books.holds == ["unresolved", "settled"]  # of the 502, which may be billed
    assert farm.books.calls == billed(farm.a)


def test_retry_after_is_waited_for(farm: Farm) -> None:
    """An upstream that says when to come back is asked again then, and not before."""
    farm.a.script(Failure(status=429, headers={"retry-after": "1"}))
    started = time.monotonic()
    with farm.serve(a="retries = 1") as base_url:
        answer = farm.post(base_url)
    assert time.monotonic() - started >= 1
    assert (answer.status_code, farm.asked) == (200, (2, 0))


def test_busy_upstream_rests_as_long_as_it_says(farm: Farm) -> None:
    """Until then calls go elsewhere first, without asking it; after that they come back."""
    now = [0.0]
    farm.a.script(Failure(status=429, headers={"retry-after": "7"}))
    told = []
    with farm.serve(seconds=lambda: now[0]) as base_url:
        for at_seconds in (0.0, 6.9, 7.0):
            now[0] = at_seconds
            told.append(farm.post(base_url).headers["x-tuppence-upstream"])
    assert told == ["b", "b", "a"]
    assert farm.asked == (2, 2)


@pytest.mark.parametrize("last", [Failure(status=429, message="b is busy"), Failure(status=400)])
def test_last_error_passes_unchanged(farm: Farm, last: Failure) -> None:
    """Where nobody answers, the caller gets what the last upstream said; all holds are ended."""
    farm.a.script(Failure(status=529))
    farm.b.script(last)
    with farm.serve() as base_url:
        answer = farm.post(base_url)
    assert (answer.status_code, answer.json()["error"]["message"]) == (last.status, last.message)
    assert answer.headers["x-tuppence-upstream"] == "b"
    assert (farm.books.holds, farm.books.calls) == (["released"], [])


def test_what_is_wrong_with_a_request_is_told_at_once(farm: Farm) -> None:
    """A 400 would come again elsewhere: nobody else is asked."""
    farm.a.script(Failure(status=400))
    with farm.serve(a="retries = 3") as base_url:
        assert farm.post(base_url).status_code == 400
    assert farm.asked == (1, 0)


def test_nothing_is_tried_again_after_the_first_byte(farm: Farm) -> None:
    """A stream that breaks off is cut for the caller too, and booked from what was seen."""
    farm.a.script(text_answer("x" * 40, cut_after_events=3))
    with farm.serve(a="retries = 3") as base_url:
        client = anthropic.Anthropic(base_url=base_url, api_key=farm.key, max_retries=0)
        with client, pytest.raises(httpx2.TransportError):
            list(client.messages.create(stream=True, **ASKED))
    assert farm.asked == (1, 0)
    ((_, _, flagged),) = farm.books.calls
    assert (flagged, farm.books.holds) == (1, ["settled"])


def test_without_money_for_another_attempt_the_last_error_is_handed_on(
    farm: Farm, caplog: pytest.LogCaptureFixture
) -> None:
    """One bound fits the budget, two do not: what may be billed is not asked for twice."""
    farm.books.limit("team", "support", "0.003")
    farm.a.script(Failure(status=502, message="of the provider"))
    with farm.serve() as base_url, caplog.at_level(logging.WARNING):
        answer = farm.post(base_url)
    assert (answer.status_code, answer.json()["error"]["message"]) == (502, "of the provider")
    assert answer.headers["x-tuppence-upstream"] == "a"
    assert "x-tuppence-attempts" not in answer.headers
    assert farm.asked == (1, 0)
    assert farm.books.holds == ["unresolved"]
    assert "no other attempt" in caplog.text
    assert "tried again" not in caplog.text


def test_client_that_goes_away_in_a_pause_holds_nothing(farm: Farm) -> None:
    """Between two attempts nothing runs that may be billed: the hold is given back, at once."""
    farm.a.script(Failure(status=429, headers={"retry-after": "5"}))
    body = json.dumps(ASKED).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {farm.key}\r\n"
    head += f"anthropic-version: 2023-06-01\r\ncontent-length: {len(body)}\r\n\r\n"
    dice = Dice()
    with farm.serve(a="retries = 1", random=dice) as base_url:
        with closing(raw_request(base_url, head.encode() + body)):
            assert dice.drawn.wait(PATIENCE_SECONDS)
            assert farm.books.holds == ["held"]
        _until(lambda: farm.books.holds == ["released"])
    assert farm.asked == (1, 0)


OPENAI = """
[[upstream]]
name = "main"
provider = "openai"
base_url = "{url}"
api_key_env = "KEY_OF_B"
models = ["gpt-6*", "gpt-of-*"]

[models.fast]
model = "gpt-6-sol"
upstreams = ["main"]

[models.unpriced]
model = "gpt-of-nobody"

[models.nowhere]
model = "gpt-5"
"""


def test_name_of_the_gateway_s_own_stands_for_a_model(farm: Farm) -> None:
    """The model behind it is asked, priced, booked and told; the key that called pays."""
    chat: dict[str, Any] = {"messages": HELLO, "max_completion_tokens": 64}
    app = FakeOpenAI()
    key, text = farm.world.key(models=("fast",))
    _, by_model = farm.world.key(models=("gpt-6-*",))
    _, other = farm.world.key(models=("gpt-5*",))
    with serve(app) as url, farm.serve_file(OPENAI.format(url=url)) as base_url:

        def ask(api_key: str, model: str = "fast", **more: Any) -> Any:
            """Ask for a model by its name."""
            with openai.OpenAI(base_url=f"{base_url}/v1", api_key=api_key) as client:
                raw = client.chat.completions.with_raw_response.create(model=model, **chat, **more)
                return list(raw.parse()) if more else raw.headers["x-tuppence-model"]

        told = [ask(text), ask(by_model)]
        assert len(ask(text, stream=True)) > 1
        for api_key, model in ((other, "fast"), (text, "gpt-6-sol")):
            with pytest.raises(openai.NotFoundError, match="may not be asked with this key"):
                ask(api_key, model)
        for model, said in (("unpriced", "no price"), ("nowhere", "No upstream")):
            with pytest.raises(openai.NotFoundError, match=said):
                ask(farm.key, model)
    assert told == ["gpt-6-sol"] * 2
    assert [json.loads(one.body)["model"] for one in app.requests] == ["gpt-6-sol"] * 3
    assert list(farm.books.summary("model")) == ["gpt-6-sol"]
    assert farm.books.summary("tag")[key.tag][0] == 2
    assert len(farm.books.calls) == len(app.book) == 3
    assert farm.books.holds == ["settled"] * 3 + ["released"]


def test_what_is_free_goes_where_its_model_is_served(farm: Farm) -> None:
    """Counting knows names and patterns too; models are listed by the first upstream."""
    more = f'[models.good]\nmodel = "{MODEL}"\nupstreams = ["b"]\n'
    with farm.serve(more=more) as base_url:
        client = anthropic.Anthropic(base_url=base_url, api_key=farm.key)
        with client:
            counted = [
                client.messages.count_tokens(model=model, messages=HELLO).input_tokens
                for model in ("good", MODEL)
            ]
            assert next(iter(client.models.list())).id
    assert counted[0] == counted[1]
    assert [one.path for one in farm.b.requests] == ["/v1/messages/count_tokens"]
    assert json.loads(farm.b.requests[0].body)["model"] == MODEL
    assert [one.path for one in farm.a.requests] == ["/v1/messages/count_tokens", "/v1/models"]
    assert farm.books.holds == []


def test_provider_that_the_file_does_not_have_is_not_served(farm: Farm) -> None:
    """Calls of the other provider's clients are a 404, whatever the environment has for it."""
    with farm.serve() as base_url:
        client = openai.OpenAI(base_url=f"{base_url}/v1", api_key=farm.key)
        with client, pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(model="gpt-6-sol", messages=HELLO)  # type: ignore[arg-type]
    assert refused.value.code == "provider_not_served"


def test_no_upstream_may_be_the_gateway_itself(farm: Farm) -> None:
    """One among several would be an endless loop as well."""
    rows = "".join(
        UPSTREAM.format(name=name, provider="openai", url=url, more=WITH_KEY.format("A"))
        for name, url in (("x", "https://x.example"), ("loop", "http://localhost:4100/v1"))
    )
    farm.path.write_text(rows)
    options = GatewayOptions(
        database_url=farm.books.url,
        upstreams_path=farm.path,
        own_urls=frozenset({"http://localhost:4100"}),
    )
    with pytest.raises(InvalidInput, match="is the gateway itself") as refused:
        Gateway(options)
    assert refused.value.field == "upstream.loop.base_url"


def test_file_may_be_named_in_the_environment(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """TUPPENCE_UPSTREAMS is the default of `--upstreams`."""
    monkeypatch.setenv("TUPPENCE_UPSTREAMS", str(farm.path))
    with farm.serve(upstreams_path=None) as base_url:
        assert farm.post(base_url).headers["x-tuppence-upstream"] == "a"


@pytest.mark.parametrize("by_option", [True, False])
def test_command_line_names_what_is_wrong_with_the_file(farm: Farm, *, by_option: bool) -> None:
    """`--upstreams` and TUPPENCE_UPSTREAMS are read; a bad file is told in a line, exit code 2."""
    farm.path.write_text('[[upstream]]\nname = "x"\nprovider = "nobody"\n')
    arguments = ["serve", "--port", "0", "--database", farm.books.url]
    if by_option:
        done = tuppence(*arguments, "--upstreams", str(farm.path))
    else:
        done = tuppence(*arguments, TUPPENCE_UPSTREAMS=str(farm.path))
    assert done.returncode == 2
    assert "upstream[0].provider" in done.stderr
