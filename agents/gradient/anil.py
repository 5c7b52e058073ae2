"""ANIL: almost no inner loop. Only the policy's last layer is adapted; the features below are meta-learned.

Raghu, Raghu, Bengio and Vinyals (2020, arXiv:1909.09157, section 4). The standard deviation belongs to the body.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl.agent import Params
from metarl.agents.gradient.maml import MAML, MAMLConfig


@dataclass(frozen=True)
class ANILConfig(MAMLConfig):
    """MAML's hyperparameters."""


class ANIL(MAML):
    """MAML whose inner steps move the head alone."""

    name = "anil"
    Config = ANILConfig

    def step_sizes(self, meta: Params, j: int) -> Params:
        """alpha_j for the last layer's weights and biases; all else stays."""
        last = len(self.config.hidden)
        return {k: v for k, v in super().step_sizes(meta, j).items() if k in (f"w{last}", f"b{last}")}
