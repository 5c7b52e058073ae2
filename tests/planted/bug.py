"""A planted bug."""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """One planted bug."""

    name: str
    file: str
    old: str
    new: str
    test: str
