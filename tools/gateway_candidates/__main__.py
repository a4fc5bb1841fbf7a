"""Measure what the gateway could be built on: servers and clients, on the work that it does.

    python tools/gateway_candidates compare ../shared/bench [--only NAME ...] [--rounds 3]
    python tools/gateway_candidates json
    python tools/gateway_candidates serve uvicorn-uvloop aiohttp 19000 http://127.0.0.1:19100

Every candidate does the same for a request: read the body, parse it, put in the provider's key,
send it on, hand the answer back, find the usage in it (in a stream: as it passes), and cut the
upstream off when the client hangs up. Nothing is booked. Results: docs/explanation/gateway.md.
Needs what the package does not: cc, uvloop, granian, pyreqwest, httpx2, msgspec, orjson.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import orjson
from clients import CLIENTS
from servers import HOST, serve

CANDIDATES = (
    ("uvicorn-asyncio", "aiohttp"),
    ("uvicorn-uvloop", "aiohttp"),
    ("uvicorn-asyncio", "httpx2"),
    ("uvicorn-uvloop", "pyreqwest"),
    ("uvicorn-asyncio", "own"),
    ("uvicorn-uvloop", "own"),
    ("granian-rsgi", "aiohttp"),
    ("granian-rsgi", "pyreqwest"),
    ("granian-rsgi", "own"),
    ("granian-asgi", "aiohttp"),
    ("aiohttp", "aiohttp"),
    ("own-asyncio", "own"),
    ("own-uvloop", "own"),
)
FIRST_PORT = 19_200
_MANY = "-c 64 -d 3 -w 0.5"
_MANY_SECONDS = 3.5
"""The time to warm up counts too: CPU is read before and after."""
UPSTREAM_PORTS = {"FAST": 19_100, "SLOW": 19_160, "STREAM": 19_105, "LONG": 19_130}


def compare(bench_folder: Path, only: list[str], rounds: int) -> None:
    """Measure all candidates in turn; print the best of the rounds after each."""
    sys.path.insert(0, str(bench_folder))
    bench_module = importlib.import_module("run_gateways")
    for name, port in UPSTREAM_PORTS.items():
        setattr(bench_module, name, port)
    best: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = bench_module.Bench(folder)
        try:
            for _ in range(rounds):
                direct = _measured(bench_module, bench, {"name": "direct"})
                for name, entry in _entries(only):
                    bench_module.start(bench, entry, folder)
                    seen = _measured(bench_module, bench, entry).minus(direct)
                    bench_module.kill(entry.pop("_proc"))
                    best[name] = seen.best_with(best.get(name, seen))
                print(_table(best), flush=True)
        finally:
            bench_module.kill(bench.up)


class Figures(NamedTuple):
    """What was measured of a candidate."""

    requests_per_second: float
    cpu_seconds_per_1000: float
    added_us: float
    """Of one caller, median."""
    streams_per_second: float
    cpu_seconds_per_1000_streams: float
    added_first_byte_us: float
    loaded_mb: float
    errors: float
    foreign_cores: float
    """The most that other processes of the machine used."""

    def minus(self, direct: Figures) -> Figures:
        """Return the figures with the times that the upstream itself takes left out."""
        return self._replace(
            added_us=self.added_us - direct.added_us,
            added_first_byte_us=self.added_first_byte_us - direct.added_first_byte_us,
        )

    def best_with(self, other: Figures) -> Figures:
        """Return the better of each; of errors and foreign load the worse."""
        pairs = zip(self._fields, self, other, strict=True)
        more = {"requests_per_second", "streams_per_second", "errors", "foreign_cores"}
        return Figures(*(max(a, b) if name in more else min(a, b) for name, a, b in pairs))


def _entries(only: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, (server, client) in enumerate(CANDIDATES):
        port, name = FIRST_PORT + number, f"{server} + {client}"
        if not only or name in only:
            upstream = f"http://{HOST}:{UPSTREAM_PORTS['FAST']}"
            words = [
                sys.executable,
                str(Path(__file__).parent),
                "serve",
                server,
                client,
                str(port),
                upstream,
            ]
            entry = {"name": name, "start": shlex.join(words), "url": f"http://{HOST}:{port}"}
            yield name, entry


def _measured(bench_module: ModuleType, bench: Any, entry: dict[str, Any]) -> Figures:
    fast = UPSTREAM_PORTS["FAST"]
    bench.load(entry, "-c 8 -d 0.5", fast)
    many = bench.load(entry, _MANY, fast)
    one = bench.load(entry, "-c 1 -d 1.5 -w 0.2", fast)
    streams = bench.load(entry, _MANY, fast, stream=True)
    stream = bench.load(entry, "-c 1 -d 1.5 -w 0.2", fast, stream=True)
    runs = (many, one, streams, stream)
    return Figures(
        requests_per_second=many["rps"],
        cpu_seconds_per_1000=_cpu_seconds_per_1000(many),
        added_us=one["total"]["p50"],
        streams_per_second=streams["rps"],
        cpu_seconds_per_1000_streams=_cpu_seconds_per_1000(streams),
        added_first_byte_us=stream["ttfb"]["p50"],
        loaded_mb=bench_module.pss_mb(entry["_proc"].pid) if "_proc" in entry else 0.0,
        errors=sum(run["errors"] for run in runs),
        foreign_cores=max(run["foreign_cores"] for run in runs),
    )


def _cpu_seconds_per_1000(run: dict[str, Any]) -> float:
    return float(1_000 * run["cpu_s"] / (run["rps"] * _MANY_SECONDS))


def _table(best: dict[str, Figures]) -> str:
    titles = (
        "|server + client|requests/s|CPU s per 1,000|added p50 ms|streams/s|CPU s per 1,000 streams"
        "|added first byte ms|MB|errors|foreign cores|"
    )
    lines = [titles, "|---|" + "---:|" * 9]
    for name, seen in best.items():
        times = f"{seen.added_us / 1e3:.2f}", f"{seen.added_first_byte_us / 1e3:.2f}"
        lines.append(
            f"|{name}|{seen.requests_per_second:,.0f}|{seen.cpu_seconds_per_1000:.3f}|{times[0]}"
            f"|{seen.streams_per_second:,.0f}|{seen.cpu_seconds_per_1000_streams:.3f}|{times[1]}|{seen.loaded_mb:.0f}"
            f"|{seen.errors:.0f}|{seen.foreign_cores:.2f}|"
        )
    return "\n".join(lines)


def compare_json() -> None:
    """Print how long each JSON library takes for a small request and for a long conversation."""
    turn = {
        "role": "user",
        "content": "You are a careful assistant. Cite the \u201cparagraph\u201d.\n" * 20,
    }
    for turns in (2, 170):
        asked = {"model": "m", "max_tokens": 64, "messages": [turn] * turns}
        text = json.dumps(asked, ensure_ascii=False).encode()
        pairs: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], Any]]] = {
            "json": (json.loads, lambda value: json.dumps(value, ensure_ascii=False).encode()),
            "orjson": (orjson.loads, orjson.dumps),
            "msgspec": (msgspec.json.decode, msgspec.json.encode),
        }
        for name, (decode, encode) in pairs.items():
            decode_us = _best_us(decode, text)
            encode_us = _best_us(encode, asked)
            print(f"|{name}|{len(text):,} bytes|{decode_us:.1f}|{encode_us:.1f}|")


def _best_us(function: Callable[[Any], Any], value: Any) -> float:
    timer = timeit.Timer(lambda: function(value))
    times, _ = timer.autorange()
    return min(timer.repeat(5, times)) / times * 1e6


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("bench_folder", type=Path)
    comparing.add_argument("--only", nargs="*", default=[])
    comparing.add_argument("--rounds", type=int, default=3)
    serving = commands.add_parser("serve")
    serving.add_argument("server")
    serving.add_argument("client", choices=CLIENTS)
    serving.add_argument("port", type=int)
    serving.add_argument("base_url")
    commands.add_parser("json")
    asked = parser.parse_args()
    if asked.command == "compare":
        compare(asked.bench_folder, asked.only, asked.rounds)
    elif asked.command == "serve":
        serve(asked.server, asked.client, asked.port, asked.base_url)
    else:
        compare_json()


if __name__ == "__main__":
    main()
