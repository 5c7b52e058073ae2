"""A shared trunk with a head for each train task: multi-task learning, then a new head for a new task.

Caruana (1997, "Multitask Learning", Machine Learning 28, 41-75, section 1): tasks that are learned together share the
hidden layers of a network, and each has an output layer of its own. What the tasks have in common is learned by all of
them. Here TRPO trains a policy on the mean return over a fixed set of train tasks. Row i of every meta-update is train
task i, and has head i. The standard deviation of continuous actions belongs to the trunk. A new task gets a new head,
the mean of the trained heads, and policy-gradient steps adapt it, or the whole network. The trunk was never trained for
these steps, so it shows what `anil` gains by meta-learning.

    metarl train shared_trunk --family metarl/PointNavigation-v0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from metarl.agent import (
    Batch,
    Family,
    FixedSizes,
    InnerLoop,
    InvalidValueError,
    MLPPolicy,
    Params,
    Rng,
    StepSizes,
    Trials,
    TrustRegionConfig,
)
from metarl.agents.gradient.config import SamplingConfig
from metarl.agents.gradient.maml import MAML

_HEADS = "heads."  # prefix of the trained heads among the meta-parameters


@dataclass(frozen=True)
class SharedTrunkConfig(TrustRegionConfig, SamplingConfig):
    """Hyperparameters of the trust region, and of the steps that adapt to a new task.

    `meta_batch_size` is the number of all train tasks: every meta-update plays each of them.
    """

    adapted: Literal["head", "all"] = "head"
    """What the steps in a new task adapt: the head, or all parameters."""


class NewHead(InnerLoop):
    """Adapts a network whose head is the mean of the trained heads."""

    def __init__(self, policy: MLPPolicy, sizes: StepSizes, tasks: int) -> None:
        super().__init__(policy, sizes)
        self.tasks = tasks

    def initial(self, rng: Rng) -> Params:
        """The trunk, and heads that are all alike, `heads.NAME` `[tasks, ...]`."""
        theta = self.policy.initial(rng)
        heads = {_HEADS + k: theta.pop(k).expand(self.tasks, *[-1] * n).clone() for k, n in self._axes().items()}
        return theta | heads

    def _axes(self) -> dict[str, int]:
        weight, bias = self.policy.last_layer
        return {weight: 2, bias: 1}

    def step_sizes(self, meta: Params, j: int) -> Params:
        """See `InnerLoop.step_sizes`. The sizes are fixed."""
        return self.sizes.at(j, self.start(meta, 1), {})

    def start(self, meta: Params, rows: int) -> Params:
        """The trunk and the mean head in each row."""
        new = {k.removeprefix(_HEADS): v.mean(0) if k.startswith(_HEADS) else v for k, v in meta.items()}
        return self.policy.start(new, rows)


class TrainedHeads(NewHead):
    """No adaptation: row i is train task i, with its own head."""

    def start(self, meta: Params, rows: int) -> Params:
        """The trunk in each row, and the heads."""
        trunk = {k: v for k, v in meta.items() if not k.startswith(_HEADS)}
        heads = {k.removeprefix(_HEADS): v for k, v in meta.items() if k.startswith(_HEADS)}
        return self.policy.start(trunk, rows) | heads

    def chunks(self, batch: Batch) -> list[slice]:
        """All rows together, so that each meets its own head."""
        return [slice(0, len(batch.x))]


class SharedTrunk(MAML):
    """A network with a head for each of a fixed set of train tasks; a new task gets a new head, which adapts."""

    name = "shared_trunk"
    Config: ClassVar[type[Any]] = SharedTrunkConfig
    fixed_tasks = True

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.trained = TrainedHeads(self.policy, self.inner.sizes, self.meta_batch_size)

    def make_step_sizes(self) -> FixedSizes:
        """One size for the head, or for all parameters."""
        return FixedSizes(self.schedule, self.policy.last_layer if self.config.adapted == "head" else None)

    def make_inner_loop(self, sizes: StepSizes) -> NewHead:
        """Policy-gradient steps from the mean head."""
        return NewHead(self.policy, sizes, self.meta_batch_size)

    def train_step(self, trials: Trials) -> dict[str, float]:
        """TRPO on the mean return of all train tasks, each played with its own head.

        Raises:
            InvalidValueError: the trials are not one of each train task.
        """
        if trials.rows != self.meta_batch_size:
            raise InvalidValueError("rows of the trials", trials.rows, f"{self.meta_batch_size}, one for each head")
        params = self.trained.start(self.theta, trials.rows)
        state = self.begin(trials.rows) | {k: v.clone() for k, v in params.items()}
        rollout, _ = trials.collect(self, state, 0, self.train_budget)
        batch = self.prepare(rollout)
        assert self.optimizer is not None
        self.theta, metrics = self.optimizer.update(self.trained, self.make_outer_loss(batch), self.theta, [], batch)
        return metrics | {"return_0": float(batch.mean_return.nanmean()), "failed_steps": 0.0}
