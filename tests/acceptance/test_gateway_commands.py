"""`tuppence serve` as its operator meets it: the start line, refusals to start, a clean stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.acceptance.test_command_line import tuppence
from tests.integration.governed import HELLO, MODEL, Books, billed
from tuppence.testing.answers import Gate, text_answer
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve

PATIENCE_SECONDS = 20.0
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}


@contextmanager
def serving(database: str, provider_url: str, *options: str) -> Iterator[Any]:
    """Run `tuppence serve` until the block ends; yields the process and its first line."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tuppence", "serve", "--port", "0"),
            *("--database", database, *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "LANG": "C.UTF-8",
            "ANTHROPIC_API_KEY": "sk-of-the-provider",
            "ANTHROPIC_BASE_URL": provider_url,
            "PYTHONUNBUFFERED": "1",
        },
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def _url(line: str) -> str:
    return line.split()[3].rstrip(";")


def _key(database: str, *options: str) -> str:
    made = tuppence("key", "create", *options, "--json", "--database", database)
    return str(json.loads(made.stdout)["key"])


def test_serve_says_where_and_stops_on_ctrl_c(tmp_path: Path, sqlite_url: str) -> None:
    """Five minutes: a key, a start, a client by its base URL; Ctrl-C ends it with code 0."""
    app, books = FakeAnthropic(), Books(sqlite_url)
    key = _key(sqlite_url, "--team", "support")
    with serve(app) as provider_url, serving(sqlite_url, provider_url) as (process, line):
        assert line.startswith("The gateway serves http://127.0.0.1:")
        with anthropic.Anthropic(base_url=_url(line), api_key=key) as client:
            client.messages.create(**ASKED)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=PATIENCE_SECONDS)
        # Not communicate(): it does not see what came with the first line and was read along.
        rest, errors = process.stdout.read(), process.stderr.read()
    assert f"ANTHROPIC_BASE_URL={_url(line)} ANTHROPIC_API_KEY=tpc-... claude" in rest
    assert (process.returncode, errors) == (0, "")
    assert books.calls == billed(app)
    assert (tmp_path / "ledger.db.key-secret").exists()


def test_call_in_flight_is_finished_before_the_stop(sqlite_url: str) -> None:
    """Who waits for an answer at Ctrl-C gets it, booked."""
    app, books, gate = FakeAnthropic(), Books(sqlite_url), Gate()
    app.script(text_answer("at last", gate=gate))
    key, answers = _key(sqlite_url), list[Any]()
    with serve(app) as provider_url, serving(sqlite_url, provider_url) as (process, line):
        client = anthropic.Anthropic(base_url=_url(line), api_key=key, max_retries=0)
        caller = threading.Thread(target=lambda: answers.append(client.messages.create(**ASKED)))
        caller.start()
        assert gate.reached.wait(PATIENCE_SECONDS)
        process.send_signal(signal.SIGINT)
        gate.open()
        caller.join(PATIENCE_SECONDS)
        process.communicate(timeout=PATIENCE_SECONDS)
        client.close()
    assert [one.content[0].text for one in answers] == ["at last"]
    assert (process.returncode, books.holds) == (0, ["settled"])


@pytest.mark.parametrize(
    ("options", "environment", "problem"),
    [
        ((), {"ANTHROPIC_API_KEY": "sk"}, "tuppence key create"),
        (("--no-keys", "--host", "0.0.0.0"), {}, "others could spend your money"),  # noqa: S104
        (("--no-keys", "--port", "1", "--host", "192.0.2.1"), {}, "others could spend"),
        (
            ("--no-keys", "--port", "4177"),
            {"ANTHROPIC_BASE_URL": "http://localhost:4177"},
            "is the gateway itself",
        ),
    ],
)
def test_serve_refuses_what_would_be_unsafe_or_useless(
    sqlite_url: str, options: tuple[str, ...], environment: dict[str, str], problem: str
) -> None:
    """Without keys nobody could call; without keys on a network anybody could: exit code 2."""
    done = tuppence("serve", "--database", sqlite_url, *options, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_gateway_without_a_provider_s_key_is_refused(sqlite_url: str) -> None:
    """Keys of the gateway are of no use where it has none of a provider."""
    _key(sqlite_url)
    empty = {"ANTHROPIC_API_KEY": "", "OPENAI_API_KEY": ""}
    done = tuppence("serve", "--port", "0", "--database", sqlite_url, **empty)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ANTHROPIC_API_KEY" in done.stderr


def test_port_that_is_taken_is_said_in_a_line(sqlite_url: str) -> None:
    """A second gateway on the same port must not start."""
    with serve(FakeAnthropic()) as taken:
        port = taken.rpartition(":")[2]
        done = tuppence("serve", "--no-keys", "--port", port, "--database", sqlite_url)
    assert done.returncode == 2
    assert "cannot be listened on" in done.stderr
