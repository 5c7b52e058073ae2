"""E-MAML: the samples before adaptation earn credit for the return after adaptation.

Stadie et al. (2018, arXiv:1803.01118, section 3.1): the gradient of the post-adaptation return has a term
grad log pi_theta(tau) R(theta') for the trajectories that the inner step used. As in Rothfuss et al. (2019,
arXiv:1810.06784, appendix D), the term is the likelihood ratio of the pre-adaptation samples times the task's mean
post-adaptation return, standardised over the tasks. The paper's gradient sums over the N episodes of a task; here it is
a mean, so the default 1 is 1/N of it. `credit_coef=N` restores it. The training loop is `MAML.train_step`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import Batch, Distribution, Range, SurrogateLoss, TrustRegionConfig, probability_ratio
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class EMAMLConfig(TrustRegionConfig, MetaGradientConfig):
    """Hyperparameters of the inner loop and of the trust region, and the weight of the credit."""

    credit_coef: Annotated[float, Range(0, 1e6)] = 1.0
    """Weight of the credit."""


@dataclass(frozen=True)
class CreditLoss:
    """MAML's outer loss for the last policy, and minus the mean of ratio * credit for every earlier policy.

    Attributes:
        credit: credit of each task, `[R]`.
        coef: weight of the credit.
    """

    credit: Tensor
    coef: float
    post_loss = SurrogateLoss()
    every_step = True

    def kl_weight(self, j: int, last: bool) -> float:
        """1 for the last policy, 0 for the others."""
        return self.post_loss.kl_weight(j, last)

    def rows(self, which: slice | Tensor) -> CreditLoss:
        """The loss of a subset of the rows."""
        return replace(self, credit=self.credit[which])

    def __call__(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """See `metarl.learning.gradient.meta_gradient.OuterLoss`."""
        if last:
            return self.post_loss(j, policy, batch, old, last)
        ratio = probability_ratio(policy, batch, old)
        return -self.coef * (ratio * self.credit.to(ratio.dtype).unsqueeze(1) * batch.weight).sum()


class EMAML(MAML):
    """E-MAML is MAML that also credits the data collected before adaptation for the return after it."""

    name = "e_maml"
    Config = EMAMLConfig

    def make_outer_loss(self, post: Batch) -> CreditLoss:
        """Each task's credit is its return after adaptation, standardised over the tasks; 0 if it is unknown."""
        centred = post.mean_return - post.mean_return.nanmean()
        credit = torch.nan_to_num(centred / (centred.square().nanmean().sqrt() + 1e-8))
        return CreditLoss(credit, self.config.credit_coef)
