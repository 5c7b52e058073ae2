"""Reptile: move the initialisation toward what tasks adapt it to.

Nichol, Achiam and Schulman (2018, arXiv:1803.02999, algorithm 2, the batched version). The meta-gradient is
theta - mean_i theta_i after K >= 2 inner policy-gradient steps; with K = 1 it is the gradient of the mean task.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

from metarl.agent import Budget, Range, Trials
from metarl.agents.gradient.config import MetaTrainingConfig
from metarl.agents.gradient.maml import MAML, params_of


@dataclass(frozen=True)
class ReptileConfig(MetaTrainingConfig):
    """MAML's inner loop, with more steps."""

    inner_steps: Annotated[int, Range(1, 1e9)] = 3
    """Inner steps in training."""
    outer_lr: Annotated[float, Range(0, 1)] = 0.5
    """How far theta moves toward the mean of the adapted parameters."""


class Reptile(MAML):
    """First-order meta-learning without a post-adaptation batch."""

    name = "reptile"
    Config = ReptileConfig
    config: ReptileConfig

    @property
    def train_env_steps(self) -> int:
        """MAML's, without the batch after the last inner step."""
        cfg = self.config
        return cfg.meta_batch_size * cfg.episodes * self.family.horizon * cfg.inner_steps

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Algorithm 2 on one batch of tasks; a task whose steps failed counts with the parameters that it has."""
        start, sampling, metrics = time.perf_counter(), 0.0, {}
        budget = Budget(envs=self.config.episodes, steps=self.family.horizon)
        state = self.begin(trials.rows)
        for j in range(self.config.inner_steps):
            before = self._now()
            rollout, state = trials.collect(self, state, j, budget)
            sampling += self._now() - before
            metrics[f"return_{j}"] = float(rollout.mean_return().nanmean())
            old, state = state, self.adapt(state, rollout)
            self.warn_of_failed(old, state, trials)
        moved = {k: v.mean(0) - self.theta[k] for k, v in params_of(state).items()}
        self.theta = {k: v + self.config.outer_lr * moved[k] for k, v in self.theta.items()}
        metrics["distance"] = float(sum(v.square().sum() for v in moved.values())) ** 0.5
        metrics["failed_steps"] = float(state["failed"].sum())
        metrics["seconds_sampling"] = sampling
        metrics["seconds_optimisation"] = self._now() - start - sampling
        return metrics
