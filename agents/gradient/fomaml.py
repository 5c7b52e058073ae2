"""First-order MAML: the gradient at the adapted parameters, as if they did not depend on where adaptation began.

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.2); Nichol, Achiam and Schulman (2018, arXiv:1803.02999).
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl.agents.gradient.maml import MAML, MAMLConfig


@dataclass(frozen=True)
class FOMAMLConfig(MAMLConfig):
    """MAML's hyperparameters."""

    first_order: bool = True
    """Drop the second derivatives."""


class FOMAML(MAML):
    """MAML with inner Hessians taken for 0, in the meta-gradient and in the Fisher matrix."""

    name = "fomaml"
    Config = FOMAMLConfig
