"""Which parameters an inner step moves, and how far: alpha_j, given or meta-learned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from metarl.learning.networks import Params


class StepSizes(Protocol):
    """alpha_j by the name of the parameter. A parameter without a size is not adapted."""

    def initial(self, theta: Params) -> Params:
        """Meta-learned sizes before training, by the name of the parameter; empty where none are learned."""

    def at(self, j: int, theta: Params, learned: Params) -> Params:
        """Sizes of inner step j, each a scalar or shaped as the parameter.

        Args:
            j: inner steps taken before.
            theta: the meta-learned parameters.
            learned: what has become of `initial`.
        """


@dataclass(frozen=True)
class Schedule:
    """Sizes by the number of the step: `size` times factor 1, 2, ...; the last factor holds for all that follow."""

    size: float
    factors: Sequence[float] = (1.0,)

    def factor(self, j: int) -> float:
        """The factor on inner step j."""
        return self.factors[min(j, len(self.factors) - 1)]

    def __call__(self, j: int) -> float:
        """The size of inner step j."""
        return float(self.size * self.factor(j))


@dataclass(frozen=True)
class FixedSizes:
    """One number for all parameters that are adapted.

    Attributes:
        schedule: its size.
        names: the parameters that are adapted; None: all of theta.
    """

    schedule: Schedule
    names: Collection[str] | None = None

    def initial(self, theta: Params) -> Params:
        """None is learned."""
        return {}

    def at(self, j: int, theta: Params, learned: Params) -> Params:
        """See `StepSizes.at`."""
        size = next(iter(theta.values())).new_tensor(self.schedule(j))
        return dict.fromkeys(theta if self.names is None else self.names, size)


@dataclass(frozen=True)
class SizePerParameter:
    """A learned size for every number of theta (Li et al. 2017, arXiv:1707.09835), which the schedule multiplies."""

    schedule: Schedule

    def initial(self, theta: Params) -> Params:
        """All sizes are the schedule's."""
        return {k: torch.full_like(v, self.schedule.size) for k, v in theta.items()}

    def at(self, j: int, theta: Params, learned: Params) -> Params:
        """See `StepSizes.at`."""
        return {k: self.schedule.factor(j) * v for k, v in learned.items()}


@dataclass(frozen=True)
class SizePerTensorAndStep:
    """A learned size for every tensor and inner step (Antoniou et al. 2019, arXiv:1810.09502, section 4, LSLR).

    Attributes:
        schedule: the sizes before training.
        steps: inner steps in training; those beyond are like the last of them.
    """

    schedule: Schedule
    steps: int

    def initial(self, theta: Params) -> Params:
        """`[steps]` for each tensor."""
        sizes = torch.tensor([self.schedule(j) for j in range(max(1, self.steps))])
        return {k: sizes.clone() for k in theta}

    def at(self, j: int, theta: Params, learned: Params) -> Params:
        """See `StepSizes.at`."""
        return {k: v[min(j, max(1, self.steps) - 1)] for k, v in learned.items()}
