"""Selector: which of several learners plays is learned inside a trial, by a bandit over learners.

Laroche and Feraud (2018, arXiv:1701.08810, algorithm 1, ESBAS): epochs of doubling length; in an epoch UCB1 chooses a
member of the portfolio before each episode, and is paid its return. All members learn from every step, whoever acts.
Their paper freezes the members' policies within an epoch, because their members are trained between epochs; members
here learn at every step, as in their sliding variant (SSBAS, section 5). UCB1's counts begin anew in each epoch,
because members that learn do not stay as good as they were.

    metarl eval selector --family metarl/BernoulliBandit-v0 --k 100 --num-tasks 2000 --episodes 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import AgentState, Family, Range
from metarl.agents.strategies.portfolio import Portfolio


@dataclass(frozen=True)
class SelectorConfig:
    """The portfolio, and how it is explored."""

    members: tuple[str, ...] = ()
    """Names of agents that need no training, or run directories of trained ones. Without any: those of
    thompson_sampling, ucb1 and greedy, or of psrl, ucrl2 and greedy_mdp, that take the family."""
    exploration: Annotated[float, Range(0, 1e6)] = 0.25
    """xi of UCB1: a member's score is its mean return + sqrt(xi ln n / n_i). Returns are scaled to [0, 1] by the least
    and the largest of the trial so far."""


class Selector(Portfolio[SelectorConfig]):
    """A bandit over the members of a portfolio chooses who plays the next episode."""

    name = "selector"
    Config = SelectorConfig
    learns = False

    def __init__(
        self, family: Family, config: SelectorConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(family, config, seed, device)
        self.has_learned = any(member.learns for member in self.members)

    def choice(self, rows: int) -> AgentState:
        """The bandit's state.

        `chosen` plays; `tried` and `paid` are the episodes of each member in this epoch, and their returns; `low` and
        `high` the least and the largest return of the trial; `left` the episodes until `epoch` ends.
        """
        count, device = len(self.members), self.device
        zeros = torch.zeros(rows, device=device)
        own = {"chosen": torch.zeros(rows, dtype=torch.int64, device=device), "return": zeros}
        own |= {name: torch.zeros(rows, count, device=device) for name in ("tried", "paid")}
        return own | {"low": zeros + torch.inf, "high": zeros - torch.inf, "left": zeros + 1, "epoch": zeros.clone()}

    def choose(self, state: AgentState, reward: Tensor, ended: Tensor) -> AgentState:
        """After an episode, the bandit is paid and chooses."""
        return paid(state, reward, ended, self.config.exploration)


# --- the bandit over members -----------------------------------------------------------------------------------------


def paid(state: AgentState, reward: Tensor, ended: Tensor, exploration: float) -> AgentState:
    """The bandit's state after a step: where an episode ended, its return is paid and a member is chosen.

    Args:
        state: what `Selector.choice` describes.
        reward: of the step, `[R]`.
        ended: whether the episode ended with it, `bool [R]`.
        exploration: xi.
    """
    total = state["return"] + reward
    played = torch.nn.functional.one_hot(state["chosen"], state["tried"].shape[1]) * ended.unsqueeze(-1)
    new = {
        "tried": state["tried"] + played,
        "paid": state["paid"] + played * total.unsqueeze(-1),
        "return": torch.where(ended, 0.0, total),
        "low": torch.where(ended, torch.minimum(state["low"], total), state["low"]),
        "high": torch.where(ended, torch.maximum(state["high"], total), state["high"]),
    }
    left = state["left"] - ended.to(total)
    over = ended & (left <= 0)
    epoch = state["epoch"] + over.to(total)
    new |= {"epoch": epoch, "left": torch.where(over, 2.0**epoch, left)}
    new |= {name: torch.where(over.unsqueeze(-1), 0.0, new[name]) for name in ("tried", "paid")}
    best = ucb(new["tried"], new["paid"], new["low"], new["high"], exploration).argmax(-1)
    return new | {"chosen": torch.where(ended, best, state["chosen"])}


def ucb(tried: Tensor, paid: Tensor, low: Tensor, high: Tensor, exploration: float) -> Tensor:
    """UCB1's scores `[R, members]`; infinite for members that this epoch has not tried.

    Args:
        tried: episodes of each member, `[R, members]`.
        paid: sums of their returns, `[R, members]`.
        low: the least return so far, `[R]`.
        high: the largest, `[R]`.
        exploration: xi.
    """
    width = torch.where(high > low, high - low, 1.0).unsqueeze(-1)
    mean = (paid / tried.clamp_min(1.0) - low.unsqueeze(-1)) / width
    episodes = tried.sum(-1, keepdim=True).clamp_min(1.0)
    bonus = (exploration * episodes.log() / tried.clamp_min(1.0)).sqrt()
    return torch.where(tried > 0, mean + bonus, torch.inf)
