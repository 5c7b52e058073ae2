"""Observations and rewards of Meta-World's environments for many rows at once; those of ML10.

They are the package's reward "v2" (metaworld 3.1.1, McLean et al. 2025, arXiv:2505.11289), whose functions take one
environment at a time and longer than its physics. Sums are in another order, so rewards differ from the package's by
rounding errors (tests compare them). Other environments use the package's functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Named:
    """Positions `[N, 3]` by the names in the package's models.

    Args:
        positions: `[N, n, 3]`.
        numbers: each name's place in them.
    """

    def __init__(self, positions: Doubles, numbers: Mapping[str, int]) -> None:
        self.positions, self.numbers = positions, numbers

    def __getitem__(self, name: str) -> Doubles:
        return self.positions[:, self.numbers[name]]


class Places(NamedTuple):
    """Where the parts of N robots are."""

    bodies: Named
    sites: Named
    geoms: Named


class Moment(NamedTuple):
    """What a reward depends on.

    Attributes:
        places: after the step.
        obs: the observation, clipped, float64 `[N, 39]`; without quaternions that are computed from matrices.
        action: `[N, 4]`.
        fixed: what the reset of each row's scene left in the package's environment, by the names of attributes
            (`Skill.attributes`), float64 `[N, ...]`.
    """

    places: Places
    obs: Doubles
    action: Floats
    fixed: Mapping[str, Doubles]


@dataclass(frozen=True)
class Skill:
    """An environment with one object.

    Attributes:
        position: the object's position in the observation, `[N, 3]`.
        quaternion: the body that has the quaternion in the observation, or "rotated" if it is computed from a matrix,
            or None for zeros.
        attributes: of the package's environment that the reward needs and that a reset sets.
        reward: rewards, float64 `[N]`, and successes, `[N]`.
    """

    position: Callable[[Places], Doubles]
    quaternion: str | None
    attributes: tuple[str, ...]
    reward: Callable[[Moment], tuple[Doubles, Bools]]


SKILLS: dict[str, Skill] = {}
