"""Reads the golden prices out of the documentation."""

from __future__ import annotations

from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "reference" / "golden-prices.md"


def documented_rows() -> list[dict[str, str]]:
    """Read every table of the document as dictionaries."""
    rows = []
    headings: list[str] = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            headings = []
        elif not headings:
            headings = cells
        elif set(line) - set("|-: "):
            rows.append(dict(zip(headings, cells, strict=True)))
    return rows


def count(text: str) -> int:
    """Return a number of the document; an empty cell is 0."""
    return int(text.replace(",", "") or 0)
