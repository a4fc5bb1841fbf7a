"""Charts as SVG files: they open in every browser, and need no library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from tuppence.errors import InvalidInput

WIDTH = 760
LABEL_WIDTH = 200
VALUE_WIDTH = 190
ROW_HEIGHT = 30
TOP = 56
FONT = "font-family='system-ui, Noto Sans, Noto Sans TC, sans-serif'"


class Bar(NamedTuple):
    """A bar: what it stands for, how long it is, and what is written behind it."""

    label: str
    value: float
    text: str
    colour: str


def bar_chart(title: str, subtitle: str, bars: Sequence[Bar]) -> str:
    """Return horizontal bars as an SVG document."""
    longest = max((bar.value for bar in bars), default=0) or 1
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    height = TOP + ROW_HEIGHT * len(bars) + 16
    rows = []
    for number, bar in enumerate(bars):
        y = TOP + ROW_HEIGHT * number
        length = max(1.0, room * max(bar.value, 0) / longest)
        rows.append(
            f"<text x='{LABEL_WIDTH - 10}' y='{y + 19}' text-anchor='end'>{escape(bar.label)}"
            f"</text><rect x='{LABEL_WIDTH}' y='{y + 4}' width='{length:.1f}' "
            f"height='{ROW_HEIGHT - 9}' rx='3' fill='{bar.colour}'/>"
            f"<text x='{LABEL_WIDTH + length + 8:.1f}' y='{y + 19}' fill='#333'>"
            f"{escape(bar.text)}</text>"
        )
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' "
        f"width='{WIDTH}' height='{height}' {FONT} font-size='13' role='img' "
        f"aria-label='{escape(title, quote=True)}'>"
        f"<rect width='100%' height='100%' fill='white'/>"
        f"<text x='16' y='24' font-size='16' font-weight='600'>{escape(title)}</text>"
        f"<text x='16' y='43' fill='#666'>{escape(subtitle)}</text>"
        f"{''.join(rows)}</svg>\n"
    )


def write_chart(path: Path, chart: str) -> None:
    """Write a chart; raise InvalidInput where the file cannot be written."""
    if path.suffix != ".svg":
        raise InvalidInput(
            "is no SVG file", field="chart", value=str(path), remedy="end its name in .svg"
        )
    try:
        path.write_text(chart, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"cannot be written: {error.strerror}",
            field="chart",
            value=str(path),
            remedy="name a file in a directory that you may write to",
        ) from error
