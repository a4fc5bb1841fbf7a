"""Several workers behind one port: they share the work, are replaced, and end together."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.integration.gateway_processes import GatewayProcess, is_alive, until
from tests.integration.gateways import World
from tests.integration.governed import HELLO, MODEL
from tuppence.testing.answers import Gate, text_answer
from tuppence.testing.serving import serve

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
READY_AGAIN_SECONDS = 3.0


@pytest.fixture
def world(sqlite_url: str) -> World:
    """A ledger with the stand-ins; its gateway is started by the tests."""
    return World(sqlite_url)


def _connections(pid: int) -> int:
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    return sum(link.startswith("socket:") for link in links)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has open")
def test_connections_are_shared_among_workers(world: World) -> None:
    """Of 200 connections at once each of four workers gets at least half of its share."""
    with ExitStack() as stack:
        gateway = stack.enter_context(
            GatewayProcess(world.books.url, "--no-keys", "--workers", "4")
        )
        gateway.wait_until_ready()
        assert "with 4 workers" in gateway.first_line
        workers = gateway.workers
        assert len(workers) == 4
        before = [_connections(pid) for pid in workers]
        for _ in range(200):
            address = ("127.0.0.1", gateway.port)
            stack.enter_context(socket.create_connection(address, timeout=5))
        until(lambda: sum(map(_connections, workers)) - sum(before) == 200)
        shares = [_connections(pid) - old for pid, old in zip(workers, before, strict=True)]
    print(f"200 connections over 4 workers: {shares}")
    assert min(shares) >= 25


def test_budget_is_one_for_all_workers(world: World) -> None:
    """Calls that several workers answer are held for in one budget, and booked in one ledger."""
    _, text = world.key(team="support")
    with serve(world.anthropic) as provider:
        url = {"ANTHROPIC_BASE_URL": provider}
        with GatewayProcess(world.books.url, "--workers", "3", **url) as gateway:
            base_url = gateway.wait_until_ready()

            def ask(_: int) -> None:
                """Ask on a connection of its own."""
                with anthropic.Anthropic(base_url=base_url, api_key=text) as client:
                    client.messages.create(**ASKED)

            with ThreadPoolExecutor(6) as threads:
                list(threads.map(ask, range(30)))
            assert gateway.end() == 0
    assert len(world.anthropic.book) == len(world.books.calls) == 30
    assert world.books.holds == ["settled"] * 30


def test_worker_that_is_killed_is_replaced(world: World) -> None:
    """The others go on, and within 3 s all connections are answered again."""
    with GatewayProcess(world.books.url, "--no-keys", "--workers", "3") as gateway:
        gateway.wait_until_ready()
        for _ in range(3):
            before = gateway.workers
            os.kill(before[0], signal.SIGKILL)
            killed_at = time.monotonic()
            until(lambda gone=before[0]: gone not in gateway.workers and len(gateway.workers) == 3)
            # Whoever is given to the place of the dead worker waits there for the next one.
            assert all(gateway.answers() for _ in range(20))
            assert time.monotonic() - killed_at < READY_AGAIN_SECONDS
        assert gateway.end() == 0
        assert gateway.errors.count("ended with code -9") == 3


def test_calls_are_answered_to_their_end_when_it_stops(world: World) -> None:
    """SIGTERM to the parent lets a call that runs finish; then all end, with code 0."""
    gate = Gate()
    world.anthropic.script(text_answer("late", gate=gate))
    with serve(world.anthropic) as provider:
        url = {"ANTHROPIC_BASE_URL": provider}
        with (
            GatewayProcess(world.books.url, "--no-keys", "--workers", "2", **url) as gateway,
            ThreadPoolExecutor(1) as thread,
        ):
            base_url = gateway.wait_until_ready()
            client = anthropic.Anthropic(base_url=base_url, api_key="k", max_retries=0)
            call = thread.submit(client.messages.create, **ASKED)
            assert gate.reached.wait(10)
            gateway.process.send_signal(signal.SIGTERM)
            until(lambda: len(gateway.workers) == 1)  # the one that is idle ends at once
            assert not gateway.answers()
            gate.open()
            assert call.result().content[0].text == "late"
            client.close()
            assert gateway.process.wait(10) == 0
    assert world.books.holds == ["settled"]


def test_workers_end_when_their_parent_is_killed(world: World) -> None:
    """Nobody is left over: the port is free for the next gateway at once."""
    with GatewayProcess(world.books.url, "--no-keys", "--workers", "3") as gateway:
        gateway.wait_until_ready()
        workers = gateway.workers
        gateway.process.kill()
        gateway.process.wait()
        until(lambda: not any(map(is_alive, workers)), READY_AGAIN_SECONDS)
        options = ("--no-keys", "--workers", "3")
        with GatewayProcess(world.books.url, *options, port=gateway.port) as second:
            second.wait_until_ready()
            assert second.answers()
            assert second.end() == 0


def test_what_keeps_all_from_serving_is_told_once(world: World) -> None:
    """A gateway without keys ends with the code of a wrong use, and one line that says why."""
    with GatewayProcess(world.books.url, "--workers", "4") as gateway:
        assert gateway.process.wait(10) == 2
        assert gateway.errors.count("nobody could call") == 1
        assert "Traceback" not in gateway.errors


@pytest.mark.parametrize("count", ["1", "2"])
def test_port_of_another_gateway_is_not_shared(world: World, count: str) -> None:
    """Two gateways by mistake on one port are an error, not half of the calls each."""
    with GatewayProcess(world.books.url, "--no-keys", "--workers", "2") as gateway:
        gateway.wait_until_ready()
        options = ("--no-keys", "--workers", count)
        with GatewayProcess(world.books.url, *options, port=gateway.port) as second:
            assert second.process.wait(10) == 2
            assert "cannot be listened on" in second.errors
        assert gateway.answers()
        assert gateway.end() == 0


def test_worker_that_cannot_start_takes_no_calls(world: World) -> None:
    """While the ledger cannot be opened anew the other workers have all connections."""
    path = Path(world.books.url.removeprefix("sqlite:///"))
    with GatewayProcess(world.books.url, "--no-keys", "--workers", "2") as gateway:
        gateway.wait_until_ready()
        away = path.rename(path.with_suffix(".away"))
        path.mkdir()
        os.kill(gateway.workers[0], signal.SIGKILL)
        until(lambda: "cannot be used as a ledger" in gateway.errors)
        until(lambda: len(gateway.workers) == 1)
        assert all(gateway.answers() for _ in range(20))
        path.rmdir()
        away.rename(path)
        until(lambda: len(gateway.workers) == 2)
        assert gateway.end() == 0
