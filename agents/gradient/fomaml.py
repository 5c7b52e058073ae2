"""First-order MAML: the gradient at the adapted parameters, as if they did not depend on where adaptation began.

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.2); Nichol, Achiam and Schulman (2018, arXiv:1803.02999).
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl.agent import TrustRegionConfig
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class FOMAMLConfig(TrustRegionConfig, MetaGradientConfig):
    """The inner loop, and the trust region of the outer one."""


class FOMAML(MAML):
    """MAML without second derivatives, neither in the meta-gradient nor in the Fisher matrix."""

    name = "fomaml"
    Config = FOMAMLConfig
    first_order = True
