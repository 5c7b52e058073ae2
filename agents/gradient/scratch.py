"""The baseline of no meta-learning: MAML's inner steps from a random initialisation.

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5) call it random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from metarl.agents.gradient.maml import MAML, MAMLConfig


@dataclass(frozen=True)
class ScratchConfig(MAMLConfig):
    """MAML's hyperparameters; those of the outer loop are not used."""


class Scratch(MAML):
    """Untrained, adapted."""

    name = "scratch"
    Config = ScratchConfig
    learns: ClassVar[bool] = False

    def tensors(self) -> dict[str, Tensor]:
        """None: the seed says all."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Nothing."""
        assert not tensors, "scratch has no tensors to load"
