"""CAVIA: inner steps adapt a few context parameters, which are inputs of the policy; all tasks share the network.

Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson (2019, arXiv:1810.03642, section 3.3). The context begins at 0 in every
task. The inner loop takes gradient steps on the context, and TRPO trains the network through these steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from metarl.agent import FixedSizes, MLPPolicy, Range, TrustRegionConfig
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class CAVIAConfig(TrustRegionConfig, MetaGradientConfig):
    """Hyperparameters of the inner loop and of the trust region.

    Inner steps are larger than MAML's, because the gradient of a small context is small.
    """

    inner_lr: Annotated[float, Range(0, 1e3)] = 10.0
    """Size of the first inner step."""
    context: Annotated[int, Range(1, 1e6)] = 5
    """Number of context parameters."""


class CAVIA(MAML):
    """CAVIA is MAML whose inner steps adapt only a few context inputs of the policy."""

    name = "cavia"
    Config = CAVIAConfig

    def make_policy(self) -> MLPPolicy:
        """A network that sees the observation and the context."""
        c = self.config
        return MLPPolicy(self.family, self.name, c.hidden, c.activation, c.final_gain, c.log_std, context=c.context)

    def make_step_sizes(self) -> FixedSizes:
        """One size for the context; no other parameter is adapted."""
        return FixedSizes(self.schedule, ("context",))
