"""Meta-SGD: the inner step has a learned size and sign for every parameter.

Li, Zhou, Chen and Li (2017, arXiv:1707.09835, algorithm 2). The sizes begin at `inner_lr` and are meta-parameters. The
meta-gradient, the trust region and the line search treat them like the initial parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl.agent import SizePerParameter, TrustRegionConfig
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class MetaSGDConfig(TrustRegionConfig, MetaGradientConfig):
    """Hyperparameters of the inner loop and of the trust region. All step sizes begin at `inner_lr`."""


class MetaSGD(MAML):
    """Meta-SGD is MAML that also learns the size of the inner step for every parameter."""

    name = "meta_sgd"
    Config = MetaSGDConfig

    def make_step_sizes(self) -> SizePerParameter:
        """One learned size for every parameter, multiplied by the schedule's factors."""
        return SizePerParameter(self.schedule)
