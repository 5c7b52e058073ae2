"""ANIL: almost no inner loop. Inner steps adapt only the policy's last layer; the layers below are meta-learned.

Raghu, Raghu, Bengio and Vinyals (2020, arXiv:1909.09157, section 4). The standard deviation is
meta-learned too.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl.agent import FixedSizes, TrustRegionConfig
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class ANILConfig(TrustRegionConfig, MetaGradientConfig):
    """Hyperparameters of the inner loop and of the trust region."""


class ANIL(MAML):
    """ANIL is MAML whose inner steps adapt only the last layer of the policy."""

    name = "anil"
    Config = ANILConfig

    def make_step_sizes(self) -> FixedSizes:
        """One size for the last layer's weights and biases; no other parameter is adapted."""
        return FixedSizes(self.schedule, self.policy.last_layer)
