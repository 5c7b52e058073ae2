"""MAML++: MAML made easier to train, by learned step sizes, a loss after every step, and schedules.

Antoniou, Edwards and Storkey (2019, arXiv:1810.09502, section 4): one inner step size per tensor and step (LSLR), the
multi-step loss (MSL) whose weight moves to the last step, first-order gradients to begin with (DA), and a cosine
schedule of Adam's learning rate (CA). The paper is about classification; here the losses are PPO's clipped surrogates
of the policies after each step, on the samples that these policies took. (Batch normalisation has no counterpart.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from metarl.agent import Distribution, Family, Params, Range, Rng
from metarl.agents.gradient.promp import ProMP, ProMPConfig
from metarl.learning.policy_gradient import Batch


@dataclass(frozen=True)
class MAMLPlusPlusConfig(ProMPConfig):
    """ProMP's inner and outer losses, and the paper's schedules."""

    inner_steps: Annotated[int, Range(0, 1e9)] = 3
    """Inner steps in training."""
    multi_step_iterations: Annotated[int, Range(0, 1e9)] = 15
    """Meta-updates until the weight of the steps before the last is gone."""
    first_order_iterations: Annotated[int, Range(0, 1e9)] = 10
    """Meta-updates without second derivatives at the beginning."""
    schedule_iterations: Annotated[int, Range(1, 1e9)] = 100
    """Meta-updates until the learning rate reaches its lowest."""
    lowest_outer_lr: Annotated[float, Range(0, 1e3)] = 1e-4
    """Adam's learning rate at the end of the schedule."""


class MAMLPlusPlus(ProMP):
    """MAML++ for policies."""

    name = "maml_pp"
    Config = MAMLPlusPlusConfig
    config: MAMLPlusPlusConfig

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.updates = 0

    def initial(self, rng: Rng) -> Params:
        """Theta, and for each of its tensors the size of every inner step."""
        theta, steps = super().initial(rng), max(1, self.config.inner_steps)
        sizes = torch.tensor([self.inner_lr(j) for j in range(steps)])
        return theta | {f"alpha.{k}": sizes.clone() for k in theta}

    def start(self, meta: Params, rows: int) -> Params:
        """Theta for each row."""
        return super().start({k: v for k, v in meta.items() if not k.startswith("alpha.")}, rows)

    def step_sizes(self, meta: Params, j: int) -> Params:
        """The learned sizes of step j; steps beyond those trained are like the last of them."""
        at = min(j, max(1, self.config.inner_steps) - 1)
        return {k.removeprefix("alpha."): v[at] for k, v in meta.items() if k.startswith("alpha.")}

    @property
    def first_order(self) -> bool:
        """True for the first meta-updates."""
        return self.updates < self.config.first_order_iterations

    def step_weight(self, j: int) -> float:
        """Of the loss after j inner steps, 1 <= j <= K: equal at first, all on the last step in the end."""
        steps, until = self.config.inner_steps, self.config.multi_step_iterations
        share = max(0.0, 1.0 - self.updates / until) / max(1, steps) if until else 0.0
        return 1.0 - (steps - 1) * share if j == steps else share

    def outer_loss(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """Each step's clipped surrogate by its weight, and ProMP's KL penalty."""
        if last:
            return self.step_weight(j) * self.clipped(policy, batch, old) if j else self.clipped(policy, batch, old)
        penalty = super().outer_loss(j, policy, batch, old, last)
        return penalty + (self.step_weight(j) * self.clipped(policy, batch, old) if j else 0.0)

    def meta_update(self, pre: list[Batch], post: Batch) -> dict[str, float]:
        """ProMP's, by the schedules."""
        cfg = self.config
        done = min(1.0, self.updates / cfg.schedule_iterations)
        lr = cfg.lowest_outer_lr + 0.5 * (cfg.outer_lr - cfg.lowest_outer_lr) * (1.0 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        metrics = super().meta_update(pre, post)
        self.updates += 1
        return metrics | {"outer_lr": lr}

    def tensors(self) -> dict[str, Tensor]:
        """ProMP's, and how many updates were made."""
        return super().tensors() | {"updates": torch.tensor(self.updates)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """ProMP's, and how many updates were made."""
        super().load_tensors(tensors)
        if "updates" in tensors:  # absent where a failed update is undone
            self.updates = int(tensors["updates"])
