"""ProMP: proximal meta-policy search, clipped steps of Adam on the meta-objective with a penalty on the inner KL.

Rothfuss, Lee, Clavera, Asfour and Abbeel (2019, arXiv:1810.06784, equation 14, algorithm 1): the LVC estimator inside,
PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347) outside, several epochs on the same samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from metarl.agent import Distribution, Family, Params, Range, adam_tensors, load_adam
from metarl.agents.gradient.config import MetaTrainingConfig
from metarl.agents.gradient.maml import MAML
from metarl.learning.meta_gradient import MetaObjective
from metarl.learning.policy_gradient import Batch
from metarl.learning.trust_region import flatten, unflatten


@dataclass(frozen=True)
class ProMPConfig(MetaTrainingConfig):
    """MAML's inner loop; the paper's outer one."""

    estimator: Literal["naive", "lvc", "dice", "loaded_dice"] = "lvc"
    """Inner loss: lvc is the paper's."""
    outer_lr: Annotated[float, Range(0, 1e3)] = 1e-3
    """Adam's learning rate."""
    outer_epochs: Annotated[int, Range(1, 1e4)] = 5
    """Gradient steps on each batch of samples."""
    clip: Annotated[float, Range(0, 1e3)] = 0.3
    """Adapted policies' probability ratios are clipped to 1 - clip, ..., 1 + clip."""
    inner_kl_coef: Annotated[float, Range(0, 1e6)] = 5e-4
    """Penalty on the mean KL divergence of the policies before the last inner step from those that sampled."""


class ProMP(MAML):
    """MAML with a proximal outer loop."""

    name = "promp"
    Config = ProMPConfig
    config: ProMPConfig

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.optimizer = torch.optim.Adam(list(self.theta.values()), lr=config.outer_lr)

    @property
    def every_step(self) -> bool:
        """True: the penalty is on the policies before the last step."""
        return True

    @property
    def first_order(self) -> bool:
        """False: the meta-gradient is exact."""
        return False

    def kl_weight(self, j: int, last: bool) -> float:
        """All on the last policy."""
        return float(last)

    def outer_loss(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """The clipped surrogate of the adapted policy; the KL penalty of those before."""
        if not last:
            return self.config.inner_kl_coef * (old.kl(policy) * batch.weight).sum()  # type: ignore[arg-type]
        return self.clipped(policy, batch, old)

    def clipped(self, policy: Distribution, batch: Batch, old: Distribution) -> Tensor:
        """PPO's surrogate, equation 7."""
        ratio = torch.exp(policy.log_prob(batch.action) - old.log_prob(batch.action))
        inside = ratio.clamp(1.0 - self.config.clip, 1.0 + self.config.clip)
        return -(torch.minimum(ratio * batch.advantage, inside * batch.advantage) * batch.weight).sum()

    def meta_update(self, pre: list[Batch], post: Batch) -> dict[str, float]:
        """Epochs of Adam; if one leads to numbers that are not finite, the parameters before all of them come back."""
        before: Params = {k: v.clone() for k, v in self.theta.items()}
        moments = {k: v.clone() for k, v in adam_tensors(self.optimizer, self.theta).items()}
        objective = MetaObjective(self, before, pre, post, first_order=self.first_order, metric=False)
        gradient, norm = objective.grad, float(objective.grad.norm())
        for epoch in range(self.config.outer_epochs):
            if epoch:
                _, gradient = objective.gradient(self.theta)
            for p, g in zip(self.theta.values(), unflatten(gradient, self.theta).values(), strict=True):
                p.grad = g
            self.optimizer.step()
        new_loss, kl = objective.evaluate(flatten(self.theta))
        metrics = {"grad_norm": norm, "kl": kl, "improvement": objective.loss - new_loss, "step_rejected": 0.0}
        finite = all(bool(torch.isfinite(v).all()) for v in self.tensors().values())  # Adam's moments too
        if not (finite and math.isfinite(new_loss) and math.isfinite(kl)):
            self.load_tensors(before | moments)
            metrics |= {"kl": 0.0, "improvement": 0.0, "step_rejected": 1.0}
        return metrics

    def tensors(self) -> dict[str, Tensor]:
        """The meta-parameters, and Adam's moments."""
        return super().tensors() | adam_tensors(self.optimizer, self.theta)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The meta-parameters, and Adam's moments."""
        for k, v in self.theta.items():
            v.copy_(tensors[k])
        load_adam(self.optimizer, self.theta, tensors)
