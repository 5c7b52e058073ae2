"""ProMP: proximal meta-policy search. Adam minimises a clipped loss with a penalty on the inner KL divergence.

Rothfuss, Lee, Clavera, Asfour and Abbeel (2019, arXiv:1810.06784, equation 14, algorithm 1): the inner loop uses the
LVC estimator, the outer loop PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347), for several epochs on
the same samples. The training loop is `MAML.train_step`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from metarl.agent import AdamEpochs, Batch, ClippedLoss, Range
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class ProMPConfig(MetaGradientConfig):
    """Hyperparameters of MAML's inner loop and of the paper's outer loop."""

    estimator: Literal["naive", "lvc", "dice", "loaded_dice"] = "lvc"
    """Inner loss; the paper uses lvc."""
    outer_lr: Annotated[float, Range(0, 1e3)] = 1e-3
    """Adam's learning rate."""
    outer_epochs: Annotated[int, Range(1, 1e4)] = 5
    """Gradient steps on each batch of samples."""
    clip: Annotated[float, Range(0, 1e3)] = 0.3
    """The probability ratios of adapted policies are clipped to [1 - clip, 1 + clip]."""
    inner_kl_coef: Annotated[float, Range(0, 1e6)] = 5e-4
    """Weight of the KL penalty: KL(sampling policy || new policy) before each inner step, mean over samples, summed
    over steps."""


class ProMP(MAML):
    """ProMP is MAML whose outer loop minimises PPO's clipped loss with Adam."""

    name = "promp"
    Config = ProMPConfig

    def make_outer_loss(self, post: Batch) -> ClippedLoss:
        """The clipped surrogate of the adapted policy, and the KL penalty of the earlier policies."""
        return ClippedLoss(self.config.clip, self.config.inner_kl_coef)

    def make_optimizer(self) -> AdamEpochs:
        """Several gradient steps of Adam on the same samples."""
        return AdamEpochs(self.theta, self.config.outer_lr, self.config.outer_epochs)
