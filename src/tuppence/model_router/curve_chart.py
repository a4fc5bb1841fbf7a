"""The cost-quality curves of routers, as SVG, as a page that needs nothing else, and as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuppence.errors import InvalidInput, MissingPackage

WIDTH, HEIGHT = 880, 480
LEFT, RIGHT, TOP, BOTTOM = 68, 664, 56, 420
LEGEND_LEFT, LEGEND_STEP = 686, 26
INK, FAINT, GRID = "#222", "#666", "#e4e4e4"
FONT = "font-family='system-ui, Noto Sans, Noto Sans TC, sans-serif'"
COST_AXIS = "cost, % of always asking the strong tier"
QUALITY_AXIS = "quality, %"
MOST_TICKS = 8
INCHES_TO_A_PIXEL = 1 / 100
MATPLOTLIB_MARKERS = {"": "none", "circle": "o"}

PAGE_STYLE = """
:root { color-scheme: light }
body { margin: 2rem auto; padding: 0 1rem; max-width: 56rem; background: white; color: #222;
  font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans TC", sans-serif }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
figure { margin: 1rem 0; border: 1px solid #e4e4e4; border-radius: 6px; overflow: hidden }
svg { display: block; width: 100%; height: auto }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4;
  font-variant-numeric: tabular-nums }
th { font-weight: 600 } tbody th { font-weight: 400 }
tr > :first-child { text-align: left }
thead th { border-bottom: 2px solid #999; vertical-align: bottom }
"""


class Style(NamedTuple):
    """How a curve is drawn; shapes and dashes tell curves apart where colours do not."""

    colour: str
    dashes: tuple[int, ...] = ()
    """Lengths drawn and left out in turn; none for a whole line."""
    marker: Literal["", "circle"] = ""
    """The shape put on every point; none for a line alone."""
    width: float = 2.0
    """Of the line, in pixels."""


# Colours of Okabe and Ito, which people with any colour vision can tell apart.
ROUTER = Style("#0072B2", width=3.0)
LENGTH = Style("#E69F00", (7, 4))
KNOWN_TASK = Style("#009E73", (2, 4), width=2.4)
ORACLE = Style("#555555", (10, 4, 2, 4))
ZERO_ROUTER = Style("#D55E00", marker="circle")


class Curve(NamedTuple):
    """A line to draw."""

    label: str
    points: NDArray[np.float64]
    """Rows of (cost as a share of always asking the strong tier, quality); 1 is 100 %."""
    style: Style


class Table(NamedTuple):
    """A table of the page; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Axis(NamedTuple):
    """Where percentages are on the picture."""

    low: int
    high: int
    step: int
    start: float
    """The pixel of `low`."""
    end: float

    def at(self, percent: float) -> float:
        """Return the pixel of a percentage."""
        return self.start + (percent - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> range:
        """Return the percentages that are written on the axis."""
        return range(self.low, self.high + 1, self.step)


def curve_svg(title: str, curves: Sequence[Curve]) -> str:
    """Return cost-quality curves as an SVG document."""
    x, y = _axes(curves)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' "
        f"width='{WIDTH}' height='{HEIGHT}' {FONT} font-size='13' fill='{INK}' role='img' "
        f"aria-label='{escape(title, quote=True)}'>"
        "<rect width='100%' height='100%' fill='white'/>"
        f"<text x='16' y='28' font-size='16' font-weight='600'>{escape(title)}</text>"
        f"{_grid(x, y)}{''.join(_curve(curve, x, y) for curve in curves)}{_legend(curves)}</svg>\n"
    )


def curve_html(
    title: str, svgs: Sequence[str], tables: Sequence[Table] = (), notes: Sequence[str] = ()
) -> str:
    """Return a page with charts made by `curve_svg`, tables, and paragraphs below the title."""
    paragraphs = "".join(f"<p>{escape(note)}</p>\n" for note in notes)
    figures = "".join(f"<figure>{svg}</figure>\n" for svg in svgs)
    return (
        f"<!doctype html>\n<html lang='en'>\n<head><meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{PAGE_STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{paragraphs}{figures}"
        f"{''.join(_table(table) for table in tables)}</body>\n</html>\n"
    )


def write_png(path: Path, title: str, curves: Sequence[Curve]) -> None:
    """Draw the curves of `curve_svg` to a PNG file.

    Raises MissingPackage without the package `matplotlib`, InvalidInput where the file cannot be
    written.
    """
    drawing = check_png(path)
    x, y = _axes(curves)
    size = (WIDTH * INCHES_TO_A_PIXEL, HEIGHT * INCHES_TO_A_PIXEL)
    figure = drawing.Figure(size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_plain(title), loc="left", fontweight="bold")
    axes.set(xlim=(x.low, x.high), ylim=(y.low, y.high), xticks=x.ticks(), yticks=y.ticks())
    axes.set(xlabel=COST_AXIS, ylabel=QUALITY_AXIS)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for curve in curves:
        colour, dashes, marker, width = curve.style
        axes.plot(
            *_percents(curve).T,
            color=colour,
            linewidth=width * 0.75,
            linestyle=(0, [length / width for length in dashes]) if dashes else "-",
            marker=MATPLOTLIB_MARKERS[marker],
            markeredgecolor="white",
            markersize=8,
            clip_on=False,
            label=_plain(curve.label),
        )
    figure.legend(loc="outside right upper", frameon=False)
    try:
        figure.savefig(path, dpi=2 / INCHES_TO_A_PIXEL, facecolor="white")
    except OSError as error:
        raise InvalidInput(
            f"cannot be written: {error.strerror}",
            field="chart",
            value=str(path),
            remedy="name a file in a directory that you may write to",
        ) from error


def check_png(path: Path) -> ModuleType:
    """Return what draws a PNG file; raise MissingPackage, and InvalidInput for another ending."""
    if path.suffix != ".png":
        raise InvalidInput(
            "is no PNG file", field="chart", value=str(path), remedy="end its name in .png"
        )
    return _matplotlib()


def _matplotlib() -> ModuleType:
    try:
        import matplotlib.figure  # noqa: PLC0415 - an extra, and slow to load
    except ModuleNotFoundError as error:
        raise MissingPackage(
            "is not installed",
            field="package",
            value="matplotlib",
            remedy='install "tuppence[plots]"',
        ) from error
    return matplotlib.figure


def _axes(curves: Sequence[Curve]) -> tuple[Axis, Axis]:
    """Return a cost axis from 0 to 100 % or more, and a quality axis around the points."""
    points = np.concatenate([_percents(curve) for curve in curves] or [np.empty((0, 2))])
    if not len(points):
        points = np.array([[0.0, 0.0], [100.0, 100.0]])
    costs, qualities = points.T
    x = _axis(0.0, max(100.0, float(costs.max())), LEFT, RIGHT)
    return x, _axis(float(qualities.min()), float(qualities.max()), BOTTOM, TOP)


def _axis(least: float, most: float, start: float, end: float) -> Axis:
    """Return an axis that begins and ends at a tick, with steps of 1, 2 or 5 times 10^k percent."""
    scale = 1
    while True:
        for step in (scale, 2 * scale, 5 * scale):
            # A point of 99.999... % through rounding must not open another step.
            low = int(np.floor(least / step + 1e-9)) * step
            high = max(int(np.ceil(most / step - 1e-9)) * step, low + step)
            if (high - low) / step <= MOST_TICKS:
                return Axis(low, high, step, start, end)
        scale *= 10


def _grid(x: Axis, y: Axis) -> str:
    parts = []
    for tick in x.ticks():
        at = x.at(tick)
        parts.append(
            f"<path d='M{at:.1f} {TOP}V{BOTTOM}' stroke='{GRID}'/>"
            f"<text x='{at:.1f}' y='{BOTTOM + 19}' text-anchor='middle' fill='{FAINT}'>{tick}"
            "</text>"
        )
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(
            f"<path d='M{LEFT} {at:.1f}H{RIGHT}' stroke='{GRID}'/>"
            f"<text x='{LEFT - 8}' y='{at + 4.5:.1f}' text-anchor='end' fill='{FAINT}'>{tick}"
            "</text>"
        )
    middle = (TOP + BOTTOM) / 2
    return (
        f"{''.join(parts)}<path d='M{LEFT} {TOP}V{BOTTOM}H{RIGHT}' fill='none' stroke='#999'/>"
        f"<text x='{(LEFT + RIGHT) / 2}' y='{BOTTOM + 44}' text-anchor='middle'>{COST_AXIS}</text>"
        f"<text x='22' y='{middle}' text-anchor='middle' transform='rotate(-90 22 {middle})'>"
        f"{QUALITY_AXIS}</text>"
    )


def _curve(curve: Curve, x: Axis, y: Axis) -> str:
    places = [(x.at(cost), y.at(quality)) for cost, quality in _percents(curve).tolist()]
    return _line(places, curve.style) + _marks(places, curve.style)


def _legend(curves: Sequence[Curve]) -> str:
    parts = []
    for number, curve in enumerate(curves):
        y = TOP + 10 + LEGEND_STEP * number
        ends = [(LEGEND_LEFT, y), (LEGEND_LEFT + 32, y)]
        parts.append(
            f"{_line(ends, curve.style)}{_marks([(LEGEND_LEFT + 16, y)], curve.style)}"
            f"<text x='{LEGEND_LEFT + 42}' y='{y + 4.5}'>{escape(curve.label)}</text>"
        )
    return "".join(parts)


def _line(places: Sequence[tuple[float, float]], style: Style) -> str:
    dashes = f" stroke-dasharray='{' '.join(map(str, style.dashes))}'" if style.dashes else ""
    at = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
    return (
        f"<polyline points='{at}' fill='none' stroke='{style.colour}' "
        f"stroke-width='{style.width}' stroke-linejoin='round'{dashes}/>"
    )


def _marks(places: Sequence[tuple[float, float]], style: Style) -> str:
    if not style.marker:
        return ""
    shape = f"<circle r='5' fill='{style.colour}' stroke='white' stroke-width='1.5'/>"
    return "".join(
        f"<g transform='translate({across:.1f} {down:.1f})'>{shape}</g>" for across, down in places
    )


def _table(table: Table) -> str:
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>"
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>\n"
        for first, *rest in table.rows
    )
    return (
        f"<h2>{escape(table.title)}</h2>\n<div class='wide'><table>\n<thead><tr>{head}</tr></thead>"
        f"\n<tbody>\n{rows}</tbody></table></div>\n"
    )


def _percents(curve: Curve) -> NDArray[np.float64]:
    percents: NDArray[np.float64] = 100 * np.asarray(curve.points, dtype=np.float64).reshape(-1, 2)
    return percents


def _plain(text: str) -> str:
    """Return a text as matplotlib shows it unchanged: dollar signs would begin a formula."""
    return text.replace("$", r"\$")
