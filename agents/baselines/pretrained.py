"""The fine-tuning baseline: one policy is trained on all tasks at once, then adapted by the same inner steps as MAML's.

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5) call it pretrained. TRPO trains the policy on the mean
return over tasks, which is MAML with no inner step.
"""

from __future__ import annotations

from dataclasses import dataclass

from metarl.agent import TrustRegionConfig
from metarl.agents.gradient.config import SamplingConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class PretrainedConfig(TrustRegionConfig, SamplingConfig):
    """Hyperparameters of the trust region, and of the inner steps, which only evaluation takes."""


class Pretrained(MAML):
    """One policy is trained by TRPO on all tasks at once, then fine-tuned to each task."""

    name = "pretrained"
    Config = PretrainedConfig
