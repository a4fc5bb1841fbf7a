"""The gateway beside its own server and client with nothing between them, each on one core.

Beside other gateways it is measured by a benchmark of its own: tests/performance/gateway.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.guarded import free_port
from tests.integration.gateway_processes import GatewayProcess
from tests.integration.gateways import SECRET
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.gateway.keys import KeyWish, create_key

Figure = Callable[[str, str, str], None]

BARE = Path(__file__).parent / "gateway" / "bare.py"
ROOT = Path(__file__).parents[2]
CALLERS = 64
SECONDS = 3.0
TURNS = 3
BODY = json.dumps(
    {
        "model": "gpt-5.4-mini",
        "max_tokens": 64,
        "messages": [
            {"role": "system", "content": "Answer from the policy text only. " * 56},
            {"role": "user", "content": "Which plan covers audits?"},
        ],
    }
).encode()


@contextmanager
def _bare(*arguments: str, core: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, str(BARE), *arguments], cwd=ROOT)
    os.sched_setaffinity(process.pid, {core})
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for _ in range(500):
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
    raise AssertionError(port)


async def _listens(port: int) -> None:
    _, writer = await _connected(port)
    writer.close()


async def _call(port: int, key: str, until: float, taken: list[float]) -> None:
    reader, writer = await _connected(port)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
    ).encode()
    while time.perf_counter() < until:
        begun = time.perf_counter()
        writer.write(head + BODY)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        taken.append(time.perf_counter() - begun)
    writer.close()


def _measure(port: int, key: str = "none") -> tuple[float, float]:
    """Return requests per second of many callers, and seconds of one call of a lone one."""

    async def load(callers: int, seconds: float) -> list[float]:
        taken: list[float] = []
        until = time.perf_counter() + seconds
        await asyncio.gather(*(_call(port, key, until, taken) for _ in range(callers)))
        return taken

    asyncio.run(load(8, 0.5))
    alone = median(asyncio.run(load(1, SECONDS / 2)))
    return len(asyncio.run(load(CALLERS, SECONDS))) / SECONDS, alone


def test_governed_calls_beside_bare_ones(tmp_path: Path, figure: Figure) -> None:
    """What key, hold, price and two durable commits take of what the bare path gives."""
    database_url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Ledger.open(database_url) as ledger:
        wish = KeyWish(by="test", team="support", monthly_budget_nanos=10**15)
        key = create_key(ledger, SECRET.encode(), wish)[1]
    provider_port, bare_port = free_port(), free_port()
    provider_url = f"http://127.0.0.1:{provider_port}"
    cores = sorted(os.sched_getaffinity(0))
    gateway_core, load_core = cores[0], cores[-1]
    rates, alone = [], []
    os.sched_setaffinity(0, {load_core})
    try:
        with (
            _bare("provider", str(provider_port), core=load_core),
            _bare("gateway", str(bare_port), provider_url, core=gateway_core),
            GatewayProcess(database_url, OPENAI_BASE_URL=provider_url) as gateway,
        ):
            gateway.wait_until_ready()
            for port in (provider_port, bare_port):
                asyncio.run(_listens(port))
            os.sched_setaffinity(gateway.process.pid, {gateway_core})
            for _ in range(TURNS):  # in turns: the machine is noisy
                bare, governed = _measure(bare_port), _measure(gateway.port, key)
                rates.append((governed[0], bare[0]))
                alone.append((governed[1] - bare[1]) * 1e3)
    finally:
        os.sched_setaffinity(0, set(cores))
    governed_rate, bare_rate = (median(one) for one in zip(*rates, strict=True))
    figure(
        f"gateway, {CALLERS} callers, one core",
        f"{governed_rate:,.0f} requests/s",
        f"bare {bare_rate:,.0f}; the load is Python too, on the other core",
    )
    figure("gateway, one caller, added to the bare path", f"{median(alone):.2f} ms", "two commits")
