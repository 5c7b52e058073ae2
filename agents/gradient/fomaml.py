"""First-order MAML: the outer gradient is taken at the adapted parameters and applied to the initial parameters.

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.2); Nichol, Achiam and Schulman (2018, arXiv:1803.02999).
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl.agent import TrustRegionConfig
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class FOMAMLConfig(TrustRegionConfig, MetaGradientConfig):
    """Hyperparameters of the inner loop and of the trust region."""


class FOMAML(MAML):
    """First-order MAML leaves second derivatives out of the meta-gradient and of the Fisher matrix."""

    name = "fomaml"
    Config = FOMAMLConfig
    first_order = True
