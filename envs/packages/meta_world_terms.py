"""Terms of Meta-World's rewards for many rows at once (`metaworld.utils.reward_utils`, metaworld 3.1.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def norm(vectors: Doubles) -> Doubles:
    """Lengths `[N]` of vectors `[N, d]`."""
    return cast(Doubles, np.sqrt(np.square(vectors).sum(1)))


def long_tail(distance: Doubles) -> Doubles:
    """1 at 0 and 0.1 at 1."""
    return 1.0 / ((distance * 3.0) ** 2 + 1.0)


def gaussian(distance: Doubles) -> Doubles:
    """1 at 0 and 0.1 at 1."""
    return cast(Doubles, np.exp(np.log(0.1) * distance**2))


def tolerance(
    x: Doubles,
    low: float,
    high: float,
    margin: Doubles | float,
    tail: Callable[[Doubles], Doubles] = long_tail,
) -> Doubles:
    """1 where x is from low to high, else `tail` of the distance from there in margins; 0 where the margin is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        outside = tail(np.where(x < low, low - x, x - high) / margin)
    return np.where((low <= x) & (x <= high), 1.0, outside)


def near(distance: Doubles, radius: float, margin: Doubles | float) -> Doubles:
    """1 within a radius, else `long_tail` beyond it."""
    return tolerance(distance, 0.0, radius, margin)


def both(a: Doubles, b: Doubles) -> Doubles:
    """The Hamacher product of two numbers from 0 to 1; 0 for two zeros."""
    union = a + b - a * b
    return np.divide(a * b, union, out=np.zeros_like(union), where=union > 0.0)


def rising(x: Doubles, zero: Doubles, one: Doubles) -> Doubles:
    """In the box between two corners, `[N, 3]`, the product of x's parts of the way from `zero` to `one`; else 1."""
    inside = ((np.minimum(zero, one) <= x) & (x <= np.maximum(zero, one))).all(1)
    return np.where(inside, np.prod((x - zero) / (one - zero), axis=1), 1.0)
