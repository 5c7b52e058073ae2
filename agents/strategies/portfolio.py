"""What the selectors share: a portfolio of agents that all live through a trial, one of whom plays."""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

import metarl
from metarl.agent import (
    Agent,
    AgentState,
    Family,
    Feedback,
    InvalidValueError,
    Rng,
    Step,
    Tasks,
    adapts_between_episodes,
    make_agent,
)

CLASSICAL = ("thompson_sampling", "ucb1", "greedy", "psrl", "ucrl2", "greedy_mdp")
ConfigT = TypeVar("ConfigT")


class Portfolio(Agent[ConfigT]):
    """Several agents learn from every step, whoever acts. A subclass decides who plays the next episode.

    Its config has `members`.
    """

    is_recurrent = True
    takes: ClassVar[str] = "a family that its members take; without members, a bandit or a tabular MDP"

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.members = [self._member(name) for name in config.members] or self._classical()

    @abstractmethod
    def choice(self, rows: int) -> AgentState:
        """At a trial's start, `[R, ...]`: `chosen`, the number of the member who plays, and what decides the next."""

    @abstractmethod
    def choose(self, state: AgentState, reward: Tensor, ended: Tensor) -> AgentState:
        """After a step, what `choice` returns.

        Args:
            state: what it returned before the step.
            reward: of the step, `[R]`.
            ended: whether the episode ended with it, `bool [R]`.
        """

    def _classical(self) -> list[Agent]:
        found = []
        for name in CLASSICAL:
            try:
                found.append(make_agent(name, self.family, seed=self.seed, device=self.device.type))  # type: ignore[arg-type]
            except InvalidValueError:
                continue
        if not found:
            raise InvalidValueError(f"family of {self.name}", self.family.id, self.takes)
        return found

    def _member(self, name: str) -> Agent:
        """An agent by its name, or that of a run directory."""
        if Path(name).is_dir():
            member = metarl.load(name, self.device.type)  # type: ignore[arg-type]
            if member.family.id != self.family.id:
                raise InvalidValueError(f"family of {name}, a member of {self.name}", member.family.id, self.family.id)
        else:
            member = make_agent(name, self.family, seed=self.seed, device=self.device.type)  # type: ignore[arg-type]
            if member.learns:
                expected = f"a run directory, because {name} must be trained"
                raise InvalidValueError(f"{self.name}.members", name, expected)
        if member.privileged or adapts_between_episodes(type(member)):
            expected = "agents that are not shown the task, and that act and learn step by step or not at all"
            raise InvalidValueError(f"{self.name}.members", name, expected)
        return member

    # --- acting ------------------------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The members' states as `NUMBER.NAME`, and the choice."""
        states = {f"{i}.{k}": v for i, member in enumerate(self.members) for k, v in member.begin(rows).items()}
        return states | self.choice(rows)

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """All members act, and the environment is given the action of the chosen one."""
        actions = []
        for i, member in enumerate(self.members):
            action, _, own = member.act(_of(state, i), step, rng.fork(), deterministic)
            state = state | {f"{i}.{k}": v for k, v in own.items()}
            actions.append(member.to_env(action.flatten(0, 1)).view(*action.shape[:2], *action.shape[2:]))
            if not bool(actions[-1].isfinite().all()):
                what = f"action of {member.name}, member {i + 1} of {self.name}"
                raise InvalidValueError(what, math.nan, "finite numbers (has its training diverged?)")
        stacked = torch.stack(actions)  # [members, R, 1, ...]
        rows = torch.arange(stacked.shape[1], device=stacked.device)
        return stacked[state["chosen"], rows], {"chosen": state["chosen"].unsqueeze(1)}, state

    def to_env(self, action: Tensor) -> Tensor:
        """The members' actions are the environment's already."""
        return action

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """All members learn; then it is chosen who plays the next step."""
        new: AgentState = {}
        for i, member in enumerate(self.members):
            head = getattr(member, "head", None)
            action = feedback.action if head is None else head.from_env(feedback.action)
            own = member.observe(_of(state, i), feedback._replace(action=action), active)
            new |= {f"{i}.{k}": v for k, v in own.items()}
        before = {k: v for k, v in state.items() if "." not in k}
        ended = (feedback.terminated | feedback.truncated)[:, 0]
        after = self.choose(before, feedback.reward[:, 0], ended)
        kept = torch.ones_like(ended) if active is None else active[:, 0]
        return new | {k: torch.where(_like(kept, v), after[k], v) for k, v in before.items()}


def _of(state: AgentState, member: int) -> AgentState:
    """A member's part of the state."""
    start = f"{member}."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def _like(rows: Tensor, values: Tensor) -> Tensor:
    """`[R]` as `[R, 1, ...]`, to be used beside `values`."""
    return rows.view(-1, *[1] * (values.dim() - 1))
