"""The baseline of fine-tuning: one policy trained on all tasks at once, then adapted by the same inner steps as MAML's.

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5) call it pretrained. Its training is TRPO on the mean return
over tasks, that is, MAML with no inner step.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl.agent import TrustRegionConfig
from metarl.agents.gradient.config import SamplingConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class PretrainedConfig(TrustRegionConfig, SamplingConfig):
    """The trust region of the training; the inner steps are taken in evaluation alone."""


class Pretrained(MAML):
    """One policy trained on all tasks at once by TRPO, then fine-tuned to each."""

    name = "pretrained"
    Config = PretrainedConfig
