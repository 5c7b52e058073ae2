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
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

import metarl
from metarl.agent import (
    Agent,
    AgentState,
    Family,
    Feedback,
    InvalidValueError,
    Range,
    Rng,
    Step,
    Tasks,
    adapts_between_episodes,
    make_agent,
)

CLASSICAL = ("thompson_sampling", "ucb1", "greedy", "psrl", "ucrl2", "greedy_mdp")
_OWN = ("chosen", "tried", "paid", "return", "low", "high", "left", "epoch")


@dataclass(frozen=True)
class SelectorConfig:
    """The portfolio, and how it is explored."""

    members: tuple[str, ...] = ()
    """Names of agents that need no training, or run directories of trained ones. Without any: those of
    thompson_sampling, ucb1 and greedy, or of psrl, ucrl2 and greedy_mdp, that take the family."""
    exploration: Annotated[float, Range(0, 1e6)] = 0.25
    """xi of UCB1: a member's score is its mean return + sqrt(xi ln n / n_i). Returns are scaled to [0, 1] by the least
    and the largest of the trial so far."""


class Selector(Agent[SelectorConfig]):
    """A bandit over the members of a portfolio chooses who plays the next episode."""

    name = "selector"
    Config = SelectorConfig
    is_recurrent = True
    learns = False
    takes = "a family that its members take; without members, a bandit or a tabular MDP"

    def __init__(
        self, family: Family, config: SelectorConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(family, config, seed, device)
        self.members = [self._member(name) for name in config.members] or self._classical()
        self.has_learned = any(member.learns for member in self.members)

    def _classical(self) -> list[Agent]:
        found = []
        for name in CLASSICAL:
            try:
                found.append(make_agent(name, self.family, seed=self.seed, device=self.device.type))  # type: ignore[arg-type]
            except InvalidValueError:
                continue
        if not found:
            raise InvalidValueError("family of selector", self.family.id, Selector.takes)
        return found

    def _member(self, name: str) -> Agent:
        """An agent by its name, or that of a run directory."""
        if Path(name).is_dir():
            member = metarl.load(name, self.device.type)  # type: ignore[arg-type]
            if member.family.id != self.family.id:
                raise InvalidValueError(f"family of {name}, a member of selector", member.family.id, self.family.id)
        else:
            member = make_agent(name, self.family, seed=self.seed, device=self.device.type)  # type: ignore[arg-type]
            if member.learns:
                raise InvalidValueError("selector.members", name, f"a run directory, because {name} must be trained")
        if member.privileged or adapts_between_episodes(type(member)):
            expected = "agents that are not shown the task, and that act and learn step by step or not at all"
            raise InvalidValueError("selector.members", name, expected)
        return member

    # --- acting ------------------------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The members' states as `NUMBER.NAME`, and the bandit's.

        `chosen` plays; `tried` and `paid` are the episodes of each member in this epoch, and their returns; `low` and
        `high` the least and the largest return of the trial; `left` the episodes until `epoch` ends.
        """
        count, device = len(self.members), self.device
        state = {f"{i}.{k}": v for i, member in enumerate(self.members) for k, v in member.begin(rows).items()}
        zeros = torch.zeros(rows, device=device)
        own = {"chosen": torch.zeros(rows, dtype=torch.int64, device=device), "return": zeros}
        own |= {name: torch.zeros(rows, count, device=device) for name in ("tried", "paid")}
        own |= {"low": zeros + torch.inf, "high": zeros - torch.inf, "left": zeros + 1, "epoch": zeros.clone()}
        return state | own

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """All members act, and the environment is given the action of the chosen one."""
        actions = []
        for i, member in enumerate(self.members):
            action, _, own = member.act(_of(state, i), step, Rng(rng.keys), deterministic)
            state = state | {f"{i}.{k}": v for k, v in own.items()}
            actions.append(member.to_env(action.flatten(0, 1)).view(*action.shape[:2], *action.shape[2:]))
        stacked = torch.stack(actions)  # [members, R, 1, ...]
        rows = torch.arange(stacked.shape[1], device=stacked.device)
        return stacked[state["chosen"], rows], {"chosen": state["chosen"].unsqueeze(1)}, state

    def to_env(self, action: Tensor) -> Tensor:
        """The members' actions are the environment's already."""
        return action

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """All members learn; after an episode, the bandit is paid and chooses."""
        new: AgentState = {}
        for i, member in enumerate(self.members):
            head = getattr(member, "head", None)
            action = feedback.action if head is None else head.from_env(feedback.action)
            own = member.observe(_of(state, i), feedback._replace(action=action), active)
            new |= {f"{i}.{k}": v for k, v in own.items()}
        bandit = {name: state[name] for name in _OWN}
        ended = (feedback.terminated | feedback.truncated)[:, 0]
        told = paid(bandit, feedback.reward[:, 0], ended, self.config.exploration)
        kept = torch.ones_like(ended) if active is None else active[:, 0]
        return new | {k: torch.where(_like(kept, v), told[k], v) for k, v in bandit.items()}


def _of(state: AgentState, member: int) -> AgentState:
    """A member's part of the state."""
    start = f"{member}."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def _like(rows: Tensor, values: Tensor) -> Tensor:
    """`[R]` as `[R, 1, ...]`, to be used beside `values`."""
    return rows.view(-1, *[1] * (values.dim() - 1))


# --- the bandit over members -----------------------------------------------------------------------------------------


def paid(state: AgentState, reward: Tensor, ended: Tensor, exploration: float) -> AgentState:
    """The bandit's state after a step: where an episode ended, its return is paid and a member is chosen.

    Args:
        state: what `Selector.begin` describes.
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
