"""The baseline of fine-tuning: one policy trained on all tasks at once, then adapted by the same inner steps as MAML's.

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5) call it pretrained. Its training is TRPO on the mean return
over tasks, that is, MAML with no inner step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from metarl.agent import Range
from metarl.agents.gradient.maml import MAML, MAMLConfig


@dataclass(frozen=True)
class PretrainedConfig(MAMLConfig):
    """MAML's hyperparameters."""

    inner_steps: Annotated[int, Range(0, 1e9)] = 0
    """Inner steps in training."""


class Pretrained(MAML):
    """Multi-task TRPO, fine-tuned."""

    name = "pretrained"
    Config = PretrainedConfig
