"""ReBAL: GrBAL with a recurrent network that reads the last transitions in place of a gradient step on them.

Nagabandi et al. (2019, arXiv:1803.11347, section 4.2). A GRU reads the last `past_steps` transitions before every
action, and the model is given what it has read.

    metarl train rebal --family metarl/PointNavigation-v0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from metarl.agent import InvalidValueError, Range, RecurrentModel, Rng
from metarl.agents.model_based.grbal import GrBAL, ModelConfig


@dataclass(frozen=True)
class ReBALConfig(ModelConfig):
    """Hyperparameters of the model and of planning."""

    context: Annotated[int, Range(1, 1024)] = 64
    """Units of the GRU."""


class ReBAL(GrBAL):
    """Plans with a model of the task that is given what a recurrent network has read in the last transitions."""

    name = "rebal"
    Config = ReBALConfig

    def make_model(self, rng: Rng) -> RecurrentModel:
        """The model, with initial weights drawn by `rng`.

        Raises:
            InvalidValueError: the model has no hidden layer, which would be given what the recurrent network has read.
        """
        if not self.config.hidden:
            raise InvalidValueError(f"{self.name}.hidden", (), "at least one width")
        return RecurrentModel(self.layout, self.config.hidden, self.config.context, rng)
