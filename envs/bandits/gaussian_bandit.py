"""Gaussian bandits and a deceptive bandit: k arms pay normally distributed rewards around hidden means.

Gaussian bandit: the 10-armed testbed of Sutton and Barto (2018, "Reinforcement Learning: An Introduction", section
2.3). Preset "first_explore": the control domain of Norman and Clune (2023, "First-Explore", arXiv:2307.02276), with
noise of .5; a trial there is 100 pulls.

Deceptive bandit: the "bandits with one fixed arm" of Norman and Clune, with the constants of the authors' published
code. Arm 0 always pays .5; the nine others pay N(mean, .5^2) with means drawn from N(0, 1). It is deceptive because
exploration costs before it earns. An agent that has not yet learned to use what exploration finds earns .5 per pull
from the safe arm and 0 on average from any other, so reward leads its learning away from exploration. To try one arm
once and then keep to the better of it and the safe arm pays only in trials of 5 pulls or more. Yet exploration is far
better: in 100 pulls the safe arm earns 50; one pull of every other arm, and then the best of all arms, earn about 121.
Preset "control": a safe arm that pays 0, so that the bandit is not deceptive.

Both: observation: the constant 0, `[1]`. Action: which arm. Reward: mean[arm] plus noise (none from the safe arm). End:
every pull terminates its episode. Task: the means of the (other) arms. Version history: v0, first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.envs.bandits.bernoulli_bandit import pulls_of_each
from metarl.errors import InvalidValueError
from metarl.families.distributions import Normal
from metarl.families.family import History, Queries, TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class GaussianBandit(TorchFamily):
    """A bandit with k independent arms, whose rewards are normal around hidden means.

    Args:
        k: number of arms.
        mean_std: standard deviation of the arms' means over tasks.
        noise_std: standard deviation of a reward around its arm's mean.
    """

    source = "Sutton and Barto 2018, section 2.3"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"first_explore": {"noise_std": 0.5}}
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
        """The constant observation, `[N, 1]`."""
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
        """The floor is the mean of the arms, and the informed optimum the best arm, for one pull."""
        mean = tasks.values["mean"].astype(np.float64)
        return {"floor": mean.mean(1), "informed_optimum": mean.max(1)}

    def bayes_optimal_return(self, episodes: int) -> float | None:
        """The prior mean, 0, if the agent can learn nothing of use; otherwise no exact value is known."""
        return 0.0 if episodes == 1 or self.k == 1 else None

    def prior(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each arm: its mean's mean and standard deviation over tasks, and that of its rewards; `[k]` each."""
        one = torch.ones(self.k)
        return 0.0 * one, self.mean_std * one, self.noise_std * one

    def queries(self) -> Queries:
        """A pull of each arm."""
        return pulls_of_each(self.k)

    def posterior(self, seen: History) -> Tensor:
        """The means of the normal distributions of the arms' means; see `posterior_means`."""
        return posterior_means(self.prior(), seen)

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the arms' means, the best one in orange, with a standard deviation of their rewards to both sides."""
        _draw(axes, task["mean"], np.full(self.k, self.noise_std), 3.0 * self.mean_std + self.noise_std)


class DeceptiveBandit(TorchFamily):
    """A bandit with one safe arm and k - 1 hidden arms, which are worse on average and better at best.

    Args:
        k: number of arms, the safe one included.
        safe: reward of arm 0, without noise.
        mean_std: standard deviation of the other arms' means over tasks.
        noise_std: standard deviation of their rewards.
    """

    source = "Norman and Clune 2023, arXiv:2307.02276"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"control": {"safe": 0.0}}
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
        """The means of all arms, the safe one first: `[N, k]`."""
        return torch.cat([torch.full_like(task["mean"][:, :1], self.safe), task["mean"]], 1)

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """The constant observation, `[N, 1]`."""
        return torch.zeros_like(task["mean"][:, :1])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The constant observation, `[N, 1]`."""
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
        """The floor is the mean of the arms, and the informed optimum the best arm, for one pull."""
        mean = self.means(tasks.tensors()).double().numpy()
        return {"floor": mean.mean(1), "informed_optimum": mean.max(1)}

    def bayes_optimal_return(self, episodes: int) -> float | None:
        """For one pull, the better one of the safe arm and the prior mean, 0; otherwise no exact value is known."""
        return max(self.safe, 0.0) if episodes == 1 else None

    def prior(self) -> tuple[Tensor, Tensor, Tensor]:
        """As in `GaussianBandit`. The safe arm is known: its standard deviations are 0."""
        hidden = (torch.arange(self.k) > 0).float()
        return self.safe * (1.0 - hidden), self.mean_std * hidden, self.noise_std * hidden

    def queries(self) -> Queries:
        """A pull of each arm."""
        return pulls_of_each(self.k)

    def posterior(self, seen: History) -> Tensor:
        """The means of the normal distributions of the arms' means; see `posterior_means`."""
        return posterior_means(self.prior(), seen)

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the arms as in `GaussianBandit`, with a line at the reward of the safe arm, which is the left one."""
        means = np.concatenate([[self.safe], task["mean"]])
        noise = np.concatenate([[0.0], np.full(self.k - 1, self.noise_std)])
        _draw(axes, means, noise, max(3.0 * self.mean_std + self.noise_std, abs(self.safe)))
        axes.axhline(self.safe, color="tab:green", linewidth=1.5, linestyle="--")


def posterior_means(prior: tuple[Tensor, Tensor, Tensor], seen: History) -> Tensor:
    """The exact posterior mean of each arm's mean before each step, `float64 [T, R, k]`.

    After n pulls that paid x on average, it lies between the prior's mean and x, at the share n s^2 / (n s^2 + noise^2)
    of the way, where s is the prior's standard deviation.

    Args:
        prior: means and standard deviations of the arms' means, and those of the rewards, `[k]` each.
        seen: the trials so far.
    """
    mean, std, noise = (v.double() for v in prior)
    pulled = torch.nn.functional.one_hot(seen.action, len(mean)).double() * seen.valid.unsqueeze(-1)
    paid = pulled * seen.reward.unsqueeze(-1)
    n, total = (sums.cumsum(0) - sums for sums in (pulled, paid))  # before the step
    known, unknown = n * std.square(), noise.square()
    share = torch.where(known > 0, known / (known + unknown).clamp_min(1e-300), 0.0)
    return mean + share * (total / n.clamp_min(1.0) - mean)


def _draw(axes: Axes, means: npt.NDArray[Any], noise: npt.NDArray[Any], reach: float) -> None:
    """Draw means `[k]` as bars, the largest one in orange, with standard deviations `[k]`."""
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
