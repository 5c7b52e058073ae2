"""Meta-SGD: the inner step has a learned size, and sign, for every parameter.

Li, Zhou, Chen and Li (2017, arXiv:1707.09835, algorithm 2). The sizes begin at `inner_lr` and are meta-parameters: the
meta-gradient, the trust region and the line search see them as they see the initialisation.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl.agent import SizePerParameter, TrustRegionConfig
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class MetaSGDConfig(TrustRegionConfig, MetaGradientConfig):
    """MAML's; `inner_lr` is where the step sizes begin."""


class MetaSGD(MAML):
    """MAML that also learns a step size for every parameter."""

    name = "meta_sgd"
    Config = MetaSGDConfig

    def make_step_sizes(self) -> SizePerParameter:
        """Learned, and multiplied by the schedule's factors."""
        return SizePerParameter(self.schedule)
