"""Hyperparameters: kinds, ranges and choices are checked in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pytest

from metarl.config import Range, check_config
from metarl.errors import InvalidValueError


@dataclass(frozen=True)
class Config:
    rate: Annotated[float, Range(0, 1)] = 0.5
    units: Annotated[int, Range(1, 8)] = 4
    widths: tuple[Annotated[int, Range(1, 8)], ...] = (4,)
    kind: Literal["gru", "lstm"] = "gru"
    flag: bool = False
    free: str = "text"


def test_what_is_declared_is_accepted() -> None:
    check_config("mine", Config())
    check_config("mine", Config(rate=1, units=8, widths=(1, 8), kind="lstm", flag=True))
    check_config("mine", None)  # an agent without a dataclass checks for itself


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("rate", 1.5, "mine.rate is 1.5, expected a number from 0 to 1"),
        ("rate", float("nan"), "mine.rate is nan, expected a number from 0 to 1"),
        ("rate", "x", "mine.rate is 'x', expected a number"),
        ("rate", True, "mine.rate is True, expected a number"),
        ("units", 2.0, "mine.units is 2.0, expected a whole number from 1 to 8"),
        ("units", 9, "mine.units is 9, expected a whole number from 1 to 8"),
        ("widths", (4, 0), "mine.widths[1] is 0, expected a whole number from 1 to 8"),
        ("widths", 4, "mine.widths is 4, expected a list of numbers"),
        ("kind", "gruu", "mine.kind is 'gruu', expected one of gru, lstm (did you mean 'gru'?)"),
        ("flag", 1, "mine.flag is 1, expected True or False"),
        ("free", 1, "mine.free is 1, expected text"),
    ],
)
def test_anything_else_is_one_sentence(field: str, value: Any, expected: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        check_config("mine", replace(Config(), **{field: value}))
    assert str(refused.value) == expected
