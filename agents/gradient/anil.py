"""ANIL: almost no inner loop. Only the policy's last layer is adapted; the features below are meta-learned.

Raghu, Raghu, Bengio and Vinyals (2020, arXiv:1909.09157, section 4). The standard deviation belongs to the body.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl.agent import FixedSizes, TrustRegionConfig
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class ANILConfig(TrustRegionConfig, MetaGradientConfig):
    """The inner loop, and the trust region of the outer one."""


class ANIL(MAML):
    """MAML whose inner steps move the policy's last layer alone."""

    name = "anil"
    Config = ANILConfig

    def make_step_sizes(self) -> FixedSizes:
        """One number for the last layer's weights and biases; all else stays."""
        return FixedSizes(self.schedule, self.policy.last_layer)
