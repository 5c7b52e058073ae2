"""The baseline of no meta-learning: MAML's inner steps from a random initialisation.

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
    """The policy and the inner steps, as MAML's."""


class Scratch(MAML):
    """A policy with random initial weights, adapted by policy-gradient steps. It does not learn across tasks."""

    name = "scratch"
    Config = ScratchConfig
    learns: ClassVar[bool] = False

    def make_optimizer(self) -> None:
        """None: it is not trained."""

    @property
    def train_env_steps(self) -> None:
        """None: it is not trained."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """None: the seed says all."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Nothing."""
        assert not tensors, "scratch has no tensors to load"
