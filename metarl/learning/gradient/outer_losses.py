"""Outer losses, which a meta-update minimises. They depend on the policies after j inner steps, j = 0, ..., K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.learning.action_distributions import Distribution
from metarl.learning.gradient.policy_gradient import Batch


def probability_ratio(policy: Distribution, batch: Batch, old: Distribution) -> Tensor:
    """pi(a | x) / pi_old(a | x) for the actions of a batch, `[R, B]`."""
    return torch.exp(policy.log_prob(batch.action) - old.log_prob(batch.action))


@dataclass(frozen=True)
class SurrogateLoss:
    """Minus the mean of ratio * advantage, for the policy after the last inner step or after every inner step.

    Attributes:
        steps: the number K of inner steps, if the loss is the mean over the policies after steps 1, ..., K. With 0
            it is the loss of the last policy alone, for any K.
    """

    steps: int = 0

    @property
    def every_step(self) -> bool:
        """Whether the loss depends on more policies than the last."""
        return self.steps > 0

    def kl_weight(self, j: int, last: bool) -> float:
        """1 for the last policy, or 1 / K for the policies after steps 1, ..., K."""
        if self.steps:
            return 1.0 / self.steps if j else 0.0
        return float(last)

    def rows(self, which: slice | Tensor) -> SurrogateLoss:
        """The loss itself, which is the same for all rows."""
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

    The policies before the last step have a penalty on their KL divergence from the policies that sampled (Rothfuss et
    al. 2019, arXiv:1810.06784, equation 14).

    Attributes:
        clip: ratios are clipped to [1 - clip, 1 + clip].
        kl_coef: weight of the penalty.
        weights: weights of the surrogates after 0, ..., K steps; empty for the last one alone.
    """

    clip: float
    kl_coef: float
    weights: Sequence[float] = ()
    every_step = True

    def kl_weight(self, j: int, last: bool) -> float:
        """1 for the last policy, 0 for the others."""
        return float(last)

    def rows(self, which: slice | Tensor) -> ClippedLoss:
        """The loss itself, which is the same for all rows."""
        return self

    def __call__(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """See `OuterLoss.__call__`."""
        weight = self.weights[j] if self.weights else float(last)
        if last:
            return weight * self.clipped(policy, batch, old)
        penalty = self.kl_coef * (old.kl(policy) * batch.weight).sum()  # type: ignore[arg-type]
        return penalty + weight * self.clipped(policy, batch, old) if weight else penalty

    def clipped(self, policy: Distribution, batch: Batch, old: Distribution) -> Tensor:
        """Minus the mean of the smaller one of the unclipped and the clipped surrogate, summed over rows."""
        ratio = probability_ratio(policy, batch, old)
        inside = ratio.clamp(1.0 - self.clip, 1.0 + self.clip)
        return -(torch.minimum(ratio * batch.advantage, inside * batch.advantage) * batch.weight).sum()
