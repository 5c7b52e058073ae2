"""UCRL2: optimism in a set of plausible MDPs, by extended value iteration.

Jaksch, Ortner and Auer (2010, JMLR 11, figures 1 and 2); a baseline of Duan et al. (2016, arXiv:1611.02779, section
3.2). With t the number of the coming step, N(s, a) observations, delta = .05 and `confidence` c, the set is

    |R'(s, a) - R(s, a)|         <= c sqrt(7 log(2 S A t / delta) / (2 max(1, N(s, a))))             (equation 3)
    ||P'(s, a, .) - P(s, a, .)||_1 <= c sqrt(14 S log(2 A t / delta) / max(1, N(s, a)))                (equation 4)

c = 1 is the paper's, whose rewards are in [0, 1]; so wide a set is still uninformed after a hundred steps.
Differences from the paper: horizons are finite; the plan is made anew at every episode's start, which replaces the
rule of doubled visits; R and P are posterior means (see `metarl.agents.classical.tabular`), so that a small c keeps a
sensible model of what was never tried; N counts rewards in the first line and transitions in the second, because the
transition out of an episode's last step is not seen.

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
_ROWS = 1000  # rows of a chunk that stays in the cache


@dataclass(frozen=True)
class UCRL2Config(TabularConfig):
    """Hyperparameters."""

    confidence: Annotated[float, Range(0, 1e6)] = 0.02
    """Factor c on both radii; 1 is the paper's, 0.02 the best of a search at 10 and at 25 episodes of TabularMDP-v0."""


class UCRL2(TabularAgent):
    """Plays optimally in the best MDP that the confidence set holds."""

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


def radii(visits: Tensor, leavings: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """Radii of the set in rewards and in transitions (equations 3 and 4, above): both `[R, S, A]`.

    Args:
        visits: rewards seen, `[R, S, A]`.
        leavings: transitions seen, `[R, S, A]`.
        confidence: c.
    """
    states, actions = visits.shape[1:]
    log_t = torch.log1p(visits.sum((1, 2), keepdim=True))  # t = steps so far + 1
    reward = 3.5 * (math.log(2 * states * actions / DELTA) + log_t) / visits.clamp_min(1.0)
    transition = 14.0 * states * (math.log(2 * actions / DELTA) + log_t) / leavings.clamp_min(1.0)
    return confidence * reward.sqrt(), confidence * transition.sqrt()


def extended_values(reward: Tensor, transition: Tensor, radius: Tensor, horizon: int) -> Tensor:
    """Action values with the most optimistic transitions at every step: `[R, H, S, A]`.

    Args:
        reward: the most optimistic, `[R, S, A]`.
        transition: the middle of the set, `[R, S, A, S]`.
        radius: L1 radius, `[R, S, A]`.
        horizon: number of steps H.
    """

    def backup(value: Tensor) -> Tensor:
        return reward + optimistic_mean(transition, radius, value)

    return value_iteration(backup, torch.zeros_like(reward[..., 0]), horizon)


def optimistic_mean(transition: Tensor, radius: Tensor, value: Tensor) -> Tensor:
    """The largest mean sum_s' p(s') V(s') of distributions p with ||p - P(s, a, .)||_1 <= radius (figure 2).

    Sort the states by value, V_1 >= ... >= V_S. The best p adds radius / 2 to state 1, at most up to 1, and takes what
    is too much from the worst states first; so its first i states have the mass F'_i = min(1, F_i + radius / 2), where
    F_i is theirs under P. Summed by parts, the mean is V_S + sum_{i < S} F'_i (V_i - V_{i+1}).

    Args:
        transition: P, `[R, S, A, S]`.
        radius: `[R, S, A]`.
        value: V, `[R, S]`.

    Returns:
        `[R, S, A]`.
    """
    ranked = value.sort(-1, descending=True).values
    # of states with equal values all or none are counted: F is then wrong only where the gap after it is 0
    above = (value.unsqueeze(2) >= ranked[:, None, :-1]).float()  # [R, S, i]
    mass = torch.bmm(transition.flatten(1, 2), above)  # F: [R, S * A, i]
    mass = mass.add_(0.5 * radius.flatten(1).unsqueeze(2)).clamp_(max=1.0)
    gap = (ranked[:, :-1] - ranked[:, 1:]).unsqueeze(2)
    return torch.bmm(mass, gap).view_as(radius) + ranked[:, -1, None, None]
