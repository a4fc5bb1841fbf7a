"""Cost-quality charts: they say what they are given, escape it, and need nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from tuppence.errors import InvalidInput, MissingPackage
from tuppence.model_router import curve_chart
from tuppence.model_router.curve_chart import Curve, Table, curve_html, curve_svg, write_png

SVG = "{http://www.w3.org/2000/svg}"
CURVES = [
    Curve("oracle", np.array([[0.05, 0.6], [0.3, 0.95]]), curve_chart.ORACLE),
    Curve(
        "no <router> & 'none'",
        np.array([[0.05, 0.6], [1.0, 0.9]]),
        curve_chart.ZERO_ROUTER,
    ),
]


def test_chart_is_well_formed_and_escaped() -> None:
    """Any title and label may stand in the chart, and is read as it was given."""
    root = ET.fromstring(curve_svg("A <b> & 'c'", CURVES))  # noqa: S314 - our own
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"A <b> & 'c'", "no <router> & 'none'"} <= set(texts)
    assert root.get("aria-label") == "A <b> & 'c'"


def test_chart_draws_lines_and_points() -> None:
    """Two lines, each again in the legend; points where the style has them."""
    root = ET.fromstring(curve_svg("t", CURVES))  # noqa: S314 - our own
    assert len(list(root.iter(f"{SVG}polyline"))) == 4
    assert len(list(root.iter(f"{SVG}circle"))) == 2 + 1
    inside = [
        tuple(map(float, pair.split(",")))
        for line in root.iter(f"{SVG}polyline")
        for pair in line.get("points").split()
    ]
    assert all(0 <= x <= curve_chart.WIDTH and 0 <= y <= curve_chart.HEIGHT for x, y in inside)


@pytest.mark.parametrize(
    ("points", "ticks"),
    [
        ([[0, 0.6], [1, 0.95]], ["60", "65", "70", "75", "80", "85", "90", "95"]),
        ([[0, 0.5], [1.2, 0.5]], ["50", "51"]),
        ([], ["0", "20", "40", "60", "80", "100"]),
    ],
)
def test_quality_axis_fits_the_points(points: list[list[float]], ticks: list[str]) -> None:
    """The axis begins and ends at a round percentage, also for one value and for none."""
    curves = [Curve("a", np.array(points), curve_chart.ROUTER)]
    root = ET.fromstring(curve_svg("t", curves))  # noqa: S314 - our own
    ends = [text for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
    assert [text.text for text in ends] == ticks


def test_page_is_self_contained_and_escaped() -> None:
    """The page holds its charts and tables, and fetches nothing."""
    table = Table("AIQ & co", ("router", "AIQ"), [("<ours>", "0.71"), ("length", "0.65")])
    page = curve_html("R&D", [curve_svg("t", CURVES)], [table], ["a < b"])
    assert "<h1>R&amp;D</h1>" in page
    assert "<p>a &lt; b</p>" in page
    assert "<th scope='row'>&lt;ours&gt;</th><td>0.71</td>" in page
    assert "src=" not in page
    assert "href=" not in page
    assert page.count("http") == page.count("http://www.w3.org/2000/svg")


def test_png_is_written(tmp_path: Path) -> None:
    """Matplotlib draws the same curves to a file."""
    path = tmp_path / "curve.png"
    write_png(path, "costs $5 and $6", CURVES)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_png_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackage, match=r"tuppence\[plots\]"):
        write_png(tmp_path / "curve.png", "t", CURVES)


@pytest.mark.parametrize("name", ["curve.jpg", "missing/curve.png"])
def test_png_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    """A wrong ending and a directory that is not there are the caller's to change."""
    with pytest.raises(InvalidInput, match="chart="):
        write_png(tmp_path / name, "t", CURVES)
