"""Tables in the terminal: aligned, coloured, and readable at 80 columns.

rich is loaded when the first table is drawn: machine formats do not wait for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from tuppence.core.money import format_dollars

WIDE = 100
"""From this width on tables show everything."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, whether numbers stand in it, and from which width on it is shown."""

    heading: str
    numeric: bool = True
    from_width: int = 0


def exact_dollars(nanos: int) -> str:
    """Return an amount with all decimals that it has, at least two: "$0.0125"."""
    text = format_dollars(nanos, 9)
    return text[:-7] + text[-7:].rstrip("0")


def terminal_columns() -> int:
    """Return the width of the terminal; COLUMNS overrides it."""
    return shutil.get_terminal_size((120, 24)).columns


def draw(
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    total: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print a table with an optional row of totals, and notes under it."""
    # A tenth of a second: only who looks at a table waits for it.
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    width = terminal_columns()
    shown = [n for n, column in enumerate(columns) if width >= column.from_width]
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", header_style="cyan"
    )
    for number in shown:
        column = columns[number]
        table.add_column(
            column.heading,
            justify="right" if column.numeric else "left",
            no_wrap=column.numeric,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(row[number]) for number in shown))
    if total is not None:
        table.add_section()
        table.add_row(*(Text(total[number], style="bold yellow") for number in shown))
    console = Console(width=width, highlight=False)
    console.print(table)
    for note in notes:
        console.print(Text(note, style="yellow" if note.startswith("*") else "dim"))
