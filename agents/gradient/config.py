"""Hyperparameters that gradient-based agents share. Each agent adds its own and has none that it does not use.

The defaults are those of the MAML paper for 2-D navigation (Finn, Abbeel and Levine 2017, arXiv:1703.03400), except
`final_gain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from metarl.agent import Range


@dataclass(frozen=True)
class AdaptationConfig:
    """The policy, and the inner steps that adapt it."""

    # Agents without these options use these constants; other agents make them fields.
    inner_steps = 0
    estimator = "naive"
    multi_step = False
    inner_l2 = 0.0

    inner_lr: Annotated[float, Range(0, 1e3)] = 0.5
    """Size of the first inner step (Finn et al. 2017 use 0.1 for MuJoCo tasks)."""
    inner_lr_schedule: tuple[Annotated[float, Range(0, 1e3)], ...] = (1.0, 0.5)
    """Factors on the sizes of inner step 1, 2, ...; all later steps use the last factor (Finn et al. halve)."""
    eval_steps: Annotated[int, Range(1, 1e9)] = 4000
    """Largest number of environment steps that one adaptation step uses in evaluation. They are split evenly over
    `eval_steps // horizon` environments, at least one; the last episode of each may be cut off."""
    hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (100, 100)
    """Widths of the policy's hidden layers."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation function between the layers: "relu" or "tanh"."""
    final_gain: Annotated[float, Range(0, 1e3)] = 0.01
    """Factor on the last layer's initial weights. Near 0, the mean action of the first policy is near 0 (Finn et al.
    2017 use 1, from which some seeds never recover)."""
    log_std: Annotated[float, Range(-20, 20)] = 0.0
    """Initial logarithm of the action's standard deviation, for Box actions in [-1, 1]."""
    discount: Annotated[float, Range(0, 1)] = 0.99
    """Discount factor gamma of the advantages."""
    gae_lambda: Annotated[float, Range(0, 1)] = 1.0
    """Lambda of generalised advantage estimation."""


@dataclass(frozen=True)
class SamplingConfig(AdaptationConfig):
    """How much data a meta-update samples."""

    meta_batch_size: Annotated[int, Range(1, 1e9)] = 40
    """Train tasks per meta-update."""
    episodes: Annotated[int, Range(1, 1e9)] = 20
    """Environments per task, before and after each inner step. Each is played for `horizon` steps: as many episodes, or
    more where episodes end early."""


@dataclass(frozen=True)
class MetaGradientConfig(SamplingConfig):
    """The inner steps that a meta-gradient differentiates through."""

    inner_steps: Annotated[int, Range(0, 1e9)] = 1
    """Inner steps in training; in evaluation, the option k sets their number."""
    estimator: Literal["naive", "lvc", "dice", "loaded_dice"] = "naive"
    """Inner loss: naive (the code of Finn et al. 2017), lvc, dice or loaded_dice; see docs/gradients.md."""
    inner_l2: Annotated[float, Range(0, 1e6)] = 0.0
    """Weight of half the squared distance to the initial parameters in the inner loss; it matters from the second inner
    step on."""
