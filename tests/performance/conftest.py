"""Figures beside their peers, measured in the same run and printed as one table at the end."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median, quantiles
from time import perf_counter

import pytest

FIGURES: list[tuple[str, str, str]] = []


@pytest.fixture
def figure() -> Callable[[str, str, str], None]:
    """Note a figure: what, how much, and what it is to be held against."""

    def note(what: str, value: str, against: str) -> None:
        FIGURES.append((what, value, against))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print all figures of the run."""
    if FIGURES:
        terminalreporter.section("figures of this run")
        width = max(len(what) for what, _, _ in FIGURES)
        for what, value, against in FIGURES:
            terminalreporter.write_line(f"{what:<{width}}  {value:>22}  {against}")


def seconds_of(function: Callable[[], object], rounds: int) -> list[float]:
    """Return how long each of some runs took."""
    taken = []
    for _ in range(rounds):
        start = perf_counter()
        function()
        taken.append(perf_counter() - start)
    return taken


def median_seconds(function: Callable[[], object], rounds: int) -> float:
    """Return the median of some runs."""
    return median(seconds_of(function, rounds))


def p95_seconds(function: Callable[[], object], rounds: int) -> float:
    """Return the 95th percentile of some runs."""
    return quantiles(seconds_of(function, rounds), n=20)[-1]
