"""Small libraries that claim budgets, and ours, through one driver: how much they let through.

`make bench` installs them into an environment of its own: .venv-peers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.performance.peers_budgets import CALL, GUARDS, LIMIT

DRIVER = Path(__file__).with_name("peers_budgets.py")
PEERS = Path(os.environ.get("TUPPENCE_PEERS") or REPOSITORY / ".venv-peers")
TURNS = 3


def measure(library: str, redis_url: str) -> dict[str, Any]:
    """Return what the driver says of one library."""
    python = sys.executable if library.startswith("tuppence") else str(PEERS / "bin" / "python")
    command = [python, str(DRIVER), library, redis_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


@pytest.fixture
def peers() -> None:
    """The environment with the libraries: absent, the comparison fails, it is not left out."""
    if not (PEERS / "bin" / "python").exists():
        pytest.fail(f"{PEERS} is absent; run make bench", pytrace=False)


@pytest.mark.usefixtures("peers")
def test_small_libraries(redis_url: str, figure: Callable[[str, str, str], None]) -> None:
    """Of 200 calls at once for a budget of 20, ours lets 20 through, whoever calls."""
    turns: dict[str, list[dict[str, Any]]] = {library: [] for library in GUARDS}
    for _ in range(TURNS):
        for library, measured in turns.items():
            measured.append(measure(library, redis_url))
    for library, measured in turns.items():
        spent = {
            callers: [one["made"][callers] * CALL / LIMIT for one in measured]
            for callers in GUARDS[library][1]
        }
        overshoot = ", ".join(f"{callers} {max(made):.1f}x" for callers, made in spent.items())
        micros = median(one["micros"] for one in measured)
        figure(f"{library}: per call, 1 caller", f"{micros:,.0f} us", f"spent/budget: {overshoot}")
        if library.startswith("tuppence"):
            assert {share for made in spent.values() for share in made} == {1.0}, spent
