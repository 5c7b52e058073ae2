"""CAVIA: adaptation of a few context parameters that are given to the policy as an input; the network is shared.

Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson (2019, arXiv:1810.03642, section 3.3). The context begins at 0 in every
task; its gradient step is the inner loop, and the network is trained by TRPO through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from metarl.agent import FixedSizes, MLPPolicy, Range, TrustRegionConfig
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class CAVIAConfig(TrustRegionConfig, MetaGradientConfig):
    """MAML's, with larger inner steps: a context of a few numbers has a small gradient."""

    inner_lr: Annotated[float, Range(0, 1e3)] = 10.0
    """Size of the first inner step."""
    context: Annotated[int, Range(1, 1e6)] = 5
    """Context parameters."""


class CAVIA(MAML):
    """MAML whose inner steps move a few inputs of the policy alone (fast context adaptation)."""

    name = "cavia"
    Config = CAVIAConfig

    def make_policy(self) -> MLPPolicy:
        """A network that sees the observation and the context."""
        c = self.config
        return MLPPolicy(self.family, self.name, c.hidden, c.activation, c.final_gain, c.log_std, context=c.context)

    def make_step_sizes(self) -> FixedSizes:
        """One number for the context alone."""
        return FixedSizes(self.schedule, ("context",))
