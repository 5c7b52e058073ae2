"""E-MAML: sampling before adapting earns credit for the return after it.

Stadie et al. (2018, arXiv:1803.01118, section 3.1): the gradient of the post-adaptation return has a term
grad log pi_theta(tau) R(theta') for the trajectories that the inner step was taken on. As in Rothfuss et al. (2019,
arXiv:1810.06784, appendix D), it enters as a likelihood ratio of the pre-adaptation samples times the task's mean
post-adaptation return, standardised over the tasks. It is a mean over samples, as all losses here; the sum over the N
episodes of a task, which the term is in the derivation, is `credit_coef=N`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import Distribution, Range
from metarl.agents.gradient.maml import MAML, MAMLConfig
from metarl.learning.policy_gradient import Batch


@dataclass(frozen=True)
class EMAMLConfig(MAMLConfig):
    """MAML's hyperparameters, and the weight of the credit."""

    credit_coef: Annotated[float, Range(0, 1e6)] = 1.0
    """Factor on the exploration term."""


class EMAML(MAML):
    """MAML with the exploration term."""

    name = "e_maml"
    Config = EMAMLConfig
    config: EMAMLConfig

    @property
    def every_step(self) -> bool:
        """True: the credit is of the policies before the last step."""
        return True

    def meta_update(self, pre: list[Batch], post: Batch) -> dict[str, float]:
        """MAML's, with each task's credit beside its samples."""
        gained = post.mean_return
        centred = gained - gained.nanmean()
        credit = torch.nan_to_num(centred / (centred.square().nanmean().sqrt() + 1e-8))
        return super().meta_update([b._replace(mean_return=credit) for b in pre], post)

    def outer_loss(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """MAML's, and before the last step ratio * credit of the samples that were adapted on."""
        surrogate = super().outer_loss(j, policy, batch, old, last)
        if last:
            return surrogate
        ratio = torch.exp(policy.log_prob(batch.action) - old.log_prob(batch.action))
        credit = batch.mean_return.to(ratio.dtype).unsqueeze(1)
        return surrogate - self.config.credit_coef * (ratio * credit * batch.weight).sum()
