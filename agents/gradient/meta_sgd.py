"""Meta-SGD: the inner step has a learned size, and sign, for every parameter.

Li, Zhou, Chen and Li (2017, arXiv:1707.09835, algorithm 2). The sizes begin at `inner_lr` and are meta-parameters: the
meta-gradient, the trust region and the line search see them as they see the initialisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metarl.agent import Params, Rng
from metarl.agents.gradient.maml import MAML, MAMLConfig


@dataclass(frozen=True)
class MetaSGDConfig(MAMLConfig):
    """MAML's hyperparameters; `inner_lr` is where the step sizes begin."""


class MetaSGD(MAML):
    """MAML with alpha a vector as long as theta."""

    name = "meta_sgd"
    Config = MetaSGDConfig

    def initial(self, rng: Rng) -> Params:
        """Theta, and a step size for each of its numbers."""
        theta = super().initial(rng)
        return theta | {f"alpha.{k}": torch.full_like(v, self.config.inner_lr) for k, v in theta.items()}

    def start(self, meta: Params, rows: int) -> Params:
        """Theta for each row."""
        return super().start({k: v for k, v in meta.items() if not k.startswith("alpha.")}, rows)

    def step_sizes(self, meta: Params, j: int) -> Params:
        """The learned sizes, by the schedule."""
        factors = self.config.inner_lr_schedule
        factor = factors[min(j, len(factors) - 1)]
        return {k.removeprefix("alpha."): factor * v for k, v in meta.items() if k.startswith("alpha.")}
