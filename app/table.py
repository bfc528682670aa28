"""Draws aligned columns for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import combining, east_asian_width

MOST = 48
"""Columns of the terminal that one cell may take: ids may be thousands of characters long."""


def draw(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`head` and `rows` in aligned columns. Long cells are cut, and what would move the cursor is escaped."""
    cells = [[_fit(cell) for cell in row] for row in (head, *rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(head))]
    lines = (
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)) for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _fit(text: str) -> str:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MOST])
    if _width(shown) <= MOST and len(text) <= MOST:
        return shown
    while _width(shown) >= MOST:
        shown = shown[:-1]
    return f"{shown}…"


def _width(text: str) -> int:
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
