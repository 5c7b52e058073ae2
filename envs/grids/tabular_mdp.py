"""Random tabular MDPs: transitions and rewards are hidden and drawn from a flat prior.

Duan et al. (2016, arXiv:1611.02779, section 3.2), after Osband et al. (2013).

Observation: one-hot state, `[10]`. Action: one of 5. Transition: P(s, a, .) ~ Dirichlet(1). Reward: N(R(s, a), 1) with
R(s, a) ~ N(1, 1). Start: state 0. End: none before the horizon of 10. Version history: v0, first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.families.distributions import FlatDirichlet, Normal
from metarl.families.family import History, Queries, TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class TabularMDP(TorchFamily):
    """A finite MDP whose hidden transitions and rewards are drawn at random.

    Args:
        states: number of states.
        actions: number of actions.
        horizon: steps per episode.
    """

    source = "Duan et al. 2016, arXiv:1611.02779"
    terminates = False
    reward_std = 1.0

    def __init__(self, states: int = 10, actions: int = 5, horizon: int = 10) -> None:
        for name, value in (("states", states), ("actions", actions), ("horizon", horizon)):
            if not (isinstance(value, int) and value >= 1):
                raise InvalidValueError(f"TabularMDP.{name}", value, "a whole number, at least 1")
        self.states, self.actions, self.horizon = states, actions, horizon
        self.observation_space = Box(0.0, 1.0, (states,), np.float32)
        self.action_space = Discrete(actions)
        self.task_space = {
            "transition": FlatDirichlet((states, actions, states)),
            "reward": Normal(1.0, 1.0, (states, actions)),
        }

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """State 0: `int64 [N]`."""
        return torch.zeros_like(task["reward"][:, 0, 0], dtype=torch.int64)

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """One-hot, `[N, states]`."""
        return (state.unsqueeze(1) == torch.arange(self.states, device=state.device)).float()

    def step(
        self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Draw the reward, then the next state."""
        env = torch.arange(len(state), device=state.device)
        mean = task["reward"][env, state, action]
        reward = mean + self.reward_std * rng.normal()
        return (
            rng.categorical(task["transition"][env, state, action]),
            reward,
            torch.zeros_like(reward, dtype=torch.bool),
            {"expected_reward": mean},
        )

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The action with the largest finite-horizon value. The values are computed at each call."""
        q = self.action_values(task)  # [N, H, S, A]
        return q[torch.arange(len(state), device=state.device), t, state].argmax(-1)

    def action_values(self, task: dict[str, Tensor]) -> Tensor:
        """Finite-horizon value iteration: Q_t(s, a) = R(s, a) + sum_s' P(s, a, s') max_a' Q_{t+1}(s', a').

        Returns:
            `[N, horizon, states, actions]`, from the first step to the last.
        """
        transition, reward = task["transition"], task["reward"]
        q = [reward]
        for _ in range(self.horizon - 1):
            q.append(reward + torch.einsum("nsat,nt->nsa", transition, q[-1].amax(-1)))
        return torch.stack(q[::-1], 1)

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """The floor of random actions and the informed optimum, both by dynamic programming."""
        task = {k: v.double() for k, v in tasks.tensors().items()}
        best = self.action_values(task)[:, 0, 0].amax(-1)
        transition, reward = task["transition"].mean(2), task["reward"].mean(2)  # under uniform actions
        value = torch.zeros_like(reward)
        for _ in range(self.horizon):
            value = reward + torch.einsum("nst,nt->ns", transition, value)
        return {"floor": value[:, 0].numpy(), "informed_optimum": best.numpy()}

    def queries(self) -> Queries:
        """Each action in each state, in a step that stays in the state (where a step leads does not matter)."""
        state = torch.eye(self.states).repeat_interleave(self.actions, 0)
        action = torch.arange(self.actions).repeat(self.states)
        return Queries(state, action, state, torch.arange(len(action)))

    def posterior(self, seen: History) -> Tensor:
        """The normal posterior's means (1 + sum of rewards) / (1 + n) of R(s, a), if the noise's deviation is 1."""
        pair = seen.obs.argmax(-1) * self.actions + seen.action
        taken = torch.nn.functional.one_hot(pair, self.states * self.actions).double() * seen.valid.unsqueeze(-1)
        paid = taken * seen.reward.unsqueeze(-1)
        n, total = (v.cumsum(0) - v for v in (taken, paid))  # before the step
        noise = self.reward_std**2
        return (1.0 + total / noise) / (1.0 + n / noise)

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the states on a circle, with a ring around the present one.

        A state is green if its best action has a large mean reward, and red if that reward is small. The width of a
        line is the largest probability of the next state under any action.
        """
        angle = np.pi / 2 - 2 * np.pi * np.arange(self.states) / self.states
        x, y, now = np.cos(angle), np.sin(angle), int(state)
        for other, p in enumerate(task["transition"][now].max(0)):
            axes.plot([x[now], x[other]], [y[now], y[other]], color="0.65", linewidth=12 * p, zorder=1)
        best, size = task["reward"].max(1), min(600.0, 12_000.0 / self.states)
        edges = ["black" if i == now else "white" for i in range(self.states)]
        axes.scatter(x, y, size, best, cmap="RdYlGn", vmin=0.0, vmax=4.0, edgecolors=edges, linewidths=4, zorder=2)
        axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
