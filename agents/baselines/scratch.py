"""The baseline without meta-learning: MAML's inner steps from random initial parameters.

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5) call it random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from metarl.agents.gradient.config import AdaptationConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class ScratchConfig(AdaptationConfig):
    """Hyperparameters of MAML's policy and inner steps."""


class Scratch(MAML):
    """A policy with random initial parameters adapts by policy-gradient steps; nothing is meta-trained."""

    name = "scratch"
    Config = ScratchConfig
    learns: ClassVar[bool] = False

    def make_optimizer(self) -> None:
        """None, because the agent is not trained."""

    @property
    def train_env_steps(self) -> None:
        """None, because the agent is not trained."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """No tensors, because the seed determines the parameters."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load nothing."""
        assert not tensors, "scratch has no tensors to load"
