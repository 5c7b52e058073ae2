"""Gaussian bandits, and a deceptive one: k arms that pay normally distributed rewards around unknown means.

Gaussian bandit: the 10-armed testbed of Sutton and Barto (2018, "Reinforcement Learning: An Introduction", section
2.3). Preset "first_explore": the control domain of Norman and Clune (2023, "First-Explore", arXiv:2307.02276), with
noise of .5; a trial there is 100 pulls.

Deceptive bandit: the "bandits with one fixed arm" of Norman and Clune, with the constants of the authors' published
code. Arm 0 always pays .5; the nine others pay N(mean, .5^2) with means drawn from N(0, 1). It is deceptive because
exploring costs before it earns: whoever has not yet learnt to use what exploration finds earns .5 a pull from the safe
arm and 0 on average from any other, so learning that follows reward leads away from exploration. Trying one arm once
and keeping to the better of it and the safe arm pays only in trials of 5 pulls or more. Yet exploring is far better:
in 100 pulls the safe arm earns 50, one pull of every other arm and then the best of all about 121. Preset
"control": a safe arm that pays 0 and deceives nobody.

Both: observation: the constant 0, `[1]`. Action: which arm. Reward: mean[arm] plus noise (none from the safe arm). End:
every pull terminates its episode. Task: the means of the (other) arms. Version history: v0, first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.families.distributions import Normal
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng


class GaussianBandit(TorchFamily):
    """k independent arms whose rewards are normal.

    Args:
        k: number of arms.
        mean_std: standard deviation of the arms' means over tasks.
        noise_std: standard deviation of a reward around its arm's mean.
    """

    source = "Sutton and Barto 2018, section 2.3"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"first_explore": {"noise_std": 0.5}}
    observation_space = Box(0.0, 1.0, (1,), np.float32)
    horizon = 1

    def __init__(self, k: int = 10, mean_std: float = 1.0, noise_std: float = 1.0) -> None:
        _check("GaussianBandit", k, 1, mean_std, noise_std)
        self.k, self.mean_std, self.noise_std = k, mean_std, noise_std
        self.action_space = Discrete(k)
        self.task_space = {"mean": Normal(0.0, mean_std, (k,))}

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """The constant observation, `[N, 1]`."""
        return torch.zeros_like(task["mean"][:, :1])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """Nothing to see."""
        return state

    def step(
        self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Pull arm `action`, `int64 [N]`."""
        mean = task["mean"].gather(1, action.unsqueeze(1)).squeeze(1)
        reward = mean + self.noise_std * rng.normal()
        return state, reward, torch.ones_like(mean, dtype=torch.bool), {"expected_reward": mean}

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The best arm."""
        return task["mean"].argmax(-1)

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """One pull: the mean of the arms, and the best of them."""
        mean = tasks.values["mean"].astype(np.float64)
        return {"floor": mean.mean(1), "informed_optimum": mean.max(1)}

    def bayes_optimal_return(self, episodes: int) -> float | None:
        """Exact where nothing can be learnt in time: the prior mean, 0. No exact value is known otherwise."""
        return 0.0 if episodes == 1 or self.k == 1 else None

    def draw(self, axes: Any, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """The arms' means, the best one's in orange, and a standard deviation of their rewards to either side."""
        _draw(axes, task["mean"], np.full(self.k, self.noise_std), 3.0 * self.mean_std + self.noise_std)


class DeceptiveBandit(TorchFamily):
    """A safe arm 0 of known pay, and k - 1 unknown arms that are worse on average and better at best.

    Args:
        k: number of arms, the safe one included.
        safe: what arm 0 pays, without noise.
        mean_std: standard deviation of the other arms' means over tasks.
        noise_std: standard deviation of their rewards.
    """

    source = "Norman and Clune 2023, arXiv:2307.02276"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"control": {"safe": 0.0}}
    observation_space = Box(0.0, 1.0, (1,), np.float32)
    horizon = 1

    def __init__(self, k: int = 10, safe: float = 0.5, mean_std: float = 1.0, noise_std: float = 0.5) -> None:
        _check("DeceptiveBandit", k, 2, mean_std, noise_std)
        if not math.isfinite(safe):
            raise InvalidValueError("DeceptiveBandit.safe", safe, "a finite reward")
        self.k, self.safe, self.mean_std, self.noise_std = k, safe, mean_std, noise_std
        self.action_space = Discrete(k)
        self.task_space = {"mean": Normal(0.0, mean_std, (k - 1,))}

    def means(self, task: dict[str, Tensor]) -> Tensor:
        """Of all arms, the safe one first: `[N, k]`."""
        return torch.cat([torch.full_like(task["mean"][:, :1], self.safe), task["mean"]], 1)

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """The constant observation, `[N, 1]`."""
        return torch.zeros_like(task["mean"][:, :1])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """Nothing to see."""
        return state

    def step(
        self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Pull arm `action`, `int64 [N]`."""
        mean = self.means(task).gather(1, action.unsqueeze(1)).squeeze(1)
        reward = mean + self.noise_std * (action > 0) * rng.normal()
        return state, reward, torch.ones_like(mean, dtype=torch.bool), {"expected_reward": mean}

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The best arm."""
        return self.means(task).argmax(-1)

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """One pull: the mean of the arms, and the best of them."""
        mean = self.means(tasks.tensors()).double().numpy()
        return {"floor": mean.mean(1), "informed_optimum": mean.max(1)}

    def bayes_optimal_return(self, episodes: int) -> float | None:
        """Exact for a single pull: the better of the safe arm and the prior mean, 0. Not known otherwise."""
        return max(self.safe, 0.0) if episodes == 1 else None

    def draw(self, axes: Any, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """As in `GaussianBandit`, the safe arm (left) with a line at what it pays."""
        means = np.concatenate([[self.safe], task["mean"]])
        noise = np.concatenate([[0.0], np.full(self.k - 1, self.noise_std)])
        _draw(axes, means, noise, max(3.0 * self.mean_std + self.noise_std, abs(self.safe)))
        axes.axhline(self.safe, color="tab:green", linewidth=1.5, linestyle="--")


def _draw(axes: Any, means: npt.NDArray[Any], noise: npt.NDArray[Any], reach: float) -> None:
    """Bars of means `[k]` up or down from 0, the highest in orange, and standard deviations `[k]` around them."""
    color = ["tab:orange" if i == means.argmax() else "tab:blue" for i in range(len(means))]
    axes.bar(range(len(means)), means, color=color)
    axes.vlines(range(len(means)), means - noise, means + noise, color="0.3", linewidth=2)
    axes.axhline(0.0, color="0.6", linewidth=1)
    axes.set(xlim=(-0.6, len(means) - 0.4), ylim=(-reach, reach), aspect="auto")


def _check(name: str, k: int, least: int, mean_std: float, noise_std: float) -> None:
    if not (isinstance(k, int) and k >= least):
        raise InvalidValueError(f"{name}.k", k, f"a whole number of arms, at least {least}")
    if not 0 < mean_std < math.inf:
        raise InvalidValueError(f"{name}.mean_std", mean_std, "a positive number")
    if not 0 <= noise_std < math.inf:
        raise InvalidValueError(f"{name}.noise_std", noise_std, "0 or a positive number")
