"""iMAML: the meta-gradient of a regularised inner problem, from its solution alone.

Rajeswaran, Finn, Kakade and Levine (2019, arXiv:1909.04630, algorithms 1 and 2). The adapted parameters minimise a
task's loss plus lambda / 2 |theta' - theta|^2. The implicit function theorem gives the derivative of the solution, so
the memory of a meta-update does not grow with the number of steps that led to it (`metarl.learning.gradient.implicit`).

The paper and its code are about supervised learning. Here the inner problem is that of one rollout: an adaptation step
takes `solver_steps` gradient steps on the same samples, and the loss has importance ratios (LVC), because all steps but
the first are at other parameters than those that sampled. Each further adaptation step poses the problem of its own
rollout, with the pull towards the parameters that sampled it. TRPO follows the implicit gradient; the training loop is
`MAML.train_step`. The authors' code pulls once, after all its steps; here every step pulls, as in equation 3.

    metarl train imaml --family metarl/PointNavigation-v0
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from metarl.agent import (
    ImplicitObjective,
    InvalidValueError,
    ProximalLoop,
    Range,
    StepSizes,
    TrustRegion,
    TrustRegionConfig,
)
from metarl.agents.gradient.config import SamplingConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class IMAMLConfig(TrustRegionConfig, SamplingConfig):
    """Hyperparameters of the inner problem, of the system for its derivative, and of the trust region."""

    inner_lr: Annotated[float, Range(0, 1e3)] = 0.1
    """Size of the gradient steps on the first rollout."""
    inner_lr_schedule: tuple[Annotated[float, Range(0, 1e3)], ...] = (1.0, 0.5)
    """Factors on the sizes in adaptation step 1, 2, ...; all later ones use the last factor."""
    inner_steps: Annotated[int, Range(1, 1e9)] = 1
    """Adaptation steps in training, each with a rollout of its own; in evaluation, the option k sets their number."""
    solver_steps: Annotated[int, Range(1, 1e6)] = 5
    """Gradient steps on one rollout (16 in the authors' code)."""
    proximal_coef: Annotated[float, Range(1e-6, 1e9)] = 8.0
    """Lambda, the weight of the squared distance to the parameters that sampled. It was chosen on train tasks of 2-D
    navigation, where the problem of 2 (the authors' example) has solutions far from theta."""
    implicit_cg_iterations: Annotated[int, Range(1, 1e4)] = 5
    """Conjugate gradient iterations for the meta-gradient (the authors' code)."""
    implicit_damping: Annotated[float, Range(0, 1e9)] = 22.0
    """Added to lambda in I + H / lambda; 0 is exact. The authors' code solves 2 I + H / (lambda + 10), which for their
    lambda of 2 is a damping of 22."""


class IMAML(MAML):
    """iMAML solves a regularised problem in each task and differentiates its solution implicitly."""

    name = "imaml"
    Config = IMAMLConfig

    def make_inner_loop(self, sizes: StepSizes) -> ProximalLoop:
        """Gradient steps on the loss of a rollout and the pull towards the initial parameters."""
        return ProximalLoop(self.policy, sizes, self.config.proximal_coef, self.config.solver_steps)

    def make_optimizer(self) -> TrustRegion:
        """TRPO with the implicit gradient."""
        c = self.config
        objective = partial(ImplicitObjective, iterations=c.implicit_cg_iterations, damping=c.implicit_damping)
        return TrustRegion(c, objective)

    def _check(self) -> None:
        super()._check()
        c = self.config
        if (pull := c.inner_lr * max(c.inner_lr_schedule) * c.proximal_coef) >= 2:
            expected = f"below 2 / (inner_lr * its largest factor), or the pull diverges (their product is {pull:g})"
            raise InvalidValueError("imaml.proximal_coef", c.proximal_coef, expected)
