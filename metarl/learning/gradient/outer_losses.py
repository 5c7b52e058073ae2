"""Outer losses: what a meta-update minimises of the policies after j inner steps, j = 0, ..., K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.learning.action_distributions import Distribution
from metarl.learning.gradient.policy_gradient import Batch


def probability_ratio(policy: Distribution, batch: Batch, old: Distribution) -> Tensor:
    """pi(a | x) / pi_old(a | x) of a batch's actions, `[R, B]`."""
    return torch.exp(policy.log_prob(batch.action) - old.log_prob(batch.action))


@dataclass(frozen=True)
class SurrogateLoss:
    """Minus the mean of ratio * advantage, of the policy after the last inner step or after each of them.

    Attributes:
        steps: K, if the loss is the mean over the policies after step 1, ..., K; 0: of the last one alone.
    """

    steps: int = 0

    @property
    def every_step(self) -> bool:
        """Whether it looks at more than the last policy."""
        return self.steps > 0

    def kl_weight(self, j: int, last: bool) -> float:
        """All on the last policy, or equal on those after each step."""
        if self.steps:
            return 1.0 / self.steps if j else 0.0
        return float(last)

    def rows(self, which: slice | Tensor) -> SurrogateLoss:
        """The same for all rows."""
        return self

    def __call__(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """See `OuterLoss.__call__`."""
        weight = self.kl_weight(j, last)
        if not weight:
            return batch.weight.new_zeros(())
        return -weight * (probability_ratio(policy, batch, old) * batch.advantage * batch.weight).sum()


@dataclass(frozen=True)
class ClippedLoss:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, equation 7) of the adapted policies.

    Before the last step there is a penalty on the KL divergence from the policies that sampled (Rothfuss et al. 2019,
    arXiv:1810.06784, equation 14).

    Attributes:
        clip: ratios are clipped to 1 - clip, ..., 1 + clip.
        kl_coef: weight of the penalty.
        weights: of the surrogate after 0, ..., K steps; empty: all on the last.
    """

    clip: float
    kl_coef: float
    weights: Sequence[float] = ()
    every_step = True

    def kl_weight(self, j: int, last: bool) -> float:
        """All on the last policy."""
        return float(last)

    def rows(self, which: slice | Tensor) -> ClippedLoss:
        """The same for all rows."""
        return self

    def __call__(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """See `OuterLoss.__call__`."""
        weight = self.weights[j] if self.weights else float(last)
        if last:
            return weight * self.clipped(policy, batch, old)
        penalty = self.kl_coef * (old.kl(policy) * batch.weight).sum()  # type: ignore[arg-type]
        return penalty + weight * self.clipped(policy, batch, old) if weight else penalty

    def clipped(self, policy: Distribution, batch: Batch, old: Distribution) -> Tensor:
        """Minus the mean of the smaller of the plain and the clipped surrogate, summed over rows."""
        ratio = probability_ratio(policy, batch, old)
        inside = ratio.clamp(1.0 - self.clip, 1.0 + self.clip)
        return -(torch.minimum(ratio * batch.advantage, inside * batch.advantage) * batch.weight).sum()
