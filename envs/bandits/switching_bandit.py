"""Switching bandits: Bernoulli arms whose hidden probabilities change several times within a trial.

The problem is that of Garivier and Moulines (2008, "On upper-confidence bound policies for non-stationary bandit
problems", arXiv:0805.3415, section 2); the constants are ours. One episode is a whole trial. What the agent has
learned in one segment misleads it in the next, so it must detect changes as well as explore. Later episodes of a task
repeat the task's segments. To make every change unforeseen, give an agent one episode per task.

Observation: the constant 0, `[1]`, so only rewards show that the arms have changed. With `signal` it is 1 before the
first pull of a new segment. Action: which arm. Reward: 1 with probability p[segment, arm], else 0. End: none before the
horizon of 100. Task: p, uniform on [0, 1], and the change points `when`, uniform on [0, 1]: pull t (from 0) is in
segment number #{i: when_i * horizon <= t}. Several changes before the same pull act as one change, which skips the
segments between them. Version history: v0, first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.envs.bandits.bernoulli_bandit import draw_arms
from metarl.errors import InvalidValueError
from metarl.families.distributions import Uniform
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class SwitchingBandit(TorchFamily):
    """A bandit with k independent arms, whose hidden probabilities all change several times within an episode.

    Args:
        k: number of arms.
        segments: number of segments of a trial, at least 2; each has its own probabilities.
        horizon: pulls per trial.
        signal: whether the observation shows a change.
    """

    source = "Garivier and Moulines 2008, arXiv:0805.3415"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"signal": {"signal": True}}
    observation_space = Box(0.0, 1.0, (1,), np.float32)
    terminates = False
    bandit = True  # agents that count pulls can play it

    def __init__(self, k: int = 5, segments: int = 3, horizon: int = 100, signal: bool = False) -> None:
        for name, value, least in (("k", k, 1), ("segments", segments, 2), ("horizon", horizon, 1)):
            if not (isinstance(value, int) and value >= least):
                raise InvalidValueError(f"SwitchingBandit.{name}", value, f"a whole number, at least {least}")
        self.k, self.segments, self.horizon, self.signal = k, segments, horizon, signal
        self.action_space = Discrete(k)
        self.task_space = {"p": Uniform(0.0, 1.0, (segments, k)), "when": Uniform(0.0, 1.0, (segments - 1,))}

    def segment(self, t: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The number of the segment of pull `t`, which is `int64 [N]` or `[N, T]`, in the same shape."""
        change = task["when"] * self.horizon  # the order of the change points does not matter
        return (change.view(len(change), *[1] * (t.dim() - 1), -1) <= t.unsqueeze(-1)).sum(-1)

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """The number of pulls made, `int64 [N]`: 0."""
        return torch.zeros_like(task["when"][:, 0], dtype=torch.int64)

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """0, or with `signal` 1 if the next pull is the first of a new segment: `[N, 1]`."""
        if not self.signal:
            return torch.zeros_like(task["when"][:, :1])
        new = (state > 0) & (self.segment(state, task) > self.segment(state - 1, task))
        return new.float().unsqueeze(1)

    def step(
        self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Pull arm `action`, `int64 [N]`."""
        p = task["p"][torch.arange(len(state), device=state.device), self.segment(state, task), action]
        reward = (rng.uniform() < p).float()
        return state + 1, reward, torch.zeros_like(reward, dtype=torch.bool), {"expected_reward": p}

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The best arm of the present segment."""
        return task["p"][torch.arange(len(state), device=state.device), self.segment(state, task)].argmax(-1)

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """Sums over all pulls of a trial: of the mean of the present arms (floor), and of the best one (optimum)."""
        task = tasks.tensors()
        pulls = torch.arange(self.horizon).expand(len(tasks), -1)
        segment = torch.nn.functional.one_hot(self.segment(pulls, task), self.segments)  # [N, horizon, segments]
        pulls_in = segment.sum(1).double()
        p = task["p"].double()
        return {
            "floor": (pulls_in * p.mean(-1)).sum(1).numpy(),
            "informed_optimum": (pulls_in * p.amax(-1)).sum(1).numpy(),
        }

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the present arms' probabilities, the best one in orange; below, a time line with all changes."""
        env = {k: torch.as_tensor(v)[None] for k, v in task.items()}
        draw_arms(axes, task["p"][int(self.segment(torch.as_tensor(state)[None], env)[0])])
        x = (-0.5 + self.k * task["when"], -0.5 + self.k * float(state) / self.horizon)
        axes.hlines(-0.2, -0.5, self.k - 0.5, color="0.6", linewidth=2)
        axes.plot(x[0], np.full_like(x[0], -0.2), "|", color="black", markersize=16, markeredgewidth=2)
        axes.plot(x[1], -0.2, "o", color="tab:green", markersize=10)
        axes.set_ylim(-0.35, 1.05)
