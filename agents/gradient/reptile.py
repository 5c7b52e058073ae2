"""Reptile: the initial parameters move toward the adapted parameters.

Nichol, Achiam and Schulman (2018, arXiv:1803.02999, algorithm 2, the batched version). The meta-gradient is
theta - mean_i theta_i after K >= 2 inner policy-gradient steps; with K = 1 it is the gradient of the mean loss over
tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from metarl.agent import Range, Trials
from metarl.agents.gradient.config import SamplingConfig
from metarl.agents.gradient.maml import MAML, params_of


@dataclass(frozen=True)
class ReptileConfig(SamplingConfig):
    """Hyperparameters of MAML's inner loop, with more steps."""

    inner_steps: Annotated[int, Range(1, 1e9)] = 3
    """Inner steps in training."""
    outer_lr: Annotated[float, Range(0, 1)] = 0.5
    """Share of the way that theta moves toward the mean of the adapted parameters."""


class Reptile(MAML):
    """Reptile moves the initial parameters toward the mean of the parameters adapted to each task."""

    name = "reptile"
    Config = ReptileConfig

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Algorithm 2 on one batch of tasks. A task whose steps failed counts with its last finite parameters."""
        state, metrics = self.begin(trials.rows), {}
        for j in range(self.config.inner_steps):
            rollout, state = trials.collect(self, state, j, self.train_budget)
            metrics[f"return_{j}"] = float(rollout.mean_return().nanmean())
            state = self.adapt_on(self.prepare(rollout), state, trials)
        moved = {k: v.mean(0) - self.theta[k] for k, v in params_of(state).items()}
        self.theta = {k: v + self.config.outer_lr * moved[k] for k, v in self.theta.items()}
        metrics["distance"] = float(sum(v.square().sum() for v in moved.values())) ** 0.5
        return metrics | {"failed_steps": float(state["failed"].sum())}

    def make_optimizer(self) -> None:
        """None, because there is no meta-gradient."""

    @property
    def train_env_steps(self) -> int:
        """Environment steps of one meta-update: of the batches before each inner step."""
        cfg = self.config
        return int(cfg.meta_batch_size * cfg.episodes * self.family.horizon * cfg.inner_steps)
