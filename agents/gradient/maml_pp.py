"""MAML++: MAML that is easier to train, with learned step sizes, a loss after every inner step, and schedules.

Antoniou, Edwards and Storkey (2019, arXiv:1810.09502, section 4): it has one inner step size per tensor and step
(LSLR), a multi-step loss (MSL) whose weight moves to the last step, first-order gradients at the start of training
(DA), and a cosine schedule of Adam's learning rate (CA). The paper is about classification. Here the losses are PPO's
clipped surrogates of the policies after each step, on samples of these policies. The paper's batch normalisation is
left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from metarl.agent import AdamEpochs, Batch, ClippedLoss, Family, Range, SizePerTensorAndStep
from metarl.agents.gradient.maml import MAML
from metarl.agents.gradient.promp import ProMPConfig


@dataclass(frozen=True)
class MAMLPlusPlusConfig(ProMPConfig):
    """ProMP's inner and outer losses, and the paper's schedules."""

    inner_steps: Annotated[int, Range(0, 1e9)] = 3
    """Inner steps in training."""
    multi_step_iterations: Annotated[int, Range(0, 1e9)] = 15
    """Meta-updates until the loss weights of all steps but the last are 0."""
    first_order_iterations: Annotated[int, Range(0, 1e9)] = 10
    """Number of first meta-updates that leave second derivatives out."""
    schedule_iterations: Annotated[int, Range(1, 1e9)] = 100
    """Meta-updates until the learning rate reaches `lowest_outer_lr`."""
    lowest_outer_lr: Annotated[float, Range(0, 1e3)] = 1e-4
    """Adam's learning rate at the end of the schedule."""


class MAMLPlusPlus(MAML):
    """MAML++ is MAML with learned step sizes, a loss after every inner step, and training schedules."""

    name = "maml_pp"
    Config = MAMLPlusPlusConfig
    optimizer: AdamEpochs

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.updates = 0

    def make_step_sizes(self) -> SizePerTensorAndStep:
        """One learned size for every tensor and inner step."""
        return SizePerTensorAndStep(self.schedule, self.config.inner_steps)

    def make_outer_loss(self, post: Batch) -> ClippedLoss:
        """The weighted clipped surrogates after each step, and ProMP's KL penalty."""
        return ClippedLoss(self.config.clip, self.config.inner_kl_coef, self.step_weights())

    def make_optimizer(self) -> AdamEpochs:
        """Several gradient steps of Adam on the same samples."""
        return AdamEpochs(self.theta, self.config.outer_lr, self.config.outer_epochs)

    def meta_update(self, pre: list[Batch], post: Batch) -> dict[str, float]:
        """MAML's update, with the present values of the schedules."""
        self.inner.first_order = self.updates < self.config.first_order_iterations
        self.optimizer.set_learning_rate(rate := self.learning_rate())
        metrics = super().meta_update(pre, post)
        self.updates += 1
        return metrics | {"outer_lr": rate}

    def step_weights(self) -> list[float]:
        """Weights of the losses after 0, ..., K inner steps: at first equal for 1, ..., K, in the end 1 for K alone."""
        steps, until = self.config.inner_steps, self.config.multi_step_iterations
        if not steps:
            return [1.0]
        share = max(0.0, 1.0 - self.updates / until) / steps if until else 0.0
        return [0.0, *[share] * (steps - 1), 1.0 - (steps - 1) * share]

    def learning_rate(self) -> float:
        """Adam's learning rate, which falls along half a cosine."""
        cfg = self.config
        done = min(1.0, self.updates / cfg.schedule_iterations)
        return float(
            cfg.lowest_outer_lr + 0.5 * (cfg.outer_lr - cfg.lowest_outer_lr) * (1.0 + math.cos(math.pi * done))
        )

    def tensors(self) -> dict[str, Tensor]:
        """MAML's tensors, and the number of updates made."""
        return super().tensors() | {"updates": torch.tensor(self.updates)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        super().load_tensors(tensors)
        self.updates = int(tensors["updates"])
