"""UCRL2: optimism in a set of plausible MDPs, by extended value iteration.

Jaksch, Ortner and Auer (2010, JMLR 11, figures 1 and 2); a baseline of Duan et al. (2016, arXiv:1611.02779, section
3.2). With t the number of the coming step, N(s, a) observations, delta = .05 and `confidence` c, the set is

    |R'(s, a) - R(s, a)|         <= c sqrt(7 log(2 S A t / delta) / (2 max(1, N(s, a))))             (equation 3)
    ||P'(s, a, .) - P(s, a, .)||_1 <= c sqrt(14 S log(2 A t / delta) / max(1, N(s, a)))                (equation 4)

The paper has c = 1 and rewards in [0, 1]. A set of that width still says little after a hundred steps.
Differences from the paper: horizons are finite; the agent plans at the start of every episode, instead of when visits
have doubled; R and P are posterior means (see `metarl.agents.classical.tabular`), so that a small c keeps a sensible
model of actions that were never tried; N counts rewards in equation 3 and transitions in equation 4, because the agent
does not observe the transition of an episode's last step.

    metarl eval ucrl2 --family metarl/TabularMDP-v0 --k 10 --num-tasks 2000 --episodes 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import AgentState, Family, Range, Rng
from metarl.agents.classical.tabular import TabularAgent, TabularConfig, mean_reward, mean_transition, value_iteration

DELTA = 0.05
_ROWS = 1000  # rows per chunk, so that a chunk fits the cache


@dataclass(frozen=True)
class UCRL2Config(TabularConfig):
    """The prior, and the width of the confidence set."""

    confidence: Annotated[float, Range(0, 1e6)] = 0.02
    """Factor c on both radii. The paper has 1; 0.02 was the best of a search at 10 and 25 episodes of TabularMDP-v0."""


class UCRL2(TabularAgent):
    """UCRL2 plays the optimal policy of the most optimistic MDP in its confidence set."""

    name = "ucrl2"
    Config = UCRL2Config

    def __init__(self, family: Family, config: UCRL2Config, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)

    def plan(self, state: AgentState, rng: Rng) -> Tensor:
        """Extended value iteration: `[R, H, S, A]`."""
        config, horizon = self.config, self.family.horizon
        reward_radius, radius = radii(state["visits"], state["transitions"].sum(-1), config.confidence)
        reward, transition = mean_reward(state, config.prior_mean) + reward_radius, mean_transition(state)
        chunks = [slice(i, i + _ROWS) for i in range(0, len(reward), _ROWS)]
        return torch.cat([extended_values(reward[c], transition[c], radius[c], horizon) for c in chunks])


def radii(visits: Tensor, transitions: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """Radii of the confidence set for rewards and transitions (equations 3 and 4), both `[R, S, A]`.

    Args:
        visits: number of observed rewards, `[R, S, A]`.
        transitions: number of observed transitions, `[R, S, A]`.
        confidence: factor c.
    """
    states, actions = visits.shape[1:]
    log_t = torch.log1p(visits.sum((1, 2), keepdim=True))  # t = steps so far + 1
    reward = 3.5 * (math.log(2 * states * actions / DELTA) + log_t) / visits.clamp_min(1.0)
    transition = 14.0 * states * (math.log(2 * actions / DELTA) + log_t) / transitions.clamp_min(1.0)
    return confidence * reward.sqrt(), confidence * transition.sqrt()


def extended_values(reward: Tensor, transition: Tensor, radius: Tensor, horizon: int) -> Tensor:
    """Action values with the most optimistic transitions at every step: `[R, H, S, A]`.

    Args:
        reward: the most optimistic rewards, `[R, S, A]`.
        transition: the centre of the set of transitions, `[R, S, A, S]`.
        radius: L1 radius of that set, `[R, S, A]`.
        horizon: number of steps H.
    """

    def backup(value: Tensor) -> Tensor:
        return reward + optimistic_mean(transition, radius, value)

    return value_iteration(backup, torch.zeros_like(reward[..., 0]), horizon)


def optimistic_mean(transition: Tensor, radius: Tensor, value: Tensor) -> Tensor:
    """The largest mean sum_s' p(s') V(s') of distributions p with ||p - P(s, a, .)||_1 <= radius (figure 2).

    Sort the states by value, V_1 >= ... >= V_S. The best p adds radius / 2 to the probability of state 1, up to 1, and
    takes the same mass from the worst states first. So its first i states have the mass F'_i = min(1, F_i + radius
    / 2), where F_i is their mass under P. Summation by parts gives the mean V_S + sum_{i < S} F'_i (V_i - V_{i+1}).

    Args:
        transition: P, `[R, S, A, S]`.
        radius: `[R, S, A]`.
        value: V, `[R, S]`.

    Returns:
        `[R, S, A]`.
    """
    ranked = value.sort(-1, descending=True).values
    # all or none of the states with equal values are counted, so F is wrong only where the gap after it is 0
    above = (value.unsqueeze(2) >= ranked[:, None, :-1]).float()  # [R, S, i]
    mass = torch.bmm(transition.flatten(1, 2), above)  # F: [R, S * A, i]
    mass = mass.add_(0.5 * radius.flatten(1).unsqueeze(2)).clamp_(max=1.0)
    gap = (ranked[:, :-1] - ranked[:, 1:]).unsqueeze(2)
    return torch.bmm(mass, gap).view_as(radius) + ranked[:, -1, None, None]
