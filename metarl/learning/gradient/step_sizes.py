"""Step sizes alpha_j of inner steps, fixed or meta-learned. They also say which parameters an inner step adapts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from metarl.learning.networks import Params


class StepSizes(Protocol):
    """alpha_j by parameter name. A parameter without a size is not adapted."""

    def initial(self, theta: Params) -> Params:
        """Initial values of the meta-learned sizes by parameter name; empty if no size is learned."""

    def at(self, j: int, theta: Params, learned: Params) -> Params:
        """Sizes of inner step j, each a scalar or of the parameter's shape.

        Args:
            j: number of inner steps taken before.
            theta: the meta-learned parameters.
            learned: the present values of the sizes from `initial`.
        """


@dataclass(frozen=True)
class Schedule:
    """Step sizes `size` times a factor per step; all later steps use the last factor."""

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
        schedule: the size of each inner step.
        names: the parameters that are adapted; None for all of theta.
    """

    schedule: Schedule
    names: Collection[str] | None = None

    def initial(self, theta: Params) -> Params:
        """Empty, because no size is learned."""
        return {}

    def at(self, j: int, theta: Params, learned: Params) -> Params:
        """See `StepSizes.at`."""
        size = next(iter(theta.values())).new_tensor(self.schedule(j))
        return dict.fromkeys(theta if self.names is None else self.names, size)


@dataclass(frozen=True)
class SizePerParameter:
    """A learned size for every parameter (Li et al. 2017, arXiv:1707.09835), times the schedule's factor."""

    schedule: Schedule

    def initial(self, theta: Params) -> Params:
        """All sizes start at the schedule's size."""
        return {k: torch.full_like(v, self.schedule.size) for k, v in theta.items()}

    def at(self, j: int, theta: Params, learned: Params) -> Params:
        """See `StepSizes.at`."""
        return {k: self.schedule.factor(j) * v for k, v in learned.items()}


@dataclass(frozen=True)
class SizePerTensorAndStep:
    """A learned size for every tensor and inner step (Antoniou et al. 2019, arXiv:1810.09502, section 4, LSLR).

    Attributes:
        schedule: the initial sizes.
        steps: inner steps in training; later steps use the sizes of the last of these.
    """

    schedule: Schedule
    steps: int

    def initial(self, theta: Params) -> Params:
        """Sizes `[steps]` for each tensor."""
        sizes = torch.tensor([self.schedule(j) for j in range(max(1, self.steps))])
        return {k: sizes.clone() for k in theta}

    def at(self, j: int, theta: Params, learned: Params) -> Params:
        """See `StepSizes.at`."""
        return {k: v[min(j, max(1, self.steps) - 1)] for k, v in learned.items()}
