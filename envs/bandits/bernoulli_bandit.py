"""Bernoulli bandits: k arms pay 1 with hidden probabilities.

Duan et al. (2016, arXiv:1611.02779, section 3.1). Every pull is an episode of one step; a trial has n pulls.

Observation: the constant 0, `[1]`. Action: which arm. Reward: 1 with probability p[arm], else 0. End: every pull
terminates its episode. Task: p, uniform on [0, 1]^k. Presets: "k10", "k50". Version history: v0, first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.families.distributions import Uniform
from metarl.families.family import History, Queries, TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_BAYES_STATES = 400_000  # largest number of states that `bayes_value` is called for


class BernoulliBandit(TorchFamily):
    """A bandit with k independent arms, each of which pays 1 with its own hidden probability, else 0.

    Args:
        k: number of arms.
    """

    source = "Duan et al. 2016, arXiv:1611.02779"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"k10": {"k": 10}, "k50": {"k": 50}}
    observation_space = Box(0.0, 1.0, (1,), np.float32)
    horizon = 1

    def __init__(self, k: int = 5) -> None:
        if not (isinstance(k, int) and k >= 1):
            raise InvalidValueError("BernoulliBandit.k", k, "a whole number of arms, at least 1")
        self.k = k
        self.action_space = Discrete(k)
        self.task_space = {"p": Uniform(0.0, 1.0, (k,))}
        self.ood = {"hard": {"p": Uniform(0.45, 0.55, (k,))}}

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """The constant observation, `[N, 1]`."""
        return torch.zeros_like(task["p"][:, :1])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The constant observation, `[N, 1]`."""
        return state

    def step(
        self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Pull arm `action`, `int64 [N]`."""
        p = task["p"].gather(1, action.unsqueeze(1)).squeeze(1)
        reward = (rng.uniform() < p).float()
        return state, reward, torch.ones_like(reward, dtype=torch.bool), {"expected_reward": p}

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The best arm."""
        return task["p"].argmax(-1)

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """The floor is the mean of the arms, and the informed optimum the best arm, for one pull."""
        p = tasks.values["p"].astype(np.float64)
        return {"floor": p.mean(1), "informed_optimum": p.max(1)}

    def bayes_optimal_return(self, episodes: int) -> float | None:
        """The exact value by `bayes_value`; None if it would have more than `MAX_BAYES_STATES` states."""
        return bayes_value(episodes, self.k) if bayes_states(episodes, self.k) <= MAX_BAYES_STATES else None

    def queries(self) -> Queries:
        """A pull of each arm."""
        return pulls_of_each(self.k)

    def posterior(self, seen: History) -> Tensor:
        """The means (s + 1) / (n + 2) of the Beta distributions of arms that paid 1 in s of n pulls."""
        pulled = torch.nn.functional.one_hot(seen.action, self.k).double() * seen.valid.unsqueeze(-1)
        paid = pulled * seen.reward.unsqueeze(-1)
        n, s = (counts.cumsum(0) - counts for counts in (pulled, paid))  # before the step
        return (s + 1.0) / (n + 2.0)

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the arms' probabilities, the best one in orange."""
        draw_arms(axes, task["p"])


def pulls_of_each(k: int) -> Queries:
    """What a belief about a bandit is asked: a pull of each of its arms."""
    obs, arms = torch.zeros(k, 1), torch.arange(k)
    return Queries(obs, arms, obs, arms)


def draw_arms(axes: Axes, p: npt.NDArray[Any]) -> None:
    """Draw probabilities `[k]` as bars between lines at 0 and 1, the largest one in orange."""
    axes.bar(range(len(p)), p, color=["tab:orange" if i == p.argmax() else "tab:blue" for i in range(len(p))])
    axes.hlines([0, 1], -0.6, len(p) - 0.4, color="0.6", linewidth=1)
    axes.set(xlim=(-0.6, len(p) - 0.4), ylim=(-0.05, 1.05), aspect="auto")


def bayes_states(n: int, k: int) -> int:
    """The number of multisets of k arms' counts with at most n - 1 pulls in all. Arms are exchangeable."""
    # an arm with j pulls has j + 1 states; a generating function counts multisets of arms by their total pulls
    ways = np.zeros((k + 1, n), dtype=object)  # [arms that were pulled, pulls]
    ways[0, 0] = 1
    for j in range(1, n):
        for _ in range(j + 1):  # each of these states may occur any number of times
            for arms in range(1, k + 1):
                ways[arms, j:] = ways[arms, j:] + ways[arms - 1, : n - j]
            if ways.sum() > 100 * MAX_BAYES_STATES:
                return int(ways.sum())
    return int(ways.sum())


@lru_cache(maxsize=32)
def bayes_value(n: int, k: int) -> float:
    """The exact Bayes-optimal expected reward of n pulls of k arms under uniform priors.

    V(n left, {(s_i, f_i)}) = max_i m_i (1 + V(after a success)) + (1 - m_i) V(after a failure), with the posterior
    mean m_i = (s_i + 1) / (s_i + f_i + 2); arms are exchangeable, so their counts are kept sorted.
    """
    fresh = ((0, 0),) * k
    layers = [{fresh}]
    for _ in range(n - 1):
        layers.append({after for counts in layers[-1] for pair in _children(counts) for after in pair[1:]})
    value: dict[tuple[tuple[int, int], ...], float] = {}
    for layer in reversed(layers):
        value = {
            counts: max(
                m * (1.0 + value.get(win, 0.0)) + (1.0 - m) * value.get(lose, 0.0) for m, win, lose in _children(counts)
            )
            for counts in layer
        }
    return value[fresh]


def _children(
    counts: tuple[tuple[int, int], ...],
) -> list[tuple[float, tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]]:
    """For each distinct arm: its posterior mean, and the sorted counts after a success and after a failure."""
    out = []
    for i, (s, f) in enumerate(counts):
        if i and counts[i - 1] == (s, f):
            continue
        rest = counts[:i] + counts[i + 1 :]
        win, lose = tuple(sorted((*rest, (s + 1, f)))), tuple(sorted((*rest, (s, f + 1))))
        out.append(((s + 1) / (s + f + 2), win, lose))
    return out
