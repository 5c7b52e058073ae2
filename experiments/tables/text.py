"""What all tables are written with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

PUBLISHED = json.loads((Path(__file__).resolve().parent.parent / "published.json").read_text())  # numbers of papers


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "--:") -> str:
    """Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *[align] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bounds(mean: float, low: float, high: float, digits: int = 2) -> str:
    """Text of a mean with its interval."""
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def interval(row: Mapping[str, float] | None, digits: int = 2) -> str:
    """Text of the mean of a row of a summary with its interval; empty without a row."""
    return bounds(row["mean"], row["low"], row["high"], digits) if row else ""
